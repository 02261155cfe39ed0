"""``petseg-bench loader``: every loader on every storage, checked, warmed up, and timed in rounds."""

from collections.abc import Iterator, Sequence

import msgspec
from msgspec.structs import asdict, replace

from bench.core.limits import LimitSubject, copy_limit, storage_limits
from bench.core.loader_subject import LoaderSubject, References
from bench.core.machine import RunClock, why_no_gpu
from bench.core.rounds import PartSeconds, Subject, refuse_empty, run_rounds
from bench.core.workspace import Workspace, open_workspace
from bench.peers import PEERS, PeerSpec
from bench.peers.job import PROCESSES, Job
from bench.results.records import BASELINE, LoaderLine, LoaderWork, Results, Skipped
from bench.settings import LoaderSettings
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
    with open_workspace(settings, parts) as workspace, References(workspace.folder) as references:
        for number, one in enumerate(passes(settings)):
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
        settings=msgspec.to_builtins(settings, enc_hook=str), lines=tuple(lines), skipped=tuple(skipped),
        limits=tuple(limit.line() for limit in limits),
    )  # fmt: skip


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
            wanted = storage in spec.storages and (not settings.peers or spec.name in settings.peers)
            if not wanted or (one.storage not in ("", storage) and spec.name != BASELINE):
                continue
            work = replace(one, peer=spec.name, storage=storage)
            if not spec.is_installed():
                skipped.append(Skipped(name=work.name, reason=f"not installed: {spec.needs} ({spec.install})"))
                continue
            if one.augment and not spec.augments:
                skipped.append(Skipped(name=work.name, reason="has no training augmentation in its peer file"))
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
        shards=str(stored.shards.resolve()), split=settings.split, files=str(stored.files),
        samples=workspace.data.samples, size=settings.size, batch_size=settings.batch_size, seed=settings.seed,
        workers=settings.workers or next(best, 0), cores=usable_cores(), handicap=settings.handicap,
    )  # fmt: skip


def _limits(settings: LoaderSettings, workspace: Workspace) -> list[LimitSubject]:
    found = [copy_limit(size=settings.size, samples=workspace.data.samples)]
    for stored in (stored for storage, stored in workspace.stored.items() if storage in settings.storages):
        found += storage_limits(stored, size=settings.size, seed=settings.seed)
    return found
