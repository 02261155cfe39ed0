"""Labels by name (those built in) or from a TOML file; see docs/formats.md for what a labels file looks like."""

import re
import reprlib
import shlex
import unicodedata
from pathlib import Path
from typing import Any, Final

from shards.errors import UsageError, is_whole_number, option
from shards.format.builtin_labels import BUILTIN
from shards.format.labels import LabelClass, Labels, chosen_colour
from shards.store.addresses import expect_paths
from shards.store.byte_ranges import read_regular
from shards.store.text_files import TextError, decode_text, is_utf8, parse_toml, split_lines

_KEYS: Final = ("ignore", "foreground", "boundary", "class")
_SINGLE: Final = re.compile(r"^[ \t]*\[[ \t]*class[ \t]*\]", re.MULTILINE)
_PLACEHOLDER: Final = re.compile("class_[0-9]+")
_MOST_BYTES: Final = 1 << 20  # of a labels file; 255 classes take some tens of thousands
_CLASS_KEYS: Final = ("name", "value", "values", "color", "colors")


def find_labels(name: str) -> Labels:
    """Return the built-in labels of this name, or those in the TOML file of this path.

    Raises ``UsageError`` if there is neither, or the file has a mistake; the message names the file and what to change.
    """
    if name in BUILTIN:
        return BUILTIN[name]
    expect_paths(**{option("labels"): name})
    path = Path(name)
    if not path.is_file():
        if path.suffix == ".toml":
            what = "is not a file" if path.exists() else "there is no such file"
            raise UsageError(
                f"{option('labels', name)}: {what}; petseg-shard labels SOURCE -o {shlex.quote(name)} writes one"
            )
        known = ", ".join(BUILTIN)
        raise UsageError(f"{option('labels', name)}: neither a labels file nor one of the built-in labels ({known})")
    try:
        return parse_labels(_read(path))
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror})") from None
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from None


def _read(path: Path) -> str:
    """Return the text of a labels file; it has no file names, so other encodings are no use."""
    try:
        text = decode_text(read_regular(path, most=_MOST_BYTES))
    except TextError as error:
        raise UsageError(f"line {error.line}: {error}") from None
    for number, line in enumerate(split_lines(text), start=1):
        if not is_utf8(line):
            raise UsageError(f"line {number} is not UTF-8; save the file as UTF-8")
    return "\n".join(split_lines(text))


def parse_labels(text: str) -> Labels:
    """Return the labels that the text of a labels file describes; raise ``UsageError`` if it has a mistake."""
    try:
        document = parse_toml(text)
    except ValueError as error:
        hint = " (write [[class]] with two brackets)" if _SINGLE.search(text) else ""
        raise UsageError(f"not valid TOML: {error}{hint}") from None
    _refuse_unknown(document, _KEYS, "the labels file")
    entries = document.get("class", [])
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise UsageError("write each class as its own [[class]], with a name and a value")
    ignored = _listed(document.get("ignore", []))
    classes = tuple(_class(entry, number) for number, entry in enumerate(entries))
    labels = Labels(
        classes=classes,
        ignore=tuple(value for value in ignored if not isinstance(value, str)),
        ignore_colors=tuple(value.lower() for value in ignored if isinstance(value, str)),
        foreground=_names(document, "foreground", classes),
        boundary=_names(document, "boundary", classes),
    )
    for value in labels.ignore:
        _expect_int(value, "ignore")
    labels.check()
    return labels


def labels_text(labels: Labels, *, comment: str = "") -> str:
    """Return the text of a labels file; :func:`parse_labels` reads it back as the same labels."""
    lines = [f"# {line}".rstrip() for line in comment.splitlines()]
    ignored = [*map(str, labels.ignore), *map(_quoted, labels.ignore_colors)]
    if ignored:
        lines.append(f"ignore = [{', '.join(ignored)}]")
    for what, names in (("foreground", labels.foreground), ("boundary", labels.boundary)):
        if names:
            lines.append(f"{what} = [{', '.join(map(_quoted, names))}]")
    for each in labels.classes:
        lines += ["", "[[class]]", f"name = {_quoted(each.name)}"]
        if len(each.values) == 1:
            lines.append(f"value = {each.values[0]}")
        elif each.values:
            lines.append(f"values = {list(each.values)}")
        if each.source_colors:
            lines.append(f"colors = [{', '.join(map(_quoted, each.source_colors))}]")
        if not each.source_colors or each.color != each.source_colors[0]:
            lines.append(f"color = {_quoted(each.color)}")
    return "\n".join(lines).lstrip("\n") + "\n"


def placeholder(number: int) -> str:
    """Return the name that ``petseg-shard labels`` gives to a class whose meaning only the user knows."""
    return f"class_{number}"


def has_placeholders(labels: Labels) -> bool:
    """Return whether every class still has such a name."""
    return all(_PLACEHOLDER.fullmatch(name) for name in labels.names)


def _class(entry: dict[str, Any], number: int) -> LabelClass:
    name = entry.get("name")
    if not isinstance(name, str):
        raise UsageError(f'class number {number + 1} has no name; write name = "..." below [[class]]')
    what = f"class {name!r}"
    _refuse_unknown(entry, _CLASS_KEYS, what)
    if "value" in entry and "values" in entry:
        raise UsageError(f"{what} has both value and values; give one of them")
    values = _listed(entry.get("values", entry.get("value", [])))
    for value in values:
        _expect_int(value, what)
    color = entry.get("color")
    colors = [color, *_listed(entry.get("colors", []))] if color is not None else _listed(entry.get("colors", []))
    if not all(isinstance(each, str) for each in colors):
        raise UsageError(f'{what}: colours are written as "#rrggbb"')
    colors = [each.lower() for each in colors]
    if "colors" in entry and values:
        raise UsageError(f"{what} has values and colors; colors is for RGB masks, whose classes have no values")
    sources = [each.lower() for each in _listed(entry["colors"])] if "colors" in entry else colors
    return LabelClass(
        name=name,
        color=colors[0] if colors else chosen_colour(number),
        values=tuple(values),
        source_colors=() if values else tuple(sources),
    )


def _names(document: dict[str, Any], key: str, classes: tuple[LabelClass, ...]) -> tuple[str, ...]:
    """Return the names of classes that a key lists, in the Unicode form of the classes."""
    names = _listed(document.get(key, []))
    if not all(isinstance(name, str) for name in names):
        raise UsageError(f'{key}: give names of classes, such as {key} = ["cat"]')
    forms = {unicodedata.normalize("NFC", each.name): each.name for each in classes}
    return tuple(forms.get(unicodedata.normalize("NFC", name), name) for name in names)


def _refuse_unknown(table: dict[str, Any], known: tuple[str, ...], what: str) -> None:
    for key in table:
        if key in _KEYS and known is _CLASS_KEYS:
            raise UsageError(f"{key} stands below the [[class]] of {what}; move it above the first [[class]]")
        if key not in known:
            raise UsageError(f"{what} has an unknown key {reprlib.repr(key)}; known are {', '.join(known)}")


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _expect_int(value: Any, what: str) -> None:
    if not is_whole_number(value):
        raise UsageError(f"{what}: {reprlib.repr(value)} is not a whole number from 0 to 255")


def _quoted(text: str) -> str:
    """Return a TOML basic string."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(c if c.isprintable() else f"\\U{ord(c):08X}" for c in escaped) + '"'
