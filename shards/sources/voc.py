"""The layout of Pascal VOC: ``JPEGImages/``, ``SegmentationClass/`` and lists in ``ImageSets/Segmentation/``.

Images that have no mask and that no list names belong to other tasks of the dataset; they are counted and ignored.
"""

import re
from pathlib import Path
from typing import Final

from shards.errors import SourceError
from shards.format.builtin_labels import VOC
from shards.format.keys import shown
from shards.sources.folders import find_lists
from shards.sources.layout_protocol import Source
from shards.sources.pairs.listing import IMAGE_ENDINGS, JPEG_ENDINGS, MASK_ENDINGS, by_key, list_files
from shards.sources.pairs.pairing import aliases_of, listed_splits, name_lossy, pair_up

_IMAGES, _MASKS, _LISTS = "JPEGImages", "SegmentationClass", "ImageSets/Segmentation"
_VOC_NAME: Final = re.compile(r"20\d\d_\d{6}")


class VocLayout:
    """The layout ``voc``."""

    name = "voc"

    def recognise(self, folder: Path) -> str | None:
        """See :class:`shards.sources.layout_protocol.Layout`."""
        root = _root(folder)
        return f"it has {_IMAGES}/, {_MASKS}/ and {_LISTS}/" if root and (root / _LISTS).is_dir() else None

    def scan(self, folder: Path) -> Source:
        """See :class:`shards.sources.layout_protocol.Layout`.

        The classes are those of VOC if all names look like VOC's; otherwise only the user can know them.
        """
        root = _root(folder)
        if root is None:
            looked = f"looked for {_IMAGES}/ and {_MASKS}/ in it and in VOCdevkit/VOC*/"
            raise SourceError(f"{shown(str(folder))} does not have the layout of Pascal VOC; {looked}")
        files, ignored = list_files(root / _IMAGES, IMAGE_ENDINGS)
        mask_files, more = list_files(root / _MASKS, MASK_ENDINGS)
        images, masks = by_key(files, root / _IMAGES), by_key(mask_files, root / _MASKS)
        everything = pair_up(
            {("", key): file for key, file in images.items()},
            {("", key): file for key, file in masks.items()},
            where=shown(str(root)),
        )
        paths = find_lists(root, ("ImageSets",))
        lists, missing = listed_splits(paths, aliases_of(everything, root)) if paths else ({}, [])
        listed = frozenset[str]().union(*lists.values())
        relevant = {shown(name) for name in listed | masks.keys()}
        jpegs, _ = list_files(root / _MASKS, JPEG_ENDINGS)
        named, lossy = name_lossy(everything, {("", file.key): file for file in jpegs})
        findings = [finding for finding in named if finding.name in relevant or finding.reason == "mask-lossy"]
        known = all(_VOC_NAME.fullmatch(pair.name) for pair in everything.pairs)
        return Source(
            layout=self.name,
            reason=f"it has {_IMAGES}/, {_MASKS}/ and {len(lists)} lists in {_LISTS}/",
            folder=root,
            pairs=everything.pairs,
            lists=lists,
            labels=VOC if known else None,
            findings=(*findings, *missing),
            ignored=ignored + more - lossy + len(named) - len(findings),
        )


def _root(folder: Path) -> Path | None:
    """Return the folder of one year: this one, or the only one in a VOCdevkit."""
    years = [path for pattern in ("VOC*", "VOCdevkit/VOC*") for path in folder.glob(pattern)]
    found = [path for path in (folder, *sorted(years)) if (path / _IMAGES).is_dir() and (path / _MASKS).is_dir()]
    if len(found) > 1:
        raise SourceError(f"{shown(str(folder))} holds several years: give one, such as {shown(str(found[0]))}")
    return found[0] if found else None
