"""Counting which values or colours the masks of a source hold, in how many masks and pixels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np

from shards.audit.findings import RejectedError
from shards.audit.mask import decode_mask, packed_colours, value_counts
from shards.audit.palettes import PaletteTally, palette_of
from shards.cores import usable_cores
from shards.errors import SourceError, UsageError, option, printable
from shards.format.keys import shown
from shards.sources.layout_protocol import Pair, Source
from shards.store.byte_ranges import read_regular

MAX_COLOURS: Final = 4096  # in all masks; what holds more is a photograph, not a mask


@dataclass(frozen=True, kw_only=True)
class Occurrence:
    """In how many masks a value or a colour occurs, and how many pixels have it."""

    images: int
    pixels: int


@dataclass(frozen=True, kw_only=True)
class Survey:
    """What the masks of a source hold.

    Attributes:
        source: what was surveyed.
        found: occurrences by value 0..255, of masks that hold values ("index masks"), and by ``#rrggbb``, of masks that
            hold colours ("RGB masks"); in this order.
        palette: the colour of each value in the palettes of index masks; where they differ, the first pair's.
        palettes: the colours of each value in all palettes.
        index_masks: how many masks hold values.
        rgb_masks: how many masks hold colours.
        unreadable: names of masks that cannot be read, and why.
    """

    source: Source
    found: Mapping[int | str, Occurrence]
    palette: Mapping[int, str]
    palettes: PaletteTally
    index_masks: int
    rgb_masks: int
    unreadable: tuple[tuple[str, str], ...]

    @property
    def unclaimed(self) -> tuple[int | str, ...]:
        """The values and colours that the layout's own labels do not claim; empty if it has no labels."""
        labels = self.source.labels
        if labels is None:
            return ()
        claimed: set[int | str] = {*labels.ignore, *labels.ignore_colors}
        for each in labels.classes:
            claimed |= {*each.values, *each.source_colors}
        return tuple(key for key in self.found if key not in claimed)


@dataclass(frozen=True, kw_only=True)
class _MaskCounts:
    """Pixels by value, or if ``coloured`` by colour (``#rrggbb``), of one mask; ``problem`` if it cannot be read."""

    found: dict[int | str, int] = field(default_factory=dict)
    coloured: bool = False
    palette: dict[int, str] = field(default_factory=dict)
    problem: str = ""


def survey_masks(
    source: Source, *, workers: int | None = None, progress: Callable[[int, int], None] | None = None
) -> Survey:
    """Count the values of all masks, each read as a build reads it.

    Args:
        source: from :func:`shards.sources.scan`.
        workers: threads; default: the cores that this process may use.
        progress: called with (masks done, masks in all).

    Raises:
        UsageError: ``workers`` is not a positive number.
        SourceError: no mask can be read, or the masks hold more than :data:`MAX_COLOURS` colours.
    """
    if workers is not None and workers < 1:
        raise UsageError(f"{option('workers', workers)} is not a positive number")
    pixels: Counter[int | str] = Counter()
    masks: Counter[int | str] = Counter()
    palette: dict[int, str] = {}
    palettes = PaletteTally()
    unreadable: list[tuple[str, str]] = []
    index_masks = rgb_masks = 0
    pool = ThreadPoolExecutor(workers or usable_cores())
    try:
        counted = pool.map(_count, source.pairs)
        for number, (pair, counts) in enumerate(zip(source.pairs, counted, strict=True), start=1):
            if counts.problem:
                unreadable.append((printable(pair.name), counts.problem))
            index_masks += bool(counts.found) and not counts.coloured
            rgb_masks += bool(counts.found) and counts.coloured
            pixels.update(counts.found)
            masks.update(counts.found.keys())
            palette = counts.palette | palette
            palettes.add(counts.palette)
            if counts.coloured and (colours := sum(isinstance(key, str) for key in pixels)) > MAX_COLOURS:
                raise SourceError(
                    f"{shown(pair.mask)}: with this mask, {colours:,} colours or more have been found; masks have "
                    "one for each class. Is this a photograph, or a mask that was resized with interpolation?"
                )
            if progress is not None:
                progress(number, len(source.pairs))
    finally:
        pool.shutdown(cancel_futures=True)
    if not index_masks and not rgb_masks:
        name, problem = unreadable[0]
        raise SourceError(f"{shown(str(source.folder))}: no mask can be read; the first, {name}: {problem}")
    ordered = sorted(pixels, key=lambda key: (isinstance(key, str), key))  # values, then colours
    return Survey(
        source=source,
        found={key: Occurrence(images=masks[key], pixels=pixels[key]) for key in ordered},
        palette=dict(sorted(palette.items())),
        palettes=palettes,
        index_masks=index_masks,
        rgb_masks=rgb_masks,
        unreadable=tuple(unreadable),
    )


def _count(pair: Pair) -> _MaskCounts:
    try:
        data = read_regular(Path(pair.mask))
    except OSError as error:
        return _MaskCounts(problem=f"cannot be read ({error.strerror})")
    try:
        values, _ = decode_mask(data, colours=False)
    except RejectedError as error:
        return _count_colours(data) if error.reason == "mask-channels" else _problem(error)
    found = value_counts(values)
    present = np.flatnonzero(found).tolist()
    return _MaskCounts(found={value: int(found[value]) for value in present}, palette=palette_of(data, present))


def _count_colours(data: bytes) -> _MaskCounts:
    try:
        parts, _ = decode_mask(data, colours=True)
    except RejectedError as error:
        return _problem(error)
    found: Counter[int] = Counter()
    for _, packed in packed_colours(parts):
        colours, counts = np.unique(packed, return_counts=True)
        found.update(dict(zip(colours.tolist(), counts.tolist(), strict=True)))
        if len(found) > MAX_COLOURS:  # no mask: the others, of which there may be millions, are not needed
            break
    return _MaskCounts(found={f"#{packed:06x}": count for packed, count in sorted(found.items())}, coloured=True)


def _problem(error: RejectedError) -> _MaskCounts:
    return _MaskCounts(problem=f"{error.reason} ({error.detail})" if error.detail else error.reason)
