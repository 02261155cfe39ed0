"""The options of ``petseg-bench loader``, and the subjects that follow from them: every loader on every storage."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import msgspec

from bench.core.machine import usable_cores, why_no_gpu
from bench.core.workspace import Workspace
from bench.job import Job
from bench.peers import PEERS, PeerSpec
from bench.results.records import BASELINE, PROCESSES, LoaderLine, Skipped
from shards.errors import UsageError

INDEX_STORAGE = "raw"  # with masks of both forms: where classes instead of one-hot make a difference worth a pass
Planned: TypeAlias = tuple[str, PeerSpec, Job]  # a subject's name, its peer, and what that does


@dataclass(frozen=True, kw_only=True)
class LoaderSettings:
    """The options of ``petseg-bench loader``; see its help.

    Raises:
        UsageError: an option cannot be.
    """

    shards: Path
    split: str = "train"
    storages: tuple[str, ...] = ("source", "jpeg", "raw")
    peers: tuple[str, ...] = ()
    size: int = 128
    batch_size: int = 32
    workers: int = 0
    repeats: int = 5
    seconds: float = 0.5
    augment: str = "both"
    mask: str = "both"
    cache: str = "warm"
    device: str = "cpu"
    seed: int = 0
    starts: int = 3
    soak: int = 100
    source: Path | None = None
    work: Path | None = None
    handicap: float = 0.0

    def __post_init__(self) -> None:
        known = [spec.name for spec in PEERS]
        for name in self.peers:
            if name not in known:
                raise UsageError(f"--peers: {name!r} is not known; there are: {', '.join(sorted(known))}")

    @property
    def measures_ours(self) -> bool:
        """Whether petseg's own loader is among the peers."""
        return not self.peers or any(spec.ours and spec.name in self.peers for spec in PEERS)


@dataclass(frozen=True)
class Pass:
    """A part of a run in which all subjects do the same work; ``only`` is the one storage that is measured, beside the
    baseline, or empty for all.
    """

    augment: bool = False
    cache: Literal["warm", "cold"] = "warm"
    mask: Literal["onehot", "index"] = "onehot"
    only: str = ""


def passes(settings: LoaderSettings) -> list[Pass]:
    """Return what is measured, one pass after another.

    Cold passes are of evaluation, unless only training is asked for: what reading costs does not depend on it. With
    masks of both forms, class indices are a pass of their own over ``raw`` storage, evaluation, warm.
    """
    augments = {"none": [False], "train": [True], "both": [False, True]}[settings.augment]
    form: Literal["onehot", "index"] = "index" if settings.mask == "index" else "onehot"
    found = []
    if settings.cache != "cold":
        found += [Pass(augment, "warm", form) for augment in augments]
        if settings.mask == "both" and False in augments and INDEX_STORAGE in settings.storages:
            found.insert(1, Pass(mask="index", only=INDEX_STORAGE))
    if settings.cache != "warm":
        found.append(Pass(augments[0], "cold", form))
    return found


def plan_pass(
    settings: LoaderSettings,
    workspace: Workspace,
    one: Pass,
    skipped: list[Skipped],
    *,
    earlier: Sequence[LoaderLine] = (),
) -> Iterator[Planned]:
    """Yield the subjects of a pass; note those that cannot be. ``earlier`` lines say how many workers to take."""
    no_gpu = why_no_gpu() if settings.device == "cpu" else ""
    workers = {(x.peer, x.storage, x.engine, x.device): x.workers for x in reversed(earlier)}
    for storage in [storage for storage in workspace.stored if storage in settings.storages]:
        for spec in PEERS:
            wanted = not settings.peers or spec.name in settings.peers
            if not wanted or storage not in spec.storages or not (one.only in ("", storage) or spec.name == BASELINE):
                continue
            name = subject_name(spec.name, storage, "", one)
            if missing := spec.missing():
                skipped.append(Skipped(name=name, reason=f"not installed: {', '.join(missing)} ({spec.install})"))
                continue
            if one.augment and not spec.augments:
                skipped.append(Skipped(name=name, reason="has no training augmentation in its peer file"))
                continue
            kinds = [("cpu", engine) for engine in (("torch", PROCESSES) if spec.ours else ("",))]
            if settings.device == "cuda":
                kinds.append(("cuda", "dali" if spec.ours else ""))
            for device, engine in kinds:
                job = _job(settings, workspace, spec, one, storage=storage, engine=engine, device=device)
                if not job.workers:
                    job = msgspec.structs.replace(job, workers=workers.get((spec.name, storage, engine, device), 0))
                yield subject_name(spec.name, storage, engine, one, device=device), spec, job
            if spec.ours and no_gpu:
                skipped.append(
                    Skipped(name=subject_name(spec.name, storage, "dali", one, device="cuda"), reason=no_gpu)
                )


def subject_name(peer: str, storage: str, engine: str, one: Pass, *, device: str = "cpu") -> str:
    """Return the name of a subject: what it is, without what varies between machines."""
    words = [peer, storage, engine, "" if device == "cpu" else "gpu", "augmented" if one.augment else ""]
    words += ["index" if one.mask == "index" else "", "cold" if one.cache == "cold" else ""]
    return " ".join(word for word in words if word)


def _job(
    settings: LoaderSettings, workspace: Workspace, spec: PeerSpec, one: Pass, *, storage: str, engine: str, device: str
) -> Job:
    stored = workspace.stored[storage]
    work = workspace.folder / "work" / f"{spec.name}-{storage}"
    work.mkdir(parents=True, exist_ok=True)
    return Job(
        peer=spec.name,
        storage=storage,
        shards=str(stored.shards.resolve()),
        pictures=str(stored.files),
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
