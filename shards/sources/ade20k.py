"""The layout of ADE20K's SceneParsing release: ``images/{training,validation}``, ``annotations/{training,validation}``.

Values are 1..150; 0 is ignored. ``sceneCategories.txt``, if it is there, gives each image's scene.
"""

import os
from pathlib import Path
from typing import Final

from shards.errors import SourceError
from shards.format.builtin_labels import ADE20K
from shards.format.keys import shown
from shards.sources.layout_protocol import Source
from shards.sources.pairs.listing import IMAGE_ENDINGS, MASK_ENDINGS, ListedFile, by_key, list_files, read_names
from shards.sources.pairs.pairing import Place, pair_up

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
        images, ignored = _files(root / "images", IMAGE_ENDINGS)
        masks, more = _files(root / "annotations", MASK_ENDINGS)
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
            findings=paired.findings,
            ignored=ignored + more,
        )


def _root(folder: Path) -> Path | None:
    for root in (folder, folder / _RELEASE):
        if all((root / side / "training").is_dir() for side in ("images", "annotations")):
            return root
    return None


def _files(folder: Path, endings: tuple[str, ...]) -> tuple[dict[Place, ListedFile], int]:
    found: dict[Place, ListedFile] = {}
    total = 0
    for part, split in _SPLITS.items():
        if (folder / part).is_dir():
            files, ignored = list_files(folder / part, endings)
            found |= {(split, key): file for key, file in by_key(files, folder / part).items()}
            total += ignored
    return found, total


def _read_scenes(path: Path) -> dict[str, str]:
    """Return the scene of each image, from lines ``NAME SCENE``; empty if there is no such file."""
    if not os.path.lexists(path):
        return {}
    parts = (line.split(maxsplit=1) for _, line in read_names(path))
    return {part[0]: shown(part[1]) for part in parts if len(part) == 2}
