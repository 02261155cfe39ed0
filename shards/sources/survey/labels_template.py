"""The survey of the masks for people and as JSON, and as a labels file in which people name the classes."""

import textwrap
from typing import Any, Final

from shards.errors import SourceError, counted, listed, printable
from shards.format.label_files import labels_text, placeholder
from shards.format.labels import IGNORE, MAX_CLASSES, UNTINTED, LabelClass, Labels, chosen_colour
from shards.sources.layout_protocol import Source
from shards.sources.survey.label_survey import Survey

_SHOWN: Final = 300  # rows of the table
_SHOWN_UNREADABLE: Final = 5
_BINARY_HINT: Final = "these are the values of background (0) and foreground"
_WIDTH: Final = 116  # of a comment, characters


def survey_json(survey: Survey) -> dict[str, Any]:
    """Return the survey as a JSON object; ``class`` is what the layout's own labels call a value, or null."""
    owners = _owners(survey)

    def row(key: int | str, **more: Any) -> dict[str, Any]:
        kind, found = "value" if isinstance(key, int) else "color", survey.found[key]
        return {kind: key, "images": found.images, "pixels": found.pixels, "class": owners.get(key), **more}

    return {
        "layout": survey.source.layout,
        "masks": len(survey.source.pairs),
        "index_masks": survey.index_masks,
        "rgb_masks": survey.rgb_masks,
        "values": [row(key, color=survey.palette.get(key)) for key in survey.found if isinstance(key, int)],
        "colors": [row(key) for key in survey.found if isinstance(key, str)],
        "palettes_disagree": survey.palettes.json(),
        "unclaimed": list(survey.unclaimed),
        "own_labels": survey.source.labels is not None,
        "unreadable": [{"name": name, "problem": problem} for name, problem in survey.unreadable],
    }


def survey_text(survey: Survey) -> str:
    """Return the survey for people: a row for each value or colour."""
    source, owners = survey.source, _owners(survey)
    lines = [f"{counted(len(source.pairs), 'mask')}, layout {source.layout}: {source.reason}"]
    if survey.index_masks and survey.rgb_masks:
        lines.append(f"masks that hold values: {survey.index_masks}, RGB colours: {survey.rgb_masks}")
        lines.append("a set needs masks of one kind: convert those of the other")
    rows = [
        (
            str(key),
            f"{found.images:,}",
            f"{found.pixels:,}",
            survey.palette.get(key, "") if isinstance(key, int) else "",
            owners.get(key, "UNCLAIMED") if source.labels is not None else "",
        )
        for key, found in survey.found.items()
    ]
    what = "value" if survey.index_masks else "color"
    header = (
        what,
        "masks",
        "pixels",
        "palette" if survey.palette else "",
        "class" if source.labels is not None else "",
    )
    table = [header, *rows[:_SHOWN]]
    widths = [max(len(row[column]) for row in table) for column in range(len(header))]
    for row in table:
        cells = [cell.rjust(width) for cell, width in zip(row[:3], widths, strict=False)]
        cells += [cell.ljust(width) for cell, width in zip(row[3:], widths[3:], strict=True)]
        lines.append("  ".join(cells).rstrip())
    if len(rows) > _SHOWN:
        lines.append(f"... and {len(rows) - _SHOWN} more (all of them with --json)")
    if source.labels is not None and not survey.unclaimed:
        lines.append(
            f"the layout has {counted(len(source.labels), 'class', 'classes')} of its own, which claim all of these"
        )
    elif source.labels is not None:
        unclaimed = listed(map(str, survey.unclaimed), most=8)
        lines.append(
            f"the layout has {counted(len(source.labels), 'class', 'classes')} of its own; none claims {unclaimed}"
        )
    if survey.palettes.disagreeing:
        lines.append(survey.palettes.text())
    if is_binary(survey):
        lines.append(_binary_hint(source))
    elif IGNORE in survey.found and IGNORE not in owners:
        lines.append(
            f"{IGNORE} often stands for pixels that count nowhere; if so here, write ignore = {IGNORE} in a labels file"
        )
    lines += [f"not readable: {name}: {problem}" for name, problem in survey.unreadable[:_SHOWN_UNREADABLE]]
    if len(survey.unreadable) > _SHOWN_UNREADABLE:
        lines.append(f"not readable: {counted(len(survey.unreadable) - _SHOWN_UNREADABLE, 'more mask')}")
    return "\n".join(map(printable, lines))


def labels_template(survey: Survey) -> str:
    """Return a labels file to edit: the layout's own classes, and one with a placeholder name for every other value.

    Raises ``SourceError`` if some masks hold values and others colours, or there are more values than classes can be.
    """
    if survey.index_masks and survey.rgb_masks:
        raise SourceError(
            f"masks that hold values: {survey.index_masks}, RGB colours: {survey.rgb_masks}; labels are for one kind, "
            "convert the other masks first"
        )
    own = survey.source.labels
    if own is not None and own.rgb != bool(survey.rgb_masks):
        own = None  # of no use for these masks
    keys = list(survey.unclaimed) if own is not None else list(survey.found)
    classes = [] if own is None else list(own.classes)
    if len(classes) + len(keys) > MAX_CLASSES + (IGNORE in keys):
        raise SourceError(
            f"the masks hold {len(keys)} {'colours' if survey.rgb_masks else 'values'}; at most {MAX_CLASSES} classes "
            "are possible. Are these masks, or were they resized with interpolation?"
        )
    no_room = len(classes) + len(keys) > MAX_CLASSES  # for a class of 255, which is often no class
    taken = {each.color for each in classes}
    for key in keys:
        if key == IGNORE and no_room:
            continue
        colour = _colour_for(key, survey, len(classes), taken)
        taken.add(colour)
        name = placeholder(key if isinstance(key, int) else len(classes))
        if isinstance(key, int):
            classes.append(LabelClass(name=name, color=colour, values=(key,)))
        else:
            classes.append(LabelClass(name=name, color=colour, source_colors=(key,)))
    labels = Labels(
        classes=tuple(classes),
        ignore=() if own is None else own.ignore,
        ignore_colors=() if own is None else own.ignore_colors,
        foreground=() if own is None else own.foreground,
        boundary=() if own is None else own.boundary,
    )
    return labels_text(labels, comment=_comment(survey, keys, own=own is not None, no_room=no_room))


def _owners(survey: Survey) -> dict[int | str, str]:
    """Return the class, or "ignore", of each value and colour that the layout's own labels claim."""
    labels = survey.source.labels
    if labels is None:
        return {}
    owners: dict[int | str, str] = dict.fromkeys((*labels.ignore, *labels.ignore_colors), "ignore")
    for each in labels.classes:
        owners |= dict.fromkeys((*each.values, *each.source_colors), each.name)
    return owners


def is_binary(survey: Survey) -> bool:
    """Return whether the masks hold nothing but background and foreground, as far as values can tell."""
    return survey.source.labels is None and set(survey.found) in ({0, IGNORE}, {0, 1})


def split_options(source: Source) -> list[str]:
    """Return what ``build`` needs where nothing says which images are for training."""
    return [] if source.lists else ["--split", "random"]


def _binary_hint(source: Source) -> str:
    return " ".join([f"{_BINARY_HINT}: build with --labels binary", *split_options(source)])


def _colour_for(key: int | str, survey: Survey, number: int, taken: set[str]) -> str:
    """Return the colour of a class: the mask's own, if no other class has it, else one that differs from all.

    Without a palette, the value that most pixels have is left untinted: pictures of all else would drown in its colour.
    """
    if isinstance(key, str):
        return key
    colour = survey.palette.get(key)
    if colour is not None and (colour == UNTINTED or colour not in taken):
        return colour
    if colour is None and key != IGNORE and 2 * survey.found[key].pixels > sum(e.pixels for e in survey.found.values()):
        return UNTINTED
    return next(colour for step in range(1024) if (colour := chosen_colour(number + step)) not in taken)


def _comment(survey: Survey, keys: list[int | str], *, own: bool, no_room: bool) -> str:
    what = "colours" if survey.rgb_masks else "values"
    source = survey.source
    lines = [f"Labels of {printable(source.folder)}, written by petseg-shard labels; to be edited.", ""]
    if own:
        lines.append(f"The classes of the layout {source.layout}" + (", and:" if keys else "."))
    if keys:
        lines += [
            f"Each of these {what} has its own class with a placeholder for a name: write what it is. Classes of the",
            f"same thing can be joined (values = [1, 2], or colors), {what} that count nowhere go to ignore = [...].",
            f'Pictures tint a class in its color; with color = "{UNTINTED}" it stays as it is, as a background should.',
        ]
    lines += ["", "found: masks, pixels"]
    lines += [f"{key}: {survey.found[key].images:,}, {survey.found[key].pixels:,}" for key in keys]
    if survey.palettes.disagreeing:
        lines += ["", *textwrap.wrap(survey.palettes.text(), _WIDTH)]
    if is_binary(survey):
        lines += ["", f"{_binary_hint(source)}, without this file."]
    elif IGNORE in keys:
        room = f"it has no class below: there would be more than {MAX_CLASSES}" if no_room else "remove its class below"
        lines += [
            "",
            f"{IGNORE} often stands for pixels that were not labelled. If it does here, {room},",
            "and remove the # from this line:",
            f"ignore = {IGNORE}",
        ]
    return "\n".join(lines)
