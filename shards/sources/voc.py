"""The layout of Pascal VOC: ``JPEGImages/``, ``SegmentationClass/`` and lists in ``ImageSets/Segmentation/``.

Images that have no mask and that no list names belong to other tasks of the dataset; they are counted and ignored.
"""

import re
from pathlib import Path
from typing import Final

from shards.audit.file_kinds.signatures import IMAGE_ENDINGS
from shards.errors import SourceError, counted
from shards.format.builtin_labels import VOC
from shards.format.keys import shown
from shards.sources.folders import find_lists
from shards.sources.layout_protocol import Source
from shards.sources.pairs.listing import JPEG_ENDINGS, MASK_ENDINGS, by_key, list_files, unread_lines
from shards.sources.pairs.pairing import name_lossy, name_unread, pair_up
from shards.sources.pairs.split_lists import aliases_of, listed_splits

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
        image_list, mask_list = list_files(root / _IMAGES, IMAGE_ENDINGS), list_files(root / _MASKS, MASK_ENDINGS)
        images, masks = by_key(image_list.files, root / _IMAGES), by_key(mask_list.files, root / _MASKS)
        everything = pair_up(
            {("", key): file for key, file in images.items()},
            {("", key): file for key, file in masks.items()},
            where=shown(str(root)),
        )
        paths = find_lists(root, ("ImageSets",))
        lists, missing = listed_splits(paths, aliases_of(everything, root)) if paths else ({}, [])
        listed = frozenset[str]().union(*lists.values())
        relevant = {shown(name) for name in listed | masks.keys()}
        jpegs = list_files(root / _MASKS, JPEG_ENDINGS).files
        named, lossy = name_lossy(everything, {("", file.key): file for file in jpegs})
        named = name_unread(everything, image_list.unread, named)
        findings = [
            finding
            for finding in named
            if finding.name in relevant or finding.reason == "mask-lossy" or finding.action == "warning"
        ]
        known = all(_VOC_NAME.fullmatch(pair.name) for pair in everything.pairs)
        return Source(
            layout=self.name,
            reason=f"it has {_IMAGES}/, {_MASKS}/ and {counted(len(lists), 'list')} in {_LISTS}/",
            folder=root,
            pairs=everything.pairs,
            lists=lists,
            labels=VOC if known else None,
            findings=(*findings, *missing),
            ignored=image_list.litter + mask_list.litter + len(named) - len(findings),
            unread=(
                *unread_lines(root / _IMAGES, root, image_list.unread),
                *unread_lines(root / _MASKS, root, [file for file in mask_list.unread if file.path not in lossy]),
            ),
        )


def _root(folder: Path) -> Path | None:
    """Return the folder of one year: this one, or the only one in a VOCdevkit."""
    years = [path for pattern in ("VOC*", "VOCdevkit/VOC*") for path in folder.glob(pattern)]
    found = [path for path in (folder, *sorted(years)) if (path / _IMAGES).is_dir() and (path / _MASKS).is_dir()]
    if len(found) > 1:
        raise SourceError(f"{shown(str(folder))} holds several years: give one, such as {shown(str(found[0]))}")
    return found[0] if found else None
