"""The interface of a peer, the same for petseg's loader and all others, what it is asked to do, and what kinds of peers
have in common.

To add one, write a module with a subclass of :class:`Peer`, and add it to :mod:`bench.peers`.
"""

import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from bench.results.records import NOT_INSTALLED, SCALED_CAVEAT, LoaderWork
from pipeline.order.permutation import permutation
from shards.cores import usable_cores
from shards.format.dataset import ShardSet, SplitReader
from shards.format.geometry import FITS, Fit, Size
from shards.format.labels import Labels
from shards.format.layout import STORAGES

if TYPE_CHECKING:
    import torch


class FileListing(msgspec.Struct, frozen=True):
    """The split as files, paths of (image, mask) by index: the members of the set, and the files that it was made from,
    where they are known (else the members again), with the labels of the masks among these.
    """

    members: tuple[tuple[str, str], ...]
    originals: tuple[tuple[str, str], ...]
    labels: Labels


NO_FILES = FileListing((), (), Labels(classes=()))


class Job(LoaderWork, frozen=True, kw_only=True):
    """The work of one peer on one storage, with all that it takes."""

    shards: str  # the shard set in that storage
    files: FileListing = NO_FILES  # of the set, where that is of `source` storage
    work: str = ""  # a folder for the peer's own copy of the data, if it needs to convert it
    stored_size: Size | None  # of all its images; None: each has its own
    split: str
    samples: int  # in the split
    classes: int
    size: Size  # of the output
    fit: Fit
    batch_size: int
    seed: int = 0  # of order and augmentation
    workers: int = 0  # processes or threads; 0: the benchmark tries several numbers and keeps the fastest
    address: str = ""  # of the data in an object store, in place of a folder here
    fetched: str = ""  # a folder for what is fetched from there
    handicap: float = 0.0  # part of its speed that the benchmark takes away from the peer, to test compare

    @classmethod
    def on(cls, reader: SplitReader, **settings: Any) -> "Job":
        """Return what any peer is asked to do on a split."""
        manifest = reader.manifest
        return cls(peer="", storage=manifest.storage, shards=str(reader.folder.resolve()), stored_size=manifest.size,
                   split=reader.name, samples=len(reader), classes=len(manifest.labels), **settings)  # fmt: skip

    @property
    def resizes(self) -> bool:
        return self.stored_size != self.size

    @property
    def onehot(self) -> bool:
        return self.mask == "onehot"

    def read_index(self) -> dict[str, int]:
        """Return the index of every sample by its key."""
        reader = ShardSet.open(self.shards).split(self.split)
        found = {reader.key(index): index for index in range(len(reader))}
        reader.close()
        return found


class Caveat(NamedTuple):
    """Something that a peer does differently from petseg's loader, or does not do."""

    text: str  # printed wherever its figures are
    storages: tuple[str, ...] = STORAGES  # where it applies
    image: bool = False  # its images differ because of it


SCALED = Caveat(SCALED_CAVEAT, ("source",), image=True)
BUFFER = Caveat("shuffles within a buffer, not over the whole epoch")


@dataclass(frozen=True, slots=True)
class Delivered:
    """One batch as delivered, B samples."""

    image: "torch.Tensor"  # uint8 (B, 3, H, W), RGB, in any memory format
    mask: "torch.Tensor"  # uint8 (B, N, H, W), one-hot, ignored pixels all zero; or (B, H, W): class indices and 255
    index: npt.NDArray[np.int64]  # (B,), which sample of the split; -1 for padding, which is not counted


def deliver(image: Any, mask: Any, index: Any, *, pin: bool = False) -> Delivered:
    """Return arrays or tensors (B, H, W, C) as a batch (B, C, H, W), not copied unless pinned; (B, H, W) as it is."""
    import torch

    tensors = [torch.as_tensor(pixels) for pixels in (image, mask)]
    tensors = [tensor.permute(0, 3, 1, 2) if tensor.ndim == 4 else tensor for tensor in tensors]
    if pin:
        tensors = [tensor.pin_memory() for tensor in tensors]
    return Delivered(tensors[0], tensors[1], np.asarray(index, dtype=np.int64).ravel())


class Peer:
    """A loader under comparison. Libraries are imported, and data are read, in :meth:`prepare` and :meth:`open`.

    :meth:`open` sets ``_loader``, from which :meth:`epoch` takes (image, mask, index) as :func:`deliver` does.
    """

    name: ClassVar[str]  # on the command line and in results
    storages: ClassVar[tuple[str, ...]] = ("source",)  # what it can read
    fits: ClassVar[tuple[Fit, ...]] = FITS  # how it can bring images to the output size
    augments: ClassVar[bool] = False  # whether it has the training augmentation
    needs: ClassVar[str] = ""  # a module that must be installed, beyond those that petseg itself needs
    install: ClassVar[str] = "make peers, or pip install 'petseg[peers]'"
    caveats: ClassVar[tuple[Caveat, ...]] = ()
    ours: ClassVar[bool] = False  # petseg's own loader
    reads_ahead: ClassVar[bool] = False  # whether it reads for the next epoch before that is requested
    decodes_on_gpu: ClassVar[bool] = False  # so that what it copies there is what is stored

    def __init__(self, job: Job) -> None:
        self.job = job
        self._loader: Any = None

    @classmethod
    def why_not(cls, job: Job) -> str:
        """Return why it cannot do a job here; an empty text if it can."""
        if cls.needs and not _is_there(cls.needs):
            return f"{NOT_INSTALLED}: {cls.needs} ({cls.install})"
        if job.augment and not cls.augments:
            return "has no training augmentation in its peer file"
        if job.resizes and job.fit not in cls.fits:
            return f"cannot bring images to the output size as --fit {job.fit} does"
        return ""

    @classmethod
    def caveats_on(cls, job: Job) -> list[Caveat]:
        """Return the caveats that apply to a job: those of its storage, and of resizing where it must resize."""
        return [each for each in cls.caveats if job.storage in each.storages or (each.image and job.resizes)]

    def prepare(self) -> None:
        """Convert the data into the loader's own format, in ``job.work``; timed separately."""

    def worker_counts(self) -> tuple[int, ...]:
        """Return the numbers of workers worth trying, by default those for a DataLoader; empty: nothing to choose."""
        cores = usable_cores()
        return tuple(sorted({max(1, cores // 2), cores, 2 * cores}))

    def open(self) -> None:
        """Make the loader, with ``job.workers``."""
        raise NotImplementedError

    def epoch(self, number: int) -> Iterator[Delivered]:
        """Deliver every sample of the split once, in a different order for each ``number`` (0, 1, ...).

        With ``job.augment``, sample i of epoch n gets petseg's augmentation parameters of that epoch, or where they are
        drawn beforehand, of epoch 0. The default ignores ``number``: the library shuffles by itself.
        """
        for image, mask, index in self._loader:
            yield deliver(image, mask, index)

    def files(self) -> list[Path]:
        """Return the files that an epoch reads, for dropping them from the page cache; by default the tars."""
        return self.split_files()

    def discard_prefetched(self) -> None:
        """Drop what was read ahead for the next epoch, if the loader can."""

    def moved_per_image(self) -> float:
        """Return the bytes per image that the loader itself copies to the GPU."""
        split = ShardSet.open(self.job.shards).split(self.job.split)
        return split_bytes(split) / len(split) if self.decodes_on_gpu else 0.0

    def close(self) -> None:
        """Drop the loader, which stops its workers."""
        self._loader = None

    def split_files(self, suffix: str = ".tar") -> list[Path]:
        """Return the files of the split in its shard set, by default its tars."""
        return sorted(Path(self.job.shards).glob(f"{self.job.split}-*{suffix}"))


def _is_there(module: str) -> bool:
    parent = module.rpartition(".")[0]
    return (not parent or _is_there(parent)) and importlib.util.find_spec(module) is not None


class FilePeer(Peer):
    """A peer that reads image and mask files in petseg's order, and the sampler of that for its DataLoader."""

    _epochs = 0

    def __len__(self) -> int:
        return self.job.samples

    def __iter__(self) -> Iterator[int]:
        self._epochs += 1
        return iter(permutation(self.job.seed, self._epochs - 1, self.job.samples).tolist())

    def files(self) -> list[Path]:
        return [Path(path) for pair in self.job.files.members for path in pair]


class ConvertedPeer(Peer):
    """A peer that reads a format of its own, with the same bytes per image and mask as the shard set."""

    @property
    def output(self) -> Path:
        """The folder or file that it reads."""
        return Path(self.job.work) / "converted"

    def prepare(self) -> None:
        if not self.output.exists():
            self.convert()

    def convert(self) -> None:
        """Write the samples, uncompressed, to :attr:`output`, each with the fields of :meth:`rows`."""
        raise NotImplementedError

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield the samples as the shard set holds them: image and mask (bytes), index (int)."""
        split = ShardSet.open(self.job.shards).split(self.job.split)
        for index in range(len(split)):
            yield {"image": split.read(index, "image"), "mask": split.read(index, "mask"), "index": index}

    def files(self) -> list[Path]:
        return files_under(self.output)


def files_under(folder: Path) -> list[Path]:
    """Return all files in a folder and its subfolders; a file itself."""
    return sorted(path for path in (folder, *folder.rglob("*")) if path.is_file())


def split_bytes(split: SplitReader) -> int:
    """Return what a split's images and masks take."""
    return int(split.table.column("image_length").sum()) + int(split.table.column("mask_length").sum())
