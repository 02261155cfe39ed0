"""The layout of ADE20K's SceneParsing release: ``images/{training,validation}``, ``annotations/{training,validation}``.

Values are 1..150; 0 is ignored. ``sceneCategories.txt``, if it is there, gives each image's scene.
"""

import os
from pathlib import Path
from typing import Final

from shards.audit.file_kinds.signatures import IMAGE_ENDINGS
from shards.errors import SourceError
from shards.format.builtin_labels import ADE20K
from shards.format.keys import shown
from shards.sources.layout_protocol import Source
from shards.sources.pairs.listing import (
    MASK_ENDINGS,
    FolderListing,
    ListedFile,
    by_key,
    list_files,
    name_of,
    read_names,
    unread_lines,
)
from shards.sources.pairs.pairing import Place, name_unread, pair_up

_SPLITS: Final = {"training": "train", "validation": "val"}
_RELEASE: Final = "ADEChallengeData2016"  # the folder in the official archive
_SCENES: Final = "sceneCategories.txt"


class Ade20kLayout:
    """The layout ``ade20k``. Recognised by names such as ADE_train_00000001, because its folders say little."""

    name = "ade20k"

    def recognise(self, folder: Path) -> str | None:
        """See :class:`shards.sources.layout_protocol.Layout`."""
        root = _root(folder)
        if root is None:
            return None
        found = any(next((root / "images" / part).glob("ADE_*"), None) for part in _SPLITS)
        return "it has images/training/ and annotations/training/ with files ADE_*" if found else None

    def scan(self, folder: Path) -> Source:
        """See :class:`shards.sources.layout_protocol.Layout`."""
        root = _root(folder)
        if root is None:
            looked = f"looked for images/training/ and annotations/training/ in it and in {_RELEASE}/"
            raise SourceError(f"{shown(str(folder))} does not have the layout of ADE20K; {looked}")
        images, image_folders = _files(root / "images", IMAGE_ENDINGS)
        masks, mask_folders = _files(root / "annotations", MASK_ENDINGS)
        listings = image_folders | mask_folders
        scenes = _read_scenes(root / _SCENES)
        paired = pair_up(
            images,
            masks,
            attributes=lambda place: {"scene": scenes.get(place[1], "unknown")} if scenes else {},
            where=shown(str(root)),
        )
        return Source(
            layout=self.name,
            reason="it has images/ and annotations/ with training/ and validation/",
            folder=root,
            pairs=paired.pairs,
            lists=paired.lists,
            labels=ADE20K,
            findings=tuple(
                name_unread(paired, (f for each in image_folders.values() for f in each.unread), paired.findings)
            ),
            ignored=sum(listing.litter for listing in listings.values()),
            unread=tuple(line for folder, each in listings.items() for line in unread_lines(folder, root, each.unread)),
        )


def _root(folder: Path) -> Path | None:
    for root in (folder, folder / _RELEASE):
        if all((root / side / "training").is_dir() for side in ("images", "annotations")):
            return root
    return None


def _files(folder: Path, endings: tuple[str, ...]) -> tuple[dict[Place, ListedFile], dict[Path, FolderListing]]:
    found: dict[Place, ListedFile] = {}
    listings: dict[Path, FolderListing] = {}
    for part, split in _SPLITS.items():
        if (folder / part).is_dir():
            listings[folder / part] = listing = list_files(folder / part, endings)
            found |= {(split, key): file for key, file in by_key(listing.files, folder / part).items()}
    return found, listings


def _read_scenes(path: Path) -> dict[str, str]:
    """Return the scene of each image, from lines ``NAME SCENE``; empty if there is no such file."""
    if not os.path.lexists(path):
        return {}
    parts = (line.split(maxsplit=1) for _, line in read_names(path))
    return {name_of(part[0].replace("\\", "/").rpartition("/")[2]): shown(part[1]) for part in parts if len(part) == 2}
