"""A temporary folder with what the peers read: the same images as files, and as shard sets in each storage."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import msgspec
from msgspec.structs import replace

from bench.core.rounds import PartSeconds
from bench.peers.job import FileListing
from bench.peers.peer import split_bytes
from bench.results.records import DataInfo
from bench.settings import LoaderSettings
from petseg.api import build_shards
from shards.errors import UsageError
from shards.format.dataset import ShardSet, SplitReader
from shards.format.geometry import Size
from shards.format.keys import shown
from shards.format.labels import IGNORE, Labels
from shards.format.layout import SPLITS, STORAGES, extensions_of
from shards.sources import scan
from shards.store.owner_files import scratch_folder


@dataclass(frozen=True)
class StoredSplit:
    """The split in one storage."""

    storage: str
    shards: Path
    split: str
    size: Size | None  # of all its images; None: each has its own
    bytes: int  # of images and masks


@dataclass(frozen=True)
class Workspace:
    """Everything that is read in one run; ``files`` is where the listing of ``source`` storage is, if that is there."""

    folder: Path
    files: str
    stored: dict[str, StoredSplit]
    measured: list[str]  # storages; the set's own may only be what the others were made from
    data: DataInfo


@contextmanager
def open_workspace(settings: LoaderSettings, parts: PartSeconds) -> Iterator[Workspace]:
    """Write the split in each storage; everything is removed when the block ends.

    A :class:`UsageError` says that a storage cannot be made from this set, or that an image is not in ``--source``.
    """
    shards, shard_set = settings.shards, ShardSet.open(settings.shards)
    reader, own = shard_set.split(settings.split), str(shard_set.manifest.storage)
    others = [each for each in settings.storages or (STORAGES if own == "source" else ()) if each != own]
    if own != "source" and (others or settings.source):
        what = f"{others[0]} can only be made from" if others else "--source is only for"
        raise UsageError(f"{shards} holds {own} storage; {what} a set of source storage")
    with scratch_folder("bench") as folder:
        size = shard_set.manifest.size
        stored = {own: StoredSplit(own, shards, reader.name, size, split_bytes(reader))}
        with parts.part("lay out"):
            if own == "source":
                listing = _write_files(reader, folder, settings.source)
                (folder / "files.json").write_bytes(msgspec.json.encode(listing))
                for storage in others:
                    stored[storage] = _build(reader, storage, settings, folder)
            reader.close()
        data = data_info(shards, shard_set, reader, {x: y.bytes for x, y in stored.items()})
        measured = [storage for storage in stored if storage in (settings.storages or stored)]
        yield Workspace(folder, str(folder / "files.json") if own == "source" else "", stored, measured, data)


def data_info(path: Path, shard_set: ShardSet, reader: SplitReader, sizes: dict[str, int]) -> DataInfo:
    """Return what is written down of a split; ``sizes`` are its bytes by storage."""
    manifest = shard_set.manifest
    return DataInfo(path=str(path), fingerprint=manifest.fingerprint, split=reader.name, samples=len(reader),
                    classes=len(manifest.labels), bytes=sizes)  # fmt: skip


def _write_files(reader: SplitReader, folder: Path, source: Path | None) -> FileListing:
    """Write the members as files, and find those of the source."""
    labels, members = reader.manifest.labels, list[tuple[str, str]]()
    places = {"image": folder / "files" / "images", "mask": folder / "files" / "masks"}
    for place in places.values():
        place.mkdir(parents=True)
    for index in range(len(reader)):
        endings = extensions_of(reader.rows([index])[0])
        paths = {
            role: place / f"{reader.key(index)}.{endings[role].rpartition('.')[2]}" for role, place in places.items()
        }
        for role, path in paths.items():
            path.write_bytes(reader.read(index, role))
        members.append((str(paths["image"]), str(paths["mask"])))
    if source is None:
        return FileListing(tuple(members), tuple(members), _canonical(labels))
    pairs, originals = {shown(pair.name): pair for pair in scan(source).pairs}, []
    for index in range(len(reader)):
        name = str(reader.meta(index)["name"])
        if name not in pairs:
            raise UsageError(f"--source: {source} has no image {name!r}; give the folder that the set was built from")
        originals.append((pairs[name].image, pairs[name].mask))
    return FileListing(tuple(members), tuple(originals), labels)


def _canonical(labels: Labels) -> Labels:
    """Return the labels of a set's own masks: class indices, and 255 where a pixel is ignored."""
    classes = (replace(each, values=(index,), source_colors=()) for index, each in enumerate(labels.classes))
    return replace(labels, classes=tuple(classes), ignore=(IGNORE,), ignore_colors=())


def _build(reader: SplitReader, storage: str, settings: LoaderSettings, folder: Path) -> StoredSplit:
    """Build the split in another storage, all of it into the split of the same name."""
    train, val, test = (float(name == reader.name) for name in SPLITS)
    out = folder / f"shards-{storage}"
    build_shards(
        folder / "files", out, storage=cast(Any, storage), layout="folders", size=settings.size, fit=settings.fit,
        split="random", fractions=(train, val, test), samples_per_shard=128, labels=_canonical(reader.manifest.labels),
    )  # fmt: skip
    built = ShardSet.open(out).split(reader.name)
    if len(built) != len(reader):
        text = f"{storage} storage of {reader.folder} would have {len(built)} samples instead of {len(reader)}"
        raise UsageError(f"{text}; run petseg-shard verify")
    return StoredSplit(storage, built.folder, reader.name, settings.size, split_bytes(built))
