"""A temporary folder with what the peers read: the same images as files, and as shard sets in each storage."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.core.rounds import PartSeconds
from bench.peers.base import split_bytes
from bench.results.records import DataInfo
from bench.settings import LoaderSettings
from shards.build.build_set import build
from shards.build.options import options_from
from shards.errors import UsageError
from shards.format.dataset import ShardSet, SplitReader
from shards.format.layout import SPECIES


@dataclass(frozen=True)
class StoredSplit:
    """The split in one storage."""

    storage: str
    shards: Path
    split: str
    files: Path  # a folder with images/KEY.jpg and masks/KEY.png, which are empty for raw, and keys.txt
    bytes: int  # of images and masks


@dataclass(frozen=True)
class Workspace:
    """Everything that is read in one run."""

    folder: Path
    stored: dict[str, StoredSplit]
    data: DataInfo


@contextmanager
def open_workspace(settings: LoaderSettings, parts: PartSeconds) -> Iterator[Workspace]:
    """Write the split in each storage; everything is removed when the block ends.

    Raises:
        UsageError: a storage cannot be made from this set, or an image is not in ``settings.source``.
        FormatError: no shard set, or damaged.
    """
    shards, work = settings.shards, settings.work
    shard_set = ShardSet.open(shards)
    reader = shard_set.split(settings.split)
    own: str = shard_set.manifest.storage
    for storage in settings.storages:
        if own not in (storage, "source"):
            raise UsageError(f"{shards} holds {own} storage; {storage} can only be made from a set of source storage")
    if work is not None:
        work.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="petseg-bench-", dir=work, ignore_cleanup_errors=True) as name:
        folder = Path(name)
        with parts.part("lay out"):
            stored = {own: _write_files(shards, reader.name, folder / own, settings.source)}
            for storage in settings.storages:
                if storage != own:
                    built = _build(reader, stored[own], storage, settings.size, folder)
                    stored[storage] = _write_files(built, reader.name, folder / storage, None)
        yield Workspace(folder, stored, data_info(shards, shard_set, reader, {x: y.bytes for x, y in stored.items()}))


def data_info(path: Path, shard_set: ShardSet, reader: SplitReader, sizes: dict[str, int]) -> DataInfo:
    """Return what is written down of a split; ``sizes`` are its bytes by storage."""
    fingerprint = shard_set.manifest.fingerprint
    return DataInfo(path=str(path), fingerprint=fingerprint, split=reader.name, samples=len(reader), bytes=sizes)


def _write_files(shards: Path, split: str, folder: Path, source: Path | None) -> StoredSplit:
    """Write the members as files (``raw`` has no use for files), and the list of keys; leave no tar mapped."""
    shard_set = ShardSet.open(shards)
    reader, storage = shard_set.split(split), shard_set.manifest.storage
    images, masks = folder / "images", folder / "masks"
    images.mkdir(parents=True)
    masks.mkdir()
    keys = [reader.key(index) for index in range(len(reader))]
    (folder / "keys.txt").write_text("".join(f"{key}\n" for key in keys), encoding="ascii")
    for index, key in enumerate(keys if storage != "raw" else []):
        image, mask = images / f"{key}.jpg", masks / f"{key}.png"
        if source is None:
            image.write_bytes(reader.read(index, "image"))
            mask.write_bytes(reader.read(index, "trimap"))
            continue
        name = str(reader.meta(index)["name"])
        for link, target in ((image, f"images/{name}.jpg"), (mask, f"annotations/trimaps/{name}.png")):
            if not (source / target).is_file():
                text = f"{source / target} is not there; give the folder that the shard set was built from"
                raise UsageError(f"--source: {text}")
            link.symlink_to((source / target).resolve())
    reader.close()
    return StoredSplit(storage, shards, reader.name, folder, split_bytes(reader))


def _build(reader: SplitReader, own: StoredSplit, storage: str, size: int, folder: Path) -> Path:
    """Build the split in another storage, all of it into the split of the same name."""
    official, out = folder / f"official-{storage}", folder / f"shards-{storage}"
    (official / "annotations").mkdir(parents=True)
    (official / "images").symlink_to(own.files / "images")
    (official / "annotations" / "trimaps").symlink_to(own.files / "masks")
    lines = []
    for meta in map(reader.meta, range(len(reader))):
        species = max(1, SPECIES.index(str(meta["species"])))
        lines.append(f"{meta['key']} {max(1, int(meta['class_id']))} {species} 1\n")
    for name, text in (("list", "".join(lines)), ("trainval", "".join(lines)), ("test", "")):
        (official / "annotations" / f"{name}.txt").write_text(text, encoding="ascii")
    reader.close()
    train, val, test = (float(name == reader.name) for name in ("train", "val", "test"))
    options = options_from(storage=storage, size=size, quality=None, split="random", fractions=(train, val, test),
                           val_fraction=None, seed=0, samples_per_shard=128)  # fmt: skip
    samples = build(official, out, options).manifest.splits[reader.name].samples
    if samples != len(reader):
        text = f"{storage} storage of {reader.folder} would have {samples} samples instead of {len(reader)}"
        raise UsageError(f"{text}; run petseg-shard verify")
    return out
