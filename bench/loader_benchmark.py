"""``petseg-bench loader``: every loader on every storage, checked, warmed up, and timed in rounds."""

from collections.abc import Collection, Iterator, Sequence
from contextlib import closing

from msgspec.structs import asdict, replace

from bench.core.limits import LimitSubject, copy_limit, storage_limits
from bench.core.loader_subject import LoaderSubject, References
from bench.core.machine import RunClock, why_no_gpu
from bench.core.rounds import PartSeconds, Subject, refuse_empty, run_rounds
from bench.core.workspace import Workspace, open_workspace
from bench.peers import PEERS
from bench.peers.job import PROCESSES, Job
from bench.peers.peer import Peer
from bench.results.records import BASELINE, LoaderLine, LoaderWork, Results, Skipped
from bench.settings import LoaderSettings, plain
from shards.cores import usable_cores
from shards.errors import UsageError

INDEX_STORAGE = "raw"  # with masks of both forms: where classes instead of one-hot make a difference worth a pass


def run_loader_benchmark(settings: LoaderSettings, *, parts: PartSeconds) -> Results:
    """Measure, and return everything that was found.

    Raises:
        UsageError: an option is wrong, or nothing could be measured.
        FormatError: no shard set, or damaged.
    """
    if settings.device == "cuda" and (reason := why_no_gpu()):
        raise UsageError(f"--device cuda: {reason}")
    clock, skipped, lines, limits = RunClock(), list[Skipped](), list[LoaderLine](), list[LimitSubject]()
    with open_workspace(settings, parts) as workspace, closing(References(workspace.folder)) as references:
        for number, one in enumerate(passes(settings, measured_storages(settings, workspace))):
            planned = plan_pass(settings, workspace, one, skipped, earlier=lines)
            loaders = [LoaderSubject(*x, references=references, seconds=settings.seconds) for x in planned]
            subjects: list[Subject] = [*loaders]
            if number == 0:
                limits = _limits(settings, workspace)
                subjects += limits
            measured = run_rounds(subjects, repeats=settings.repeats, seed=settings.seed, parts=parts, skipped=skipped)
            lines += [loader.line() for loader in loaders if loader in measured]
    refuse_empty(lines, skipped)
    return Results(
        kind="loader", environment=clock.finish(), data=workspace.data, parts=parts.rounded(),
        settings=plain(settings), lines=tuple(lines), skipped=tuple(skipped),
        limits=tuple(limit.line() for limit in limits),
    )  # fmt: skip


def passes(settings: LoaderSettings, storages: Collection[str]) -> list[LoaderWork]:
    """Return what is measured, one pass after another: work whose storage, where it is not empty, is the only one.

    Cold passes are of evaluation, unless only training is requested: what reading costs does not depend on it. With
    masks of both forms, class indices are a pass of their own over ``raw`` storage, evaluation, warm.
    """
    augments = {"none": [False], "train": [True], "both": [False, True]}[settings.augment]
    plain = LoaderWork(peer="", storage="", mask="index" if settings.mask == "index" else "onehot")
    found = [replace(plain, augment=augment) for augment in augments] if settings.cache != "cold" else []
    if found and settings.mask == "both" and False in augments and INDEX_STORAGE in storages:
        found.insert(1, replace(plain, mask="index", storage=INDEX_STORAGE))
    if settings.cache != "warm":
        found.append(replace(plain, augment=augments[0], cache="cold"))
    return found


def plan_pass(
    settings: LoaderSettings, workspace: Workspace, one: LoaderWork, skipped: list[Skipped],
    *, earlier: Sequence[LoaderLine] = (),
) -> Iterator[tuple[LoaderWork, type[Peer], Job]]:  # fmt: skip
    """Yield every loader on every storage of a pass; note those that cannot be. ``earlier`` lines say how many workers
    a loader was fastest with.
    """
    no_gpu, wanted = why_no_gpu() if settings.device == "cpu" else "", settings.peers or PEERS
    if not workspace.files and BASELINE in wanted:
        reason = f"it decodes original images, and the set holds {', '.join(workspace.stored)} storage"
        skipped.append(Skipped(name=replace(one, peer=BASELINE, storage="source").name, reason=reason))
    for storage in measured_storages(settings, workspace):
        for peer in (PEERS[name] for name in PEERS if name in wanted and storage in PEERS[name].storages):
            if one.storage not in ("", storage) and peer.name != BASELINE:
                continue
            work = replace(one, peer=peer.name, storage=storage)
            if reason := peer.why_not(_job(settings, workspace, work, earlier)):
                skipped.append(Skipped(name=work.name, reason=reason))
                continue
            kinds = [replace(work, engine=engine) for engine in (("torch", PROCESSES) if peer.ours else ("",))]
            on_gpu = replace(work, engine="dali" if peer.ours else "", device="cuda")
            if peer.ours and no_gpu:
                skipped.append(Skipped(name=on_gpu.name, reason=no_gpu))
            for kind in [*kinds, on_gpu] if settings.device == "cuda" else kinds:
                yield kind, peer, _job(settings, workspace, kind, earlier)


def measured_storages(settings: LoaderSettings, workspace: Workspace) -> list[str]:
    """Return the storages that are measured: the set's own may only be what the others were made from."""
    return [storage for storage in workspace.stored if storage in (settings.storages or workspace.stored)]


def _job(settings: LoaderSettings, workspace: Workspace, work: LoaderWork, earlier: Sequence[LoaderLine]) -> Job:
    stored = workspace.stored[work.storage]
    folder = workspace.folder / "work" / f"{work.peer}-{work.storage}"
    folder.mkdir(parents=True, exist_ok=True)
    what = asdict(replace(work, augment=False, mask="onehot", cache="warm"))
    best = (line.workers for line in earlier if asdict(replace(line.work, augment=False, mask="onehot")) == what)
    return Job(
        **{name: value for name, value in asdict(work).items() if name != "cache"}, work=str(folder),
        shards=str(stored.shards.resolve()), stored_size=stored.size, split=settings.split, files=workspace.files,
        samples=workspace.data.samples, classes=workspace.data.classes, size=settings.size, fit=settings.fit,
        batch_size=settings.batch_size, seed=settings.seed, workers=settings.workers or next(best, 0),
        cores=usable_cores(), handicap=settings.handicap,
    )  # fmt: skip


def _limits(settings: LoaderSettings, workspace: Workspace) -> list[LimitSubject]:
    data, forms = workspace.data, sorted({one.mask for one in passes(settings, measured_storages(settings, workspace))})
    found = [copy_limit(form, size=settings.size, classes=data.classes, samples=data.samples) for form in forms]
    for storage in measured_storages(settings, workspace):
        found += storage_limits(workspace.stored[storage], size=settings.size, seed=settings.seed)
    return found
