"""A temporary folder with what the peers read: the same images as files, and as shard sets in each storage."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from msgspec.structs import replace

from bench.peers.peer import NO_FILES, FileListing, Job, split_bytes
from bench.results.records import DataInfo
from bench.settings import LoaderSettings
from petseg.api import build_shards
from shards.errors import UsageError
from shards.format.dataset import ShardSet, SplitReader
from shards.format.keys import shown
from shards.format.labels import IGNORE, Labels
from shards.format.layout import SPLITS, STORAGES, extensions_of
from shards.sources import scan
from shards.store.owner_files import scratch_folder


@dataclass(frozen=True)
class Workspace:
    """Everything that is read in one run."""

    folder: Path
    jobs: dict[str, Job]  # by storage, the set's own first: what any peer is asked to do on it
    measured: list[str]  # storages; the set's own may only be what the others were made from
    data: DataInfo


@contextmanager
def open_workspace(settings: LoaderSettings) -> Iterator[Workspace]:
    """Write the split in each storage; everything is removed when the block ends.

    A :class:`UsageError` says that a storage cannot be made from this set, or that an image is not in ``--source``.
    """
    reader = ShardSet.open(settings.shards).split(settings.split)
    own = str(reader.manifest.storage)
    others = [each for each in settings.storages or (STORAGES if own == "source" else ()) if each != own]
    if own != "source" and (others or settings.source):
        what = f"{others[0]} can only be made from" if others else "--source is only for"
        raise UsageError(f"{settings.shards} holds {own} storage; {what} a set of source storage")
    with scratch_folder("bench") as folder:
        files = _write_files(reader, folder, settings.source) if own == "source" else NO_FILES
        readers = {own: reader, **{storage: _build(reader, storage, settings, folder) for storage in others}}
        data = data_info(settings.shards, reader, {storage: split_bytes(one) for storage, one in readers.items()})
        how = {name: getattr(settings, name) for name in ("size", "fit", "batch_size", "seed", "workers", "handicap")}
        jobs = {storage: Job.on(one, files=files, **how) for storage, one in readers.items()}
        for one in readers.values():
            one.close()
        yield Workspace(folder, jobs, [storage for storage in jobs if storage in (settings.storages or jobs)], data)


def data_info(path: Path, reader: SplitReader, sizes: dict[str, int]) -> DataInfo:
    """Return what is written down of a split of the set at ``path``; ``sizes`` are its bytes by storage."""
    return DataInfo(path=str(path), fingerprint=reader.manifest.fingerprint, split=reader.name, samples=len(reader),
                    classes=len(reader.manifest.labels), bytes=sizes)  # fmt: skip


def _write_files(reader: SplitReader, folder: Path, source: Path | None) -> FileListing:
    """Write the members as files, and find those of the source."""
    members, originals = list[tuple[str, str]](), list[tuple[str, str]]()
    pairs = {} if source is None else {shown(pair.name): (pair.image, pair.mask) for pair in scan(source).pairs}
    for role in ("image", "mask"):
        (folder / "files" / f"{role}s").mkdir(parents=True)
    for index in range(len(reader)):
        endings, name = extensions_of(reader.rows([index])[0]), str(reader.meta(index)["name"])
        image, mask = (
            folder / "files" / f"{role}s" / f"{reader.key(index)}.{endings[role].rpartition('.')[2]}"
            for role in ("image", "mask")
        )
        image.write_bytes(reader.read(index, "image"))
        mask.write_bytes(reader.read(index, "mask"))
        members.append((str(image), str(mask)))
        if source is not None and name not in pairs:
            raise UsageError(f"--source: {source} has no image {name!r}; give the folder that the set was built from")
        originals.append(pairs.get(name, members[-1]))
    labels = reader.manifest.labels
    return FileListing(tuple(members), tuple(originals), labels if source else _canonical(labels))


def _canonical(labels: Labels) -> Labels:
    """Return the labels of a set's own masks: class indices, and 255 where a pixel is ignored."""
    classes = (replace(each, values=(index,), source_colors=()) for index, each in enumerate(labels.classes))
    return replace(labels, classes=tuple(classes), ignore=(IGNORE,), ignore_colors=())


def _build(reader: SplitReader, storage: str, settings: LoaderSettings, folder: Path) -> SplitReader:
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
    return built
