"""``petseg-bench loader``: every loader on every storage, checked, warmed up, and timed in rounds."""

from collections.abc import Iterator, Sequence
from contextlib import closing
from functools import partial

from msgspec.structs import asdict, replace

from bench.core.limits import LimitSubject, copy_limit, storage_limits
from bench.core.loader_subject import LoaderSubject, Preparations, loader_process
from bench.core.machine import RunClock, why_no_gpu
from bench.core.rounds import PartSeconds, Subject, refuse_empty, run_rounds
from bench.core.subject_process import SubjectProcess
from bench.core.workspace import Workspace, open_workspace
from bench.peers import PEERS
from bench.peers.job import Job
from bench.results.records import BASELINE, PROCESSES, SCALED_DECODING, LoaderWork, Mask, Results, Skipped
from bench.settings import LoaderSettings, plain
from shards.cores import usable_cores
from shards.errors import UsageError

SLOW = 0.5  # of the fastest other library's rate: what is below is measured once
INDEX_STORAGE = "raw"  # with masks of both forms: where classes instead of one-hot make a difference worth a pass


def run_loader_benchmark(settings: LoaderSettings, *, parts: PartSeconds) -> Results:
    """Measure, and return everything that was found; a :class:`UsageError` says why nothing could be measured."""
    if settings.device == "cuda" and (reason := why_no_gpu()):
        raise UsageError(f"--device cuda: {reason}")
    if unknown := set(settings.peers) - PEERS.keys():
        raise UsageError(f"--peers: {min(unknown)!r} is not known; there are: {', '.join(PEERS)}")
    clock, skipped = RunClock(), list[Skipped]()
    # Short trials, without augmentation if possible, find the number of workers for all lines of a storage.
    trial = {"augment": settings.augment == "train", "mask": plain_mask(settings), "cache": "warm"}
    with open_workspace(settings, parts) as workspace, closing(Preparations(workspace.folder, trial)) as preparations:
        # A process for each engine of each peer; whatever a peer does wrong costs its own lines only.
        processes = dict[tuple[str, str, str], SubjectProcess]()
        loaders, limits = list[LoaderSubject](), _limits(settings, workspace)
        for job in plan_loaders(settings, workspace, skipped):
            key = job.peer, job.engine, job.device
            process = processes.setdefault(key, loader_process(PEERS[job.peer]))
            loaders.append(LoaderSubject(job, process=process, preparations=preparations, seconds=settings.seconds))
        subjects: list[Subject] = [*loaders, *limits]
        measured = run_rounds(subjects, repeats=settings.repeats, seed=settings.seed, parts=parts, skipped=skipped,
                              goes_on=partial(may_be_fastest, among=loaders))  # fmt: skip
        lines = tuple(loader.line() for loader in loaders if loader in measured)
    refuse_empty(lines, skipped)
    return Results(
        kind="loader", environment=clock.finish(), data=workspace.data, parts=parts.rounded(), lines=lines,
        settings=plain(settings), skipped=tuple(skipped), limits=tuple(limit.line() for limit in limits),
    )  # fmt: skip


def kinds_of_work(settings: LoaderSettings, storages: Sequence[str]) -> list[LoaderWork]:
    """Return what is measured of every peer; where the storage is not empty, on that one only.

    Cold caches are measured in evaluation, unless only training is requested: what reading costs does not depend on it.
    Where warm ones are measured too, they are measured of the first storage alone, which is the set's own.
    With masks of both forms, class indices are measured of ``raw`` storage, evaluation, warm.
    """
    augments = {"none": [False], "train": [True], "both": [False, True]}[settings.augment]
    plain = LoaderWork(peer="", storage="", mask=plain_mask(settings))
    found = [replace(plain, augment=augment) for augment in augments] if settings.cache != "cold" else []
    if found and settings.mask == "both" and False in augments and INDEX_STORAGE in storages:
        found.insert(1, replace(plain, mask="index", storage=INDEX_STORAGE))
    if settings.cache != "warm":
        only = storages[0] if found else ""
        found.append(replace(plain, augment=augments[0], cache="cold", storage=only))
    return found


def may_be_fastest(subject: Subject, *, among: Sequence[LoaderSubject]) -> bool:
    """Return whether more repeats may matter: a library that was less than half as fast as the fastest other one that
    did the same work is measured once. petseg's lines, the tutorial's and the limits are measured each time.
    """
    if not isinstance(subject, LoaderSubject) or subject.peer.ours or subject.peer.name == BASELINE:
        return True
    rates = {
        other.name: other.repeats[0].rate for other in among
        if other.repeats and not other.peer.ours and replace(other.work, peer=subject.work.peer) == subject.work
    }  # fmt: skip
    return subject.name not in rates or rates[subject.name] >= SLOW * max(rates.values())


def plain_mask(settings: LoaderSettings) -> Mask:
    """Return the form of masks, but of those that are delivered in both."""
    return "index" if settings.mask == "index" else "onehot"


def plan_loaders(settings: LoaderSettings, workspace: Workspace, skipped: list[Skipped]) -> Iterator[Job]:
    """Yield what every loader has to do; note those that cannot be measured."""
    no_gpu, wanted = why_no_gpu() if settings.device == "cpu" else "", settings.peers or PEERS
    kinds = kinds_of_work(settings, workspace.measured)
    for one in kinds:

        def skip(reason: str, one: LoaderWork = one, **what: str) -> None:
            skipped.append(Skipped(name=replace(one, **what).name, reason=reason))

        if not workspace.files and BASELINE in wanted:
            stored = ",".join(workspace.stored)
            held = f"it decodes original images, and the set holds {stored} storage; measure a set of source storage, "
            held += f"with --storages {stored}"
            skip(held, peer=BASELINE, storage="source")
        for storage in workspace.measured:
            for peer in (PEERS[name] for name in PEERS if name in wanted and storage in PEERS[name].storages):
                if one.storage not in ("", storage) and peer.name != BASELINE:
                    continue
                job = _job(settings, workspace, replace(one, peer=peer.name, storage=storage))
                if reason := peer.why_not(job):
                    skip(reason, peer=peer.name, storage=storage)
                    continue
                engines = [(engine, "cpu") for engine in (("torch", PROCESSES) if peer.ours else ("",))]
                if peer.ours and storage == "source" and one == kinds[0]:
                    engines.append((SCALED_DECODING, "cpu"))
                if settings.device == "cuda":
                    engines.append(("dali" if peer.ours else "", "cuda"))
                elif peer.ours and no_gpu:
                    skip(no_gpu, peer=peer.name, storage=storage, engine="dali", device="cuda")
                yield from (replace(job, engine=engine, device=device) for engine, device in engines)


def _job(settings: LoaderSettings, workspace: Workspace, work: LoaderWork) -> Job:
    stored = workspace.stored[work.storage]
    folder = workspace.folder / "work" / f"{work.peer}-{work.storage}"
    folder.mkdir(parents=True, exist_ok=True)
    return Job(
        **asdict(work), work=str(folder), shards=str(stored.shards.resolve()), stored_size=stored.size,
        split=settings.split, files=workspace.files, samples=workspace.data.samples, classes=workspace.data.classes,
        size=settings.size, fit=settings.fit, batch_size=settings.batch_size, seed=settings.seed,
        workers=settings.workers, cores=usable_cores(), handicap=settings.handicap,
    )  # fmt: skip


def _limits(settings: LoaderSettings, workspace: Workspace) -> list[LimitSubject]:
    data, forms = workspace.data, sorted({one.mask for one in kinds_of_work(settings, workspace.measured)})
    found = [copy_limit(form, size=settings.size, classes=data.classes, samples=data.samples) for form in forms]
    for storage in workspace.measured:
        found += storage_limits(workspace.stored[storage], size=settings.size, seed=settings.seed)
    return found
