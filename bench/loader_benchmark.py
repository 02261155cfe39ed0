"""``petseg-bench loader``: every loader on every storage, checked, warmed up, and timed in rounds."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, TypeVar

import msgspec
from msgspec.structs import asdict, replace

from bench.core.limits import LimitSubject, copy_limit, storage_limits
from bench.core.loader_subject import LoaderSubject, ProcessSubject, References
from bench.core.machine import RunClock, usable_cores, why_no_gpu
from bench.core.output_check import CheckError
from bench.core.rounds import PartSeconds, Subject, run_rounds
from bench.core.workspace import Workspace, open_workspace
from bench.peers import PEERS, PeerSpec
from bench.peers.job import PROCESSES, Job
from bench.results.goals import FIRST_BATCH, IMPORT_TORCH
from bench.results.records import BASELINE, Line, LoaderLine, LoaderWork, MemoryLine, Repeat, Results, Skipped
from bench.settings import LoaderSettings
from shards.errors import UsageError

INDEX_STORAGE = "raw"  # with masks of both forms: where classes instead of one-hot make a difference worth a pass
PATIENCE_SECONDS = 120.0  # for a start
MAX_SOAK_SECONDS = 20.0  # for one storage; where the epochs requested take longer, fewer are run

_FIRST_BATCH = """
import sys
from pipeline import Loader
shards, split, device = sys.argv[1:4]
loader = Loader(shards, split=split, batch_size=int(sys.argv[4]), size=int(sys.argv[5]), device=device, augment="train")
batch = next(iter(loader))
batch.image[-1, -1, -1, -1].item()
"""
S = TypeVar("S", bound=Subject)
_READY = "\nimport time; print(time.monotonic(), flush=True)\n"  # the clock is the same in all processes


def run_loader_benchmark(settings: LoaderSettings, *, parts: PartSeconds) -> Results:
    """Measure, and return everything that was found.

    Raises:
        UsageError: an option is wrong, or nothing could be measured.
        FormatError: no shard set, or damaged.
    """
    if settings.device == "cuda" and (reason := why_no_gpu()):
        raise UsageError(f"--device cuda: {reason}")
    clock, skipped, lines, limits = RunClock(), list[Skipped](), list[LoaderLine](), list[LimitSubject]()

    def measure(subjects: Sequence[S], repeats: int = settings.repeats) -> list[S]:
        return run_rounds(subjects, repeats=repeats, seed=settings.seed, parts=parts, skipped=skipped)

    with loader_workspace(settings, parts) as (workspace, references):
        for number, one in enumerate(passes(settings)):
            limits += _limits(settings, workspace) if number == 0 else []
            planned = plan_pass(settings, workspace, one, skipped, earlier=lines)
            loaders = [LoaderSubject(*x, references=references, seconds=settings.seconds) for x in planned]
            measured = measure([*limits, *loaders] if number == 0 else loaders)
            lines += [loader.line() for loader in loaders if loader in measured]
        ours = not settings.peers or any(spec.ours and spec.name in settings.peers for spec in PEERS)
        soaks, starts = (_soaks(settings, workspace), _starts(settings, workspace)) if ours else ([], [])
        memory = [subject.line() for subject in measure(soaks, repeats=min(1, settings.soak))]
        started = [Line(name=x.name, repeats=tuple(x.repeats)) for x in measure(starts, repeats=settings.starts)]
    refuse_empty(lines, skipped)
    return Results(
        kind="loader", environment=clock.finish(), data=workspace.data, parts=parts.rounded(),
        settings=msgspec.to_builtins(settings, enc_hook=str), lines=tuple(lines), memory=tuple(memory),
        starts=tuple(started), skipped=tuple(skipped),
        limits=tuple(limit.line() for limit in limits),
    )  # fmt: skip


def refuse_empty(lines: Sequence[Line], skipped: Sequence[Skipped]) -> None:
    """Refuse a run without lines.

    Raises:
        UsageError: with the reasons.
    """
    if not lines:
        reasons = "; ".join(f"{one.name}: {one.reason}" for one in skipped)
        raise UsageError(f"nothing could be measured: {reasons or 'no loader fits the options'}")


@contextmanager
def loader_workspace(settings: LoaderSettings, parts: PartSeconds) -> Iterator[tuple[Workspace, References]]:
    """Write what loaders read, and be ready to make what they should deliver."""
    with ExitStack() as stack:
        with parts.part("lay out"):
            workspace = stack.enter_context(
                open_workspace(
                    settings.shards, split=settings.split, storages=settings.storages, size=settings.size,
                    source=settings.source, work=settings.work,
                )
            )  # fmt: skip
        yield workspace, stack.enter_context(References(workspace.folder))


def passes(settings: LoaderSettings) -> list[LoaderWork]:
    """Return what is measured, one pass after another: work whose storage, where it is not empty, is the only one.

    Cold passes are of evaluation, unless only training is requested: what reading costs does not depend on it. With
    masks of both forms, class indices are a pass of their own over ``raw`` storage, evaluation, warm.
    """
    augments = {"none": [False], "train": [True], "both": [False, True]}[settings.augment]
    plain = LoaderWork(peer="", storage="", mask="index" if settings.mask == "index" else "onehot")
    found = [replace(plain, augment=augment) for augment in augments] if settings.cache != "cold" else []
    if found and settings.mask == "both" and False in augments and INDEX_STORAGE in settings.storages:
        found.insert(1, replace(plain, mask="index", storage=INDEX_STORAGE))
    if settings.cache != "warm":
        found.append(replace(plain, augment=augments[0], cache="cold"))
    return found


def plan_pass(
    settings: LoaderSettings, workspace: Workspace, one: LoaderWork, skipped: list[Skipped],
    *, earlier: Sequence[LoaderLine] = (),
) -> Iterator[tuple[LoaderWork, PeerSpec, Job]]:  # fmt: skip
    """Yield every loader on every storage of a pass; note those that cannot be. ``earlier`` lines say how many workers
    a loader was fastest with.
    """
    no_gpu = why_no_gpu() if settings.device == "cpu" else ""
    for storage in [storage for storage in workspace.stored if storage in settings.storages]:
        for spec in PEERS:
            wanted = not settings.peers or spec.name in settings.peers
            if (
                not wanted
                or storage not in spec.storages
                or (one.storage not in ("", storage) and spec.name != BASELINE)
            ):
                continue
            work = replace(one, peer=spec.name, storage=storage)
            problem = f"not installed: {', '.join(spec.missing())} ({spec.install})" if spec.missing() else ""
            if one.augment and not spec.augments:
                problem = problem or "has no training augmentation in its peer file"
            if problem:
                skipped.append(Skipped(name=work.name, reason=problem))
                continue
            kinds = [replace(work, engine=engine) for engine in (("torch", PROCESSES) if spec.ours else ("",))]
            on_gpu = replace(work, engine="dali" if spec.ours else "", device="cuda")
            if spec.ours and no_gpu:
                skipped.append(Skipped(name=on_gpu.name, reason=no_gpu))
            for kind in [*kinds, on_gpu] if settings.device == "cuda" else kinds:
                yield kind, spec, _job(settings, workspace, kind, earlier)


def _job(settings: LoaderSettings, workspace: Workspace, work: LoaderWork, earlier: Sequence[LoaderLine]) -> Job:
    stored = workspace.stored[work.storage]
    folder = workspace.folder / "work" / f"{work.peer}-{work.storage}"
    folder.mkdir(parents=True, exist_ok=True)
    what = asdict(replace(work, augment=False, mask="onehot", cache="warm"))
    best = (line.workers for line in earlier if asdict(replace(line.work, augment=False, mask="onehot")) == what)
    return Job(
        **{name: value for name, value in asdict(work).items() if name != "cache"}, work=str(folder),
        shards=str(stored.shards.resolve()), split=settings.split, files=str(stored.files), keys=str(stored.keys),
        samples=workspace.data.samples, size=settings.size, batch_size=settings.batch_size, seed=settings.seed,
        workers=settings.workers or next(best, 0), cores=usable_cores(), handicap=settings.handicap,
    )  # fmt: skip


def _limits(settings: LoaderSettings, workspace: Workspace) -> list[LimitSubject]:
    found = [copy_limit(size=settings.size, samples=workspace.data.samples)]
    for stored in (stored for storage, stored in workspace.stored.items() if storage in settings.storages):
        found += storage_limits(stored, size=settings.size, seed=settings.seed)
    return found


class StartSubject(Subject):
    """A fresh Python that runs a program until it prints the time on the clock."""

    part = "starts"

    def __init__(self, name: str, *arguments: str) -> None:
        super().__init__(name)
        self._arguments = arguments

    def turn(self) -> Repeat:
        """Return how long ``python -c ARGUMENTS`` takes from its start until it is ready."""
        start = time.monotonic()
        try:
            done = subprocess.run([sys.executable, "-c", *self._arguments], capture_output=True, text=True, check=False,
                                  timeout=PATIENCE_SECONDS)  # fmt: skip
            return Repeat(images=1, seconds=float(done.stdout) - start)
        except subprocess.TimeoutExpired:
            raise CheckError(f"the process did not end within {PATIENCE_SECONDS:.0f} s") from None
        except ValueError:
            last = done.stderr.strip().splitlines()[-1:] or [f"exit {done.returncode}"]
            raise CheckError(f"the process ended before it was ready: {last[0]}") from None


def _starts(settings: LoaderSettings, workspace: Workspace) -> list[StartSubject]:
    """Return importing torch alone, and the ways to a first batch."""
    subjects = [StartSubject(name, name + _READY) for name in (IMPORT_TORCH, "import torchvision")]
    sizes = [str(settings.batch_size), str(settings.size)]
    for storage in (storage for storage in workspace.stored if storage in settings.storages):
        where = [str(workspace.stored[storage].shards.resolve()), settings.split, settings.device]
        subjects.append(StartSubject(FIRST_BATCH + storage, _FIRST_BATCH + _READY, *where, *sizes))
    return subjects


class MemorySubject(ProcessSubject):
    """Many epochs in a row in one process, whose memory is read after each."""

    part = "memory"
    job: Job

    def __init__(self, name: str, job: Job, *, epochs: int) -> None:
        super().__init__(name, job)
        self._epochs = epochs
        self._found: dict[str, Any] = {}

    def turn(self) -> Repeat:
        """Run the epochs, no longer than a while."""
        started = time.perf_counter()
        self.ask("prepare")
        self._found = self.ask("soak", epochs=self._epochs, seconds=MAX_SOAK_SECONDS)
        images = self.job.samples * len(self._found["memory_bytes"])
        return Repeat(images=images, seconds=time.perf_counter() - started)

    def line(self) -> MemoryLine:
        """Return what was found."""
        batch_bytes = self.job.batch_size * 6 * self.job.size**2
        return MemoryLine(name=self.name, storage=self.job.storage, batch_bytes=batch_bytes, **self._found)


def _soaks(settings: LoaderSettings, workspace: Workspace) -> list[MemorySubject]:
    """Return each storage with the engine that petseg's loader takes, augmented if that is requested."""
    one = LoaderWork(peer="", storage="", augment=settings.augment != "none")
    return [
        MemorySubject(f"memory, {work.name}", replace(job, handicap=0.0), epochs=settings.soak)
        for work, spec, job in plan_pass(settings, workspace, one, [])
        if spec.ours and job.device == settings.device and job.engine != PROCESSES
    ]
