"""Which lines a pass has: every loader on every storage, or the reason why not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from bench.environment import usable_cores
from bench.gpu import why_no_gpu
from bench.job import PROCESSES, Job
from bench.loader_settings import LoaderSettings, Pass
from bench.peers import PEERS, PeerSpec
from bench.results import Left, Line
from bench.workspace import Stored, Workspace

ENGINES = ("dali", "torch", PROCESSES)


def planned(
    settings: LoaderSettings, workspace: Workspace, one: Pass, left: list[Left]
) -> Iterator[tuple[str, PeerSpec, Job]]:
    """Yield name, peer and job of every line of a pass; note those that cannot be."""
    devices = ["cpu"] if settings.device == "cpu" else ["cpu", "cuda"]
    no_gpu = why_no_gpu() if settings.device == "cpu" else ""
    for storage, stored in workspace.stored.items():
        if storage not in settings.storages:
            continue
        for spec in PEERS:
            if (settings.peers and spec.name not in settings.peers) or storage not in spec.storages:
                continue
            if not one.holds(spec.name, storage):
                continue
            name = line_name(spec.name, storage, "", one)
            if missing := spec.missing():
                left.append(Left(name=name, reason=f"not installed: {', '.join(missing)} ({spec.install})"))
                continue
            if one.augment and not spec.augments:
                left.append(Left(name=name, reason="has no training augmentation in its peer file"))
                continue
            for device in devices:
                for engine in (ENGINES if device == "cpu" else ("dali",)) if spec.ours else ("",):
                    job = _job(settings, workspace, stored, spec, one, engine=engine, device=device)
                    yield line_name(spec.name, storage, engine, one, device=device), spec, job
            if spec.ours and no_gpu:
                left.append(Left(name=line_name(spec.name, storage, "dali", one, device="cuda"), reason=no_gpu))


def line_name(peer: str, storage: str, engine: str, one: Pass, *, device: str = "cpu") -> str:
    """Return the name of a line: what it is, without what varies between machines."""
    words = [peer, storage, engine, "" if device == "cpu" else "gpu", "augmented" if one.augment else ""]
    words += ["index" if one.mask == "index" else "", "cold" if one.cache == "cold" else ""]
    return " ".join(word for word in words if word)


def with_workers(job: Job, lines: Sequence[Line]) -> Job:
    """Keep the number of workers that the same loader was fastest with in an earlier pass, rather than try again."""
    wanted = (job.peer, job.storage, job.engine, job.device)
    for line in lines:
        if (line.peer, line.storage, line.engine, line.device) == wanted and line.workers:
            return msgspec.structs.replace(job, workers=line.workers)
    return job


def _job(
    settings: LoaderSettings,
    workspace: Workspace,
    stored: Stored,
    spec: PeerSpec,
    one: Pass,
    *,
    engine: str,
    device: str,
) -> Job:
    work = workspace.folder / "work" / f"{spec.name}-{stored.storage}"
    work.mkdir(parents=True, exist_ok=True)
    return Job(
        peer=spec.name,
        storage=stored.storage,
        shards=str(stored.shards.resolve()),
        pictures=str(stored.pictures),
        keys=str(stored.keys),
        work=str(work),
        split=settings.split,
        samples=workspace.data.samples,
        size=settings.size,
        batch_size=settings.batch_size,
        augment=one.augment,
        seed=settings.seed,
        workers=settings.workers,
        cores=usable_cores(),
        mask=one.mask,
        device=device,
        engine=engine,
        handicap=settings.handicap,
    )
