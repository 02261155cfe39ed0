"""``petseg-bench loader``: every loader on every storage, checked, warmed up, and timed in rounds."""

from __future__ import annotations

import random
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import msgspec

from bench.environment import Started, usable_cores
from bench.gpu import gpu_names, why_no_gpu
from bench.job import Job
from bench.lanes import hang_up, open_lanes
from bench.limits import Probe, copy_probe, make_probes, run_probe
from bench.loader_settings import LoaderSettings, Note, passes
from bench.parts import Parts
from bench.peers import PeerSpec
from bench.plan import planned, with_workers
from bench.references import References
from bench.results import Left, Limit, Line, Results
from bench.soak import run_soak
from bench.starts import run_starts
from bench.workspace import Workspace, workspace_of
from shards.errors import UsageError


def run_loader_bench(settings: LoaderSettings, *, note: Note) -> Results:
    """Measure, and return everything that was found.

    Args:
        settings: the options.
        note: is told in a line what is done now.

    Raises:
        UsageError: an option is wrong, or nothing could be measured.
        FormatError: no shard set, or damaged.
    """
    settings.check()
    if settings.device == "cuda" and (reason := why_no_gpu()):
        raise UsageError(f"--device cuda: {reason}")
    started, parts = Started(), Parts()
    with ExitStack() as stack:
        with parts.of("lay out"):
            workspace = stack.enter_context(workspace_of(settings))
            references = stack.enter_context(References(workspace.folder))
        left: list[Left] = []
        lines: list[Line] = []
        limits: dict[Probe, list[float]] = {}
        for number, one in enumerate(passes(settings)):
            jobs = [
                (name, spec, with_workers(job, lines)) for name, spec, job in planned(settings, workspace, one, left)
            ]
            probes = _probes(settings, workspace) if number == 0 else []
            lines += _measure(
                jobs,
                settings,
                references,
                cache=one.cache,
                left=left,
                probes=probes,
                limits=limits,
                parts=parts,
                note=note,
            )
        with parts.of("memory"):
            soak = run_soak(settings, workspace, left=left, note=note) if settings.measures_ours else []
        with parts.of("starts"):
            starts = run_starts(settings, workspace, left=left, note=note) if settings.measures_ours else []
        data = workspace.data
    if not lines:
        reasons = "; ".join(f"{one.name}: {one.reason}" for one in left)
        raise UsageError(f"nothing could be measured: {reasons or 'no loader fits the options'}")
    return Results(
        format="petseg-bench",
        version=1,
        kind="loader",
        environment=started.finish(gpu=gpu_names()),
        data=data,
        settings=_plain(settings),
        lines=tuple(lines),
        starts=tuple(starts),
        soak=tuple(soak),
        left=tuple(left),
        limits=tuple(
            Limit(name=probe.name, storage=probe.storage, rates=tuple(rates), how=probe.how)
            for probe, rates in limits.items()
        ),
        parts=parts.rounded(),
    )


def _probes(settings: LoaderSettings, workspace: Workspace) -> list[Probe]:
    probes = [copy_probe(size=settings.size, samples=workspace.data.samples)]
    for storage, stored in workspace.stored.items():
        if storage in settings.storages:
            probes += make_probes(stored, split=settings.split, size=settings.size, seed=settings.seed)
    return probes


def _measure(
    jobs: Sequence[tuple[str, PeerSpec, Job]],
    settings: LoaderSettings,
    references: References,
    *,
    cache: str,
    left: list[Left],
    probes: Sequence[Probe],
    limits: dict[Probe, list[float]],
    parts: Parts,
    note: Note,
) -> list[Line]:
    """Measure one pass: open and check each peer, then let them take turns."""
    with ExitStack() as stack:
        with parts.of("open"):
            lanes = open_lanes(jobs, references, cache=cache, left=left, stack=stack, note=note)
        order = random.Random(settings.seed)
        for number in range(settings.repeats):
            for probe in probes:
                note(f"round {number + 1} of {settings.repeats}: limit, {probe.name} {probe.storage}")
                with parts.of("limits"):
                    limits.setdefault(probe, []).append(run_probe(probe, cores=usable_cores()))
            for lane in order.sample(lanes, len(lanes)):
                if not lane.failed:
                    note(f"round {number + 1} of {settings.repeats}: {lane.name}")
                    with parts.of("turns"):
                        lane.take_turn(settings)
        left += [Left(name=lane.name, reason=lane.failed) for lane in lanes if lane.failed]
        with parts.of("close"):
            hang_up(lanes)
            stack.close()
        return [lane.line() for lane in lanes if not lane.failed]


def _plain(settings: LoaderSettings) -> dict[str, Any]:
    plain: dict[str, Any] = msgspec.to_builtins(settings, enc_hook=str)
    return plain


__all__ = ["LoaderSettings", "run_loader_bench"]
