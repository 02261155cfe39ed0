"""``petseg-bench loader``: every loader on every storage, checked, warmed up, and timed in rounds."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import msgspec

from bench.core.limits import LimitSubject, copy_limit, limits_of_storage
from bench.core.loader_subject import LoaderSubject, ProcessSubject, References
from bench.core.machine import RunClock, why_no_gpu
from bench.core.output_check import CheckError
from bench.core.rounds import PartSeconds, Subject, run_rounds
from bench.core.workspace import Workspace, open_workspace
from bench.job import PROCESSES, Job
from bench.loader_plan import LoaderSettings, Pass, passes, plan_pass
from bench.results.goals import FIRST_BATCH, IMPORT_TORCH
from bench.results.records import Line, LoaderLine, MemoryLine, Repeat, Results, Skipped
from shards.errors import UsageError

PATIENCE_SECONDS = 120.0  # for a start
MAX_SOAK_SECONDS = 20.0  # for one storage; where the epochs asked for take longer, fewer are run

_FIRST_BATCH = """
import sys
from pipeline import Loader
shards, split, device = sys.argv[1:4]
loader = Loader(shards, split=split, batch_size=int(sys.argv[4]), size=int(sys.argv[5]), device=device, augment="train")
batch = next(iter(loader))
batch.image[-1, -1, -1, -1].item()
"""
_READY = '\nprint("ready", flush=True)\n'


def run_loader_benchmark(settings: LoaderSettings, *, parts: PartSeconds) -> Results:
    """Measure, and return everything that was found.

    Raises:
        UsageError: an option is wrong, or nothing could be measured.
        FormatError: no shard set, or damaged.
    """
    if settings.device == "cuda" and (reason := why_no_gpu()):
        raise UsageError(f"--device cuda: {reason}")
    clock, skipped, lines, limits = RunClock(), list[Skipped](), list[LoaderLine](), list[LimitSubject]()
    with loader_workspace(settings, parts) as (workspace, references):
        for one in passes(settings):
            loaders = [
                LoaderSubject(*planned, references=references, cache=one.cache, seconds=settings.seconds)
                for planned in plan_pass(settings, workspace, one, skipped, earlier=lines)
            ]
            probes = [] if limits else _limits(settings, workspace)
            limits += probes
            measured = run_rounds(
                [*probes, *loaders], repeats=settings.repeats, seed=settings.seed, parts=parts, skipped=skipped
            )
            lines += [loader.line() for loader in loaders if loader in measured]
        ours = settings.measures_ours
        memory = measure_memory(settings, workspace, skipped=skipped, parts=parts) if ours and settings.soak else []
        starts = measure_starts(settings, workspace, skipped=skipped, parts=parts) if ours and settings.starts else []
    if not lines:
        reasons = "; ".join(f"{one.name}: {one.reason}" for one in skipped)
        raise UsageError(f"nothing could be measured: {reasons or 'no loader fits the options'}")
    return Results(
        kind="loader",
        environment=clock.finish(),
        data=workspace.data,
        settings=msgspec.to_builtins(settings, enc_hook=str),
        lines=tuple(lines),
        starts=tuple(starts),
        memory=tuple(memory),
        skipped=tuple(skipped),
        limits=tuple(limit.line() for limit in limits),
        parts=parts.rounded(),
    )


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


def _limits(settings: LoaderSettings, workspace: Workspace) -> list[LimitSubject]:
    found = [copy_limit(size=settings.size, samples=workspace.data.samples)]
    for storage, stored in workspace.stored.items():
        if storage in settings.storages:
            found += limits_of_storage(stored, size=settings.size, seed=settings.seed)
    return found


class StartSubject(Subject):
    """A fresh Python that runs a program until it prints a line."""

    part = "starts"

    def __init__(self, name: str, arguments: Sequence[str]) -> None:
        super().__init__(name)
        self.arguments = arguments

    def turn(self) -> Repeat:
        """Return how long ``python -c ARGUMENTS`` takes from its start until it has printed ``ready``."""
        start = time.perf_counter()
        with subprocess.Popen(
            [sys.executable, "-c", *self.arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            line = process.stdout.readline()
            seconds = time.perf_counter() - start
            try:
                _, errors = process.communicate(timeout=PATIENCE_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                raise CheckError(f"the process did not end within {PATIENCE_SECONDS:.0f} s") from None
        if line.strip() != "ready":
            last = errors.strip().splitlines()[-1:] or [f"exit {process.returncode}"]
            raise CheckError(f"the process ended before it was ready: {last[0]}")
        return Repeat(images=1, seconds=seconds)


def measure_starts(
    settings: LoaderSettings, workspace: Workspace, *, skipped: list[Skipped], parts: PartSeconds
) -> list[Line]:
    """Start each way ``settings.starts`` times, in turns: importing torch alone, and to the first batch."""
    subjects = [StartSubject(name, [name + _READY]) for name in (IMPORT_TORCH, "import torchvision")]
    for storage, stored in workspace.stored.items():
        if storage in settings.storages:
            where = [str(stored.shards.resolve()), settings.split, settings.device]
            sizes = [str(settings.batch_size), str(settings.size)]
            subjects.append(StartSubject(FIRST_BATCH + storage, [_FIRST_BATCH + _READY, *where, *sizes]))
    measured = run_rounds(subjects, repeats=settings.starts, seed=settings.seed, parts=parts, skipped=skipped)
    return [Line(name=subject.name, repeats=tuple(subject.repeats)) for subject in measured]


class MemorySubject(ProcessSubject):
    """Many epochs in a row in one process, whose memory is read after each."""

    part = "memory"
    job: Job

    def __init__(self, name: str, job: Job, *, epochs: int) -> None:
        super().__init__(name, job)
        self.epochs = epochs
        self.found: dict[str, Any] = {}

    def turn(self) -> Repeat:
        """Run the epochs, no longer than a while."""
        started = time.perf_counter()
        self.ask("prepare")
        self.found = self.ask("soak", epochs=self.epochs, seconds=MAX_SOAK_SECONDS)
        images = self.job.samples * len(self.found["memory_bytes"])
        return Repeat(images=images, seconds=time.perf_counter() - started)

    def line(self) -> MemoryLine:
        """Return what was found."""
        batch_bytes = self.job.batch_size * 6 * self.job.size**2
        return MemoryLine(name=self.name, storage=self.job.storage, batch_bytes=batch_bytes, **self.found)


def measure_memory(
    settings: LoaderSettings, workspace: Workspace, *, skipped: list[Skipped], parts: PartSeconds
) -> list[MemoryLine]:
    """Run ``settings.soak`` epochs of each storage with the engine that petseg's loader takes, augmented if that is
    asked for.
    """
    subjects = []
    for _, spec, job in plan_pass(settings, workspace, Pass(augment=settings.augment != "none"), []):
        if spec.ours and job.device == settings.device and job.engine != PROCESSES:
            name = f"{job.storage}, {job.engine} engine{', augmented' if job.augment else ''}"
            plain = msgspec.structs.replace(job, handicap=0.0)
            subjects.append(MemorySubject(f"memory, {name}", plain, epochs=settings.soak))
    measured = run_rounds(subjects, repeats=1, seed=settings.seed, parts=parts, skipped=skipped)
    return [subject.line() for subject in measured]
