"""A temporary folder with what the peers read: the same pictures as files, and as shard sets in each storage."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bench.results import Data
from shards.build.build_set import build
from shards.build.options import options_from
from shards.errors import UsageError
from shards.format.dataset import ShardSet, SplitReader
from shards.format.layout import SPECIES, STORAGES

if TYPE_CHECKING:
    from bench.loader_settings import LoaderSettings


@dataclass(frozen=True)
class Stored:
    """The split in one storage.

    Attributes:
        storage: which.
        shards: the shard set.
        pictures: a folder with ``images/KEY.jpg`` and ``trimaps/KEY.png``; without files for ``raw``.
        keys: a text file with the key of each sample.
        bytes: of the split's pictures and trimaps.
    """

    storage: str
    shards: Path
    pictures: Path
    keys: Path
    bytes: int


@dataclass(frozen=True)
class Workspace:
    """Everything that is read in one run."""

    folder: Path
    stored: dict[str, Stored]
    data: Data


@contextmanager
def open_workspace(
    shards: Path, *, split: str, storages: tuple[str, ...], size: int, source: Path | None, work: Path | None
) -> Iterator[Workspace]:
    """Lay out the split in each storage; everything is removed when the block ends.

    Args:
        shards: a shard set; other storages than its own are built from it, for which it must be of ``source`` storage.
        split: which split.
        storages: those that are wanted.
        size: of the pictures in ``jpeg`` and ``raw`` storage.
        source: the folder in the official layout that the set was built from; its own files then stand in for copies.
        work: where to make the folder; None: where temporary files go.

    Raises:
        UsageError: a storage cannot be made from this set, or a picture is not in ``source``.
        FormatError: no shard set, or damaged.
    """
    shard_set = ShardSet.open(shards)
    reader = shard_set.split(split)
    own: str = shard_set.manifest.storage
    for storage in storages:
        if storage not in (own, *STORAGES):
            raise UsageError(f"storage {storage!r} is not known; use {', '.join(STORAGES)}")
        if own not in (storage, "source"):
            raise UsageError(f"{shards} holds {own} storage; {storage} can only be made from a set of source storage")
    if work is not None:
        work.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="petseg-bench-", dir=work))
    try:
        own_stored = _lay_out(reader, own, shards, folder / own, source)
        stored = {own: own_stored}
        for storage in storages:
            if storage != own:
                built = _build(reader, own_stored, storage, size, folder)
                stored[storage] = _lay_out(ShardSet.open(built).split(split), storage, built, folder / storage, None)
        data = Data(
            path=str(shards),
            fingerprint=shard_set.manifest.fingerprint,
            split=split,
            samples=len(reader),
            bytes={name: one.bytes for name, one in stored.items()},
        )
        yield Workspace(folder=folder, stored=stored, data=data)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def workspace_of(settings: LoaderSettings) -> AbstractContextManager[Workspace]:
    """Lay out what a run is asked to measure; see :func:`open_workspace`."""
    return open_workspace(
        settings.shards,
        split=settings.split,
        storages=settings.storages,
        size=settings.size,
        source=settings.source,
        work=settings.work,
    )


def _lay_out(reader: SplitReader, storage: str, shards: Path, folder: Path, source: Path | None) -> Stored:
    """Write the members as files (``raw`` has no use for files), and the list of keys; leave no tar mapped."""
    pictures = folder / "pictures"
    for name in ("images", "trimaps"):
        (pictures / name).mkdir(parents=True)
    keys = [reader.key(index) for index in range(len(reader))]
    (folder / "keys.txt").write_text("".join(f"{key}\n" for key in keys), encoding="ascii")
    if storage != "raw":
        for index, key in enumerate(keys):
            image, trimap = pictures / "images" / f"{key}.jpg", pictures / "trimaps" / f"{key}.png"
            if source is None:
                image.write_bytes(reader.read(index, "image"))
                trimap.write_bytes(reader.read(index, "trimap"))
            else:
                name = str(reader.meta(index)["name"])
                _link(source / "images" / f"{name}.jpg", image)
                _link(source / "annotations" / "trimaps" / f"{name}.png", trimap)
    reader.close()
    size = int(reader.table["image_length"].sum()) + int(reader.table["trimap_length"].sum())
    return Stored(storage=storage, shards=shards, pictures=pictures, keys=folder / "keys.txt", bytes=size)


def _link(target: Path, link: Path) -> None:
    if not target.is_file():
        raise UsageError(f"--source: {target} is not there; give the folder that the shard set was built from")
    link.symlink_to(target.resolve())


def _build(reader: SplitReader, own: Stored, storage: str, size: int, folder: Path) -> Path:
    """Build the split in another storage, all of it into the split of the same name."""
    official = folder / f"official-{storage}"
    (official / "annotations").mkdir(parents=True)
    (official / "images").symlink_to(own.pictures / "images")
    (official / "annotations" / "trimaps").symlink_to(own.pictures / "trimaps")
    lines = []
    for index in range(len(reader)):
        meta = reader.meta(index)
        species = max(1, SPECIES.index(str(meta["species"])))
        lines.append(f"{meta['key']} {max(1, int(meta['class_id']))} {species} 1\n")
    for name in ("list", "trainval", "test"):
        text = "" if name == "test" else "".join(lines)
        (official / "annotations" / f"{name}.txt").write_text(text, encoding="ascii")
    fractions = tuple(float(name == reader.name) for name in ("train", "val", "test"))
    reader.close()
    out = folder / f"shards-{storage}"
    options = options_from(
        storage=storage,
        size=size,
        quality=None,
        split="random",
        fractions=(fractions[0], fractions[1], fractions[2]),
        val_fraction=None,
        seed=0,
        samples_per_shard=128,
    )
    built = build(official, out, options)
    if built.manifest.splits[reader.name].samples != len(reader):
        raise UsageError(
            f"{storage} storage of {reader.folder} would have {built.manifest.splits[reader.name].samples} samples "
            f"instead of {len(reader)}; run petseg-shard verify"
        )
    return out
