"""Suffixes that the names of all images, or of all masks, have: ``x_leftImg8bit.png`` and ``x_mask.png``."""

import itertools
from collections.abc import Iterable
from typing import Final

from shards.audit.file_kinds.signatures import KNOWN_ENDINGS
from shards.sources.pairs.listing import ListedFile, split_ending
from shards.sources.pairs.pairing import Files
from shards.sources.pairs.spelling import composed

_SEPARATORS: Final = ("", "_", "-", ".", " ")  # "": of an empty suffix


def has_suffix(file: ListedFile, suffix: str) -> bool:
    """Return whether a file's name ends with a suffix, which may include the ending (``_mask.png``) or not."""
    stem, ending = _parts_of(suffix)
    base = file.key.removesuffix(stem)
    whole = file.key.endswith(stem) and bool(base) and not base.endswith("/")
    return whole and (not ending or file.relative.lower().endswith(ending))


def cut_suffixes(
    images: Files, masks: Files, jpegs: Files, given: tuple[str | None, str | None]
) -> tuple[Files, Files, Files]:
    """Cut the suffixes of images and of masks off the keys, which all have them; those found, if none is given.

    ``jpegs`` are masks that cannot be used; they have a say only where nothing fits without them.
    """
    if given == (None, None):
        keys = [[key for _, key in side] for side in (images, masks, jpegs)]
        found = common_suffixes(keys[0], keys[1]) or (common_suffixes(keys[0], keys[1] + keys[2]) if jpegs else None)
        suffixes = found or ("", "")
    else:
        suffixes = _parts_of(given[0] or "")[0], _parts_of(given[1] or "")[0]

    def cut(side: Files, suffix: str) -> Files:
        return {(split, key.removesuffix(suffix)): file for (split, key), file in side.items()}

    return cut(images, suffixes[0]), cut(masks, suffixes[1]), cut(jpegs, suffixes[1])


def common_suffixes(images: Iterable[str], masks: Iterable[str]) -> tuple[str, str] | None:
    """Return the suffixes (of image and mask) whose removal makes the keys the same; None without any.

    The shortest ones, preferably such that begin with a separator: ``_rgb`` and ``_mask``, not ``rgb`` and ``mask``.
    None, too, if some keys are the same as they are.
    """
    all_images, all_masks = set(images), set(masks)
    if not all_images or not all_masks or all_images & all_masks:
        return None
    example = min(all_images)
    options = [
        (image_suffix, mask_suffix)
        for image_suffix in _endings(all_images)
        for mask_suffix in _endings(all_masks)
        if example.removesuffix(image_suffix) + mask_suffix in all_masks
    ]

    def rank(option: tuple[str, str]) -> tuple[bool, int, tuple[str, str]]:
        return not all(suffix[:1] in _SEPARATORS for suffix in option), sum(map(len, option)), option

    for image_suffix, mask_suffix in sorted(options, key=rank):
        bases = {key.removesuffix(image_suffix) for key in all_images}
        if bases == {key.removesuffix(mask_suffix) for key in all_masks}:
            return image_suffix, mask_suffix
    return None


def _endings(keys: set[str]) -> list[str]:
    """Return every suffix that all keys have, the empty one first; none takes a whole file name."""
    backwards = [key.rpartition("/")[2][::-1] for key in keys]
    first, last = min(backwards), max(backwards)  # what these two share at their start, all do
    shared = list(itertools.takewhile(lambda both: both[0] == both[1], zip(first, last, strict=False)))
    longest = min(len(shared), min(map(len, backwards)) - 1)
    return [first[:length][::-1] for length in range(longest + 1)]


def _parts_of(suffix: str) -> tuple[str, str]:
    """Return the part of a suffix before the ending of an image file, and the ending in lower case, if it has one."""
    stem, ending = ("", suffix.lower()) if suffix.startswith(".") else split_ending(suffix)
    return (composed(stem), ending) if ending in KNOWN_ENDINGS else (composed(suffix), "")
