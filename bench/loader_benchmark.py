"""``petseg-bench loader``: every loader on every storage, checked, warmed up, and timed in rounds."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from functools import partial
from itertools import product

from msgspec.structs import asdict, replace

from bench.core.limits import LimitSubject, copy_limit, storage_limits
from bench.core.loader_subject import LoaderSubject, loader_process
from bench.core.machine import why_no_gpu
from bench.core.rounds import Run, Subject
from bench.core.subject_process import SubjectProcess
from bench.core.workspace import Workspace, open_workspace
from bench.peers import PEERS
from bench.peers.peer import Job
from bench.results.records import BASELINE, OURS, PROCESSES, SCALED_DECODING, LoaderWork, Results, Skipped
from bench.settings import LoaderSettings
from shards.errors import UsageError

SLOW = 0.5  # of the fastest other library's rate: what is below is measured once
INDEX_STORAGE = "raw"  # with masks of both forms: where classes instead of one-hot make a difference worth a pass


def run_loader_benchmark(settings: LoaderSettings, *, report: Callable[[str], None] = lambda _: None) -> Results:
    """Measure, and return everything that was found; ``report`` is told what is done now.

    A :class:`UsageError` says which option is wrong, or why nothing could be measured.
    """
    if settings.device == "cuda" and (reason := why_no_gpu()):
        raise UsageError(f"--device cuda: {reason}")
    if unknown := set(settings.peers) - PEERS.keys():
        raise UsageError(f"--peers: {min(unknown)!r} is not known; there are: {', '.join(PEERS)}")
    run = Run(settings, report)
    with ExitStack() as stack:
        with run.part("lay out"):
            workspace = stack.enter_context(open_workspace(settings))
        ours = stack.enter_context(closing(loader_process(PEERS[OURS])))
        # A process for each engine of each peer; whatever a peer does wrong costs its own lines only.
        processes, loaders = dict[tuple[str, str, str], SubjectProcess](), list[LoaderSubject]()
        for job in plan_loaders(settings, workspace, run.skipped):
            key = job.peer, job.engine, job.device
            process = processes.setdefault(key, loader_process(PEERS[job.peer]))
            loaders.append(LoaderSubject(job, process=process, ours=ours, seconds=settings.seconds))
        subjects: list[Subject] = [*loaders, *_limits(settings, workspace)]
        measured = run.rounds(subjects, seed=settings.seed, goes_on=partial(may_be_fastest, among=loaders))
    return run.results(workspace.data, measured)


def kinds_of_work(settings: LoaderSettings, storages: Sequence[str]) -> list[LoaderWork]:
    """Return what is measured of every peer; where the storage is not empty, on that one only.

    Cold caches are measured in evaluation, unless only training is requested: what reading costs does not depend on it.
    Where warm ones are measured too, they are measured of the first storage alone, which is the set's own.
    With masks of both forms, class indices are measured of ``raw`` storage, evaluation, warm.
    """
    augments = {"none": [False], "train": [True], "both": [False, True]}[settings.augment]
    plain = LoaderWork(peer="", storage="", mask="index" if settings.mask == "index" else "onehot")
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


def plan_loaders(settings: LoaderSettings, workspace: Workspace, skipped: list[Skipped]) -> Iterator[Job]:
    """Yield what every loader has to do; note those that cannot be measured."""
    kinds = kinds_of_work(settings, workspace.measured)
    wanted = [peer for name, peer in PEERS.items() if name in (settings.peers or PEERS)]
    for one, storage, peer in product(kinds, workspace.measured, wanted):
        if storage not in peer.storages or (one.storage not in ("", storage) and peer.name != BASELINE):
            continue
        work = workspace.folder / "work" / f"{peer.name}-{storage}"
        work.mkdir(parents=True, exist_ok=True)
        what = asdict(one) | {"peer": peer.name, "storage": storage, "work": str(work)}
        job = replace(workspace.jobs[storage], **what)
        if reason := peer.why_not(job):
            skipped.append(Skipped(name=job.name, reason=reason))
            continue
        engines = ["torch", PROCESSES] if peer.ours else [""]
        if peer.ours and storage == "source" and one == kinds[0]:
            engines.append(SCALED_DECODING)
        yield from (replace(job, engine=engine) for engine in engines)
        on_gpu = replace(job, engine="dali" if peer.ours else "", device="cuda")
        if settings.device == "cuda":
            yield on_gpu
        elif peer.ours and (reason := why_no_gpu()):
            skipped.append(Skipped(name=on_gpu.name, reason=reason))
    if "source" not in workspace.jobs and PEERS[BASELINE] in wanted:
        stored = ",".join(workspace.jobs)
        reason = f"it decodes original images, and the set holds {stored} storage; measure a set of source storage, "
        reason += f"with --storages {stored}"
        names = [replace(one, peer=BASELINE, storage="source").name for one in kinds]
        skipped += [Skipped(name=name, reason=reason) for name in names]


def _limits(settings: LoaderSettings, workspace: Workspace) -> list[LimitSubject]:
    jobs, kinds = workspace.jobs, kinds_of_work(settings, workspace.measured)
    found = [copy_limit(replace(next(iter(jobs.values())), mask=form)) for form in sorted({one.mask for one in kinds})]
    return found + [limit for storage in workspace.measured for limit in storage_limits(jobs[storage])]
