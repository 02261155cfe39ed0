"""What a benchmark writes down: everything that a reader needs to repeat it and to judge it."""

from collections import Counter
from pathlib import Path
from statistics import median
from typing import Annotated, Any, Literal, TypeAlias

import msgspec

from shards.errors import FormatError, abridged, first_line
from shards.store.byte_ranges import read_regular

VERSION = 3
OURS = "petseg"  # the peer that the goals are for
BASELINE = "tutorial"  # the one that rates are given as multiples of
# In place of an engine's name: petseg's loader with engine "torch" in worker processes, or with decode="scaled".
PROCESSES, SCALED_DECODING = "processes", "scaled"
SCALED_CAVEAT = "decodes JPEGs at a reduced scale, then averages areas"
NOT_INSTALLED = "not installed"  # so begins the reason why such a loader was skipped
# A file may be anybody's: what is computed from such numbers is finite, and can be printed.
Count: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=10**18)]
Seconds: TypeAlias = Annotated[float, msgspec.Meta(ge=0, le=1e12)]
Mask: TypeAlias = Literal["onehot", "index"]
Cache: TypeAlias = Literal["warm", "cold"]


class _Record(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Immutable, named fields only."""


class Environment(_Record, frozen=True, kw_only=True):
    """Where and how it was measured."""

    command: str
    started: str  # local time, ISO 8601 with the zone
    seconds: Seconds  # of the run
    commit: str | None  # with "+changes" where files differ from it; None outside a checkout
    system: str
    cpu: str
    cores: Annotated[int, msgspec.Meta(ge=1, le=10**6)]  # that the process may use
    last_level_cache_bytes: Count | None
    memory_bytes: Count
    gpu: tuple[str, ...]
    load_before: float | None  # the system's load average of a minute
    load_after: float | None
    versions: dict[str, str]


class DataInfo(_Record, frozen=True, kw_only=True):
    """What was read; ``bytes`` is what the split takes on the disk, by storage."""

    path: str
    fingerprint: str
    split: str
    samples: Count
    classes: Count
    bytes: Annotated[dict[str, Count], msgspec.Meta(min_length=1)]


class GpuCost(_Record, frozen=True, kw_only=True):
    """What a repeat cost on the GPU's side; ``device_seconds`` is between CUDA events around it."""

    device_seconds: Seconds
    moved_bytes: Count  # to the device; encoded images or pixels, whichever crosses


class Repeat(_Record, frozen=True, kw_only=True):
    """One timed repeat, in the ``process``-th process of its subject."""

    process: int = 0
    images: Annotated[int, msgspec.Meta(ge=1, le=10**15)]  # delivered, padding not counted
    seconds: Annotated[float, msgspec.Meta(ge=1e-9, le=1e12)]
    cpu_seconds: Seconds = 0.0  # user + system, of the process and its workers
    batch_ms: tuple[Seconds, Seconds, Seconds] = (0.0, 0.0, 0.0)  # between batches: median, 95th percentile, longest
    wait_seconds: Seconds = 0.0  # spent waiting for batches
    gpu: GpuCost | None = None

    @property
    def rate(self) -> float:
        return self.images / self.seconds


Repeats: TypeAlias = Annotated[tuple[Repeat, ...], msgspec.Meta(min_length=1)]


class Line(_Record, frozen=True, kw_only=True):
    """A benchmark subject's repeats. ``name`` is unique within a run; ``compare`` joins two runs by it."""

    name: str
    repeats: Repeats
    peak_memory_bytes: Count = 0  # of its processes with their workers

    @property
    def rates(self) -> list[float]:
        return [repeat.rate for repeat in self.repeats]

    @property
    def rate(self) -> float:
        """The median of images per second."""
        return median(self.rates)

    @property
    def cpu_seconds_per_thousand(self) -> float:
        """Processor seconds for a thousand images, over all repeats; 0 where they were not measured."""
        return 1000 * sum(r.cpu_seconds for r in self.repeats) / sum(r.images for r in self.repeats)

    def rates_by_process(self) -> list[float]:
        """The median of images per second in each process: repeats of one process are not independent."""
        processes = dict.fromkeys(repeat.process for repeat in self.repeats)
        return [median(r.rate for r in self.repeats if r.process == process) for process in processes]


class LoaderWork(_Record, frozen=True, kw_only=True):
    """What a loader does: which, on what, and where."""

    peer: str  # its name in bench.peers.PEERS
    storage: str  # what the shards store; see shards.format.layout
    engine: str = ""  # of petseg's own loader, or PROCESSES or SCALED_DECODING; empty for others
    device: str = "cpu"  # or "cuda"
    augment: bool = False  # whether training augmentation is applied, with petseg's parameters
    mask: Mask = "onehot"  # (B, N, H, W), or "index" (B, H, W), as in petseg.Loader
    cache: Cache = "warm"

    @property
    def name(self) -> str:
        """What it is, without what varies between machines."""
        marks = ("gpu" * (self.device != "cpu"), "augmented" * self.augment, "index" * (self.mask == "index"),
                 "cold" * (self.cache == "cold"))  # fmt: skip
        return " ".join(word for word in (self.peer, self.storage, self.engine, *marks) if word)


class OutputCheck(_Record, frozen=True, kw_only=True):
    """How what a loader delivered in one complete epoch compares with the reference."""

    delivered: int  # samples, padding not counted
    missing: int  # samples of the split that did not come
    repeated: int  # samples that came more than once, beyond the first time
    compared: int  # samples whose pixels were compared
    image_difference: float  # mean absolute difference in levels of 0..255
    image_worst: float  # the same of the sample that differs most
    mask_difference: float  # share of mask pixels whose class differs


class LoaderLine(Line, frozen=True, kw_only=True):
    """One loader on one storage."""

    work: LoaderWork
    workers: int  # processes or threads; 0: the loader's own choice
    caveats: tuple[str, ...]  # what it does less or otherwise than petseg's; empty for the same work
    check: OutputCheck
    steady: bool  # when the timing began


class Limit(Line, frozen=True, kw_only=True):
    """One necessary part of the work when nothing else is done; ``storage``, ``mask``: empty where it holds for all."""

    storage: str = ""
    mask: str = ""
    how: str


class TrainLine(Line, frozen=True, kw_only=True):
    """Training from a loader; ``repeats`` are of end-to-end training."""

    model: str
    precision: str
    device: str
    size: str  # as in options: 128 or 96x160
    batch_size: int
    loader: Repeats  # the loader alone
    compute: Repeats  # training on one batch that is kept
    peak_gpu_bytes: Count | None = None

    @property
    def stall(self) -> float:
        """Part of the speed lost to the loader: 1 - end-to-end / compute-only; slightly negative values are noise."""
        return 1 - self.rate / median(repeat.rate for repeat in self.compute)


class BuildLine(Line, frozen=True, kw_only=True):
    """Packing, or a part of it; ``limit`` names the :class:`Limit` that it is held against."""

    workers: int
    bytes: Count  # that came out
    limit: str = ""


class Skipped(_Record, frozen=True, kw_only=True):
    """A benchmark subject that was not measured, and why."""

    name: str
    reason: str


class Results(_Record, frozen=True, kw_only=True):
    """One run of one benchmark. ``settings`` are the options as used; ``parts`` are the seconds of each part."""

    format: Literal["petseg-bench"] = "petseg-bench"
    version: Literal[3] = 3
    kind: Literal["loader", "train", "build"]
    environment: Environment
    data: DataInfo
    settings: dict[str, Any]
    lines: tuple[LoaderLine, ...] = ()
    train: tuple[TrainLine, ...] = ()
    build: tuple[BuildLine, ...] = ()
    skipped: tuple[Skipped, ...] = ()
    limits: tuple[Limit, ...] = ()
    parts: dict[str, Seconds] = {}


def results_json(results: Results) -> str:
    """Return a run as JSON."""
    return msgspec.json.format(msgspec.json.encode(results), indent=1).decode() + "\n"


def read_results(path: Path) -> Results:
    """Read a run; a :class:`FormatError` says that it is no result of this program, or of another version."""
    try:
        results = msgspec.json.decode(read_regular(path), type=Results)
        names = Counter(line.name for line in (*results.lines, *results.train, *results.build))
        if twice := [name for name, count in names.items() if count > 1]:
            raise msgspec.ValidationError(f"it has two lines of the name {abridged(twice[0])!r}")
        return results
    except (msgspec.DecodeError, RecursionError) as error:
        text = f"{path} is not what petseg-bench --json writes in format {VERSION}: {first_line(error)}"
        raise FormatError(f"{text}; run the benchmark again") from None
