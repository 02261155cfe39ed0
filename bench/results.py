"""What a benchmark writes down: everything that a reader needs to repeat it and to judge it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal, TypeAlias

import msgspec

from shards.errors import FormatError
from shards.store.atomic import write_atomically

FORMAT = "petseg-bench"
VERSION = 1

Kind: TypeAlias = Literal["loader", "train", "build"]


class _Entry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Immutable, named fields only."""


class Environment(_Entry, frozen=True, kw_only=True):
    """Where and how it was measured.

    Attributes:
        command: as typed.
        started: local time, ISO 8601 with the zone.
        seconds: how long all of it took.
        commit: of the source tree, with ``+changes`` where files differ from it; None outside a checkout.
        system: operating system and kernel.
        cpu: the processor's name.
        cores: that the process may use.
        last_level_cache_bytes: of the processor; None where unknown.
        memory_bytes: of the machine.
        gpu: name and driver of each CUDA device.
        load_before: the system's load average (1 minute) before the start.
        load_after: the same at the end.
        versions: of Python and of the libraries that were there.
    """

    command: str
    started: str
    seconds: float
    commit: str | None
    system: str
    cpu: str
    cores: int
    last_level_cache_bytes: int | None
    memory_bytes: int
    gpu: tuple[str, ...]
    load_before: float | None
    load_after: float | None
    versions: dict[str, str]


class Data(_Entry, frozen=True, kw_only=True):
    """What was read. ``bytes`` is what the split takes on the disk, by storage."""

    path: str
    fingerprint: str
    split: str
    samples: int
    bytes: dict[str, int]


class GpuCost(_Entry, frozen=True, kw_only=True):
    """What one timed repeat cost on the GPU's side.

    Attributes:
        host_wait_seconds: how long the host waited for batches.
        device_seconds: between CUDA events before the first batch and after the last one.
        moved_bytes: to the device; encoded pictures or pixels, whichever crosses.
    """

    host_wait_seconds: float
    device_seconds: float
    moved_bytes: int


class Repeat(_Entry, frozen=True, kw_only=True):
    """One timed repeat: whole epochs.

    Attributes:
        pictures: delivered, padding not counted.
        seconds: from asking for the first batch to having the last one.
        cpu_seconds: user + system time of the process and its workers meanwhile.
        batch_ms: median, 95th percentile and longest time between batches, milliseconds.
        gpu: None on the CPU.
    """

    pictures: int
    seconds: float
    cpu_seconds: float
    batch_ms: tuple[float, float, float]
    gpu: GpuCost | None = None

    @property
    def rate(self) -> float:
        """Pictures per second."""
        return self.pictures / self.seconds


class Check(_Entry, frozen=True, kw_only=True):
    """How what a loader delivered in one whole epoch compares with the reference.

    Attributes:
        delivered: samples, padding not counted.
        missing: samples of the split that did not come.
        repeated: samples that came more than once, beyond the first time.
        compared: samples whose pixels were compared.
        image_difference: mean absolute difference of pictures in levels of 0..255, over all compared.
        image_worst: the same of the sample that differs most.
        mask_difference: share of mask pixels whose class differs.
    """

    delivered: int
    missing: int
    repeated: int
    compared: int
    image_difference: float
    image_worst: float
    mask_difference: float


class Line(_Entry, frozen=True, kw_only=True):
    """One loader on one storage.

    Attributes:
        name: unique within a run; what ``compare`` joins by.
        peer, storage, engine, device: which loader, on what, and where.
        default: whether it is what our Loader takes by itself on this storage; False for others.
        augment: with training augmentation.
        mask: form of the masks.
        cache: ``warm``, or ``cold``: the files were dropped from the page cache before each repeat.
        workers: processes or threads; 0: the loader's own choice.
        tried: pictures per second in a short trial, by number of workers.
        marks: what it does less or otherwise than ours; empty for the same work.
        check: before the timing.
        warmup_seconds: until steady.
        steady: whether it was steady when the timing began.
        prepare_seconds: for converting the pictures into its own format; None: nothing to convert.
        repeats: the timed ones.
        peak_memory_bytes: of the process and its workers.
        resident_before: cold only: the largest part of the files that was in the page cache all the same.
        spent: seconds that starting the process and each kind of command took, in all.
    """

    name: str
    peer: str
    storage: str
    engine: str
    device: str
    augment: bool
    mask: Literal["onehot", "index"] = "onehot"
    default: bool = False
    cache: Literal["warm", "cold"]
    workers: int
    tried: dict[str, float]
    marks: tuple[str, ...]
    check: Check
    warmup_seconds: float
    steady: bool
    prepare_seconds: float | None
    repeats: tuple[Repeat, ...]
    peak_memory_bytes: int
    resident_before: float | None = None
    spent: dict[str, float] = {}

    @property
    def rates(self) -> list[float]:
        """Pictures per second of each repeat."""
        return [repeat.rate for repeat in self.repeats]

    @property
    def cpu_seconds_per_thousand(self) -> float:
        """Processor seconds for a thousand pictures, over all repeats."""
        return 1000 * sum(r.cpu_seconds for r in self.repeats) / sum(r.pictures for r in self.repeats)


class Left(_Entry, frozen=True, kw_only=True):
    """A line that was not measured, and why."""

    name: str
    reason: str


class Limit(_Entry, frozen=True, kw_only=True):
    """What one necessary part of the work costs on these cores when nothing else is done.

    Attributes:
        name: the part.
        storage: for which storage; empty for all.
        rates: pictures per second in each repeat.
        how: with what it was measured.
    """

    name: str
    storage: str
    rates: tuple[float, ...]
    how: str


class TrainLine(_Entry, frozen=True, kw_only=True):
    """Training, or a consumer in its place, with one loader.

    Attributes:
        name: unique within a run.
        model, precision, device: of the network; the model is ``consumer`` for one that only takes N pictures/s.
        size, batch_size: as trained.
        loader_rates: pictures per second of the loader alone, each repeat.
        memory_rates: of training on one batch kept in memory (or what the consumer could take).
        real_rates: of training from the loader.
        wait_share: part of the real mode's time spent waiting for a batch, each repeat.
        step_ms: median and 95th percentile of a real step.
        peak_memory_bytes: of the process.
        peak_gpu_bytes: allocated on the device; None on the CPU.
        gpu: of the last real repeat; None on the CPU.
    """

    name: str
    model: str
    precision: str
    device: str
    size: int
    batch_size: int
    loader_rates: tuple[float, ...]
    memory_rates: tuple[float, ...]
    real_rates: tuple[float, ...]
    wait_share: tuple[float, ...]
    step_ms: tuple[float, float]
    peak_memory_bytes: int
    peak_gpu_bytes: int | None = None
    gpu: GpuCost | None = None


class StartLine(_Entry, frozen=True, kw_only=True):
    """From starting a fresh Python process until something is there.

    Attributes:
        name: what is waited for.
        storage: of the set whose first batch it is; empty for an import alone.
        seconds: of each repeat.
    """

    name: str
    storage: str
    seconds: tuple[float, ...]


class SoakLine(_Entry, frozen=True, kw_only=True):
    """The memory of our loader's process over many epochs in a row.

    Attributes:
        name: storage and engine.
        epochs: as many.
        samples: in an epoch.
        batch_bytes: one batch's pixels, picture and mask.
        prefetch: batches that are kept ready.
        memory_bytes: after each epoch, see :func:`bench.process_tree.memory_bytes`.
    """

    name: str
    epochs: int
    samples: int
    batch_bytes: int
    prefetch: int
    memory_bytes: tuple[int, ...]


class BuildLine(_Entry, frozen=True, kw_only=True):
    """Packing, or a part of it.

    Attributes:
        name: unique within a run.
        seconds: of each repeat.
        pictures: that went in.
        workers: processes.
        bytes: that came out.
        peak_memory_bytes: of the process and its workers, beyond what the process had before.
        limit: name of the limit that it is held against, see :class:`Limit`; empty for none.
        cpu_seconds: user + system time of the process and its workers, each repeat.
    """

    name: str
    seconds: tuple[float, ...]
    pictures: int
    workers: int
    bytes: int
    peak_memory_bytes: int
    limit: str = ""
    cpu_seconds: tuple[float, ...] = ()

    @property
    def rates(self) -> list[float]:
        """Pictures per second of each repeat."""
        return [self.pictures / seconds for seconds in self.seconds]


class Results(_Entry, frozen=True, kw_only=True):
    """One run of one benchmark. ``settings`` are the options as used; ``parts`` are the seconds of each part."""

    format: Literal["petseg-bench"]
    version: Literal[1]
    kind: Kind
    environment: Environment
    data: Data
    settings: dict[str, Any]
    lines: tuple[Line, ...] = ()
    starts: tuple[StartLine, ...] = ()
    soak: tuple[SoakLine, ...] = ()
    train: tuple[TrainLine, ...] = ()
    build: tuple[BuildLine, ...] = ()
    left: tuple[Left, ...] = ()
    limits: tuple[Limit, ...] = ()
    parts: dict[str, float] = {}


def write_results(results: Results, path: Path) -> None:
    """Write a run as JSON, whole or not at all."""
    write_atomically(path, results_json(results) + "\n")


def results_json(results: Results) -> str:
    """Return a run as JSON."""
    return json.dumps(msgspec.to_builtins(results), indent=1, allow_nan=False)


def read_results(path: Path) -> Results:
    """Read a run.

    Raises:
        FormatError: it is no result of this program, or of another version.
        OSError: it cannot be read.
    """
    try:
        document = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        raise FormatError(f"{path} is not JSON; give a file that petseg-bench wrote with --json") from None
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise FormatError(f"{path} is not a result of petseg-bench; give a file that it wrote with --json")
    if document.get("version") != VERSION:
        raise FormatError(f"{path} is of version {document.get('version')!r}, this program reads {VERSION}")
    try:
        return msgspec.convert(document, Results)
    except msgspec.ValidationError as error:
        raise FormatError(f"{path} is damaged: {error}") from None
