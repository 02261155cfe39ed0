"""``petseg-bench remote``: epochs over an object store, beside the other libraries that read from one.

The store is on loopback and waits before each reply (:mod:`bench.core.slow_store`). Every subject gets the same images
in its own format, a process of its own and an empty cache; later epochs read the cache, and those of petseg are
compared with the local set. petseg's loader runs with its defaults, and with JPEGs decoded at a reduced scale, as the
other libraries do here. A subject that fails, or takes longer than its time limit, is reported as skipped.
"""

from contextlib import closing
from pathlib import Path
from statistics import median
from typing import Any

from bench.core.slow_store import BUCKET, SlowStore, slow_store
from bench.core.subject_process import SubjectProcess
from bench.peers import PEERS
from bench.peers.job import Job
from bench.peers.peer import ConvertedPeer, files_under
from bench.results.records import OURS, SCALED_DECODING
from bench.settings import RemoteSettings
from shards.cores import usable_cores
from shards.errors import PetsegError
from shards.format.dataset import ShardSet
from shards.store.owner_files import scratch_folder

LOCAL = "local"  # petseg's loader on the set as it is here
SCALED = "petseg-scaled"  # and on the one in the store, with JPEGs decoded at a reduced scale
SUBJECTS = (LOCAL, OURS, SCALED, "litdata", "streaming", "webdataset")
# Imported before the clock starts, besides what the peer itself needs.
IMPORTS = ("torch.utils.data", "pipeline.loader", "pipeline.cpu.cpu_engine", "obstore.store", "boto3")


def run_remote_benchmark(settings: RemoteSettings) -> dict[str, Any]:
    """Return images per second of each subject, in the first epoch and in later ones (medians), and the goals' ratios.

    The ``train`` split of a local set is uploaded, and converted for those who need another format.
    """
    data, shards, size = ShardSet.open(settings.shards), str(settings.shards.absolute()), settings.size
    samples = len(data.split("train"))
    runs: dict[str, list[list[float]]] = {name: [] for name in SUBJECTS}
    skipped: dict[str, str] = {}
    with scratch_folder("bench") as work, slow_store(settings.delay) as store:
        for turn in range(settings.repeats):
            for name in (name for name in SUBJECTS if name not in skipped):
                remote, peer = name != LOCAL, PEERS[OURS if name in (LOCAL, SCALED) else name]
                job = Job(
                    peer=peer.name, storage=data.manifest.storage, shards=shards, files="",
                    work=f"{work}/{name}", stored_size=data.manifest.size, split="train",
                    samples=samples, classes=len(data.manifest.labels), size=(size, size),
                    fit="stretch", batch_size=settings.batch_size, augment=True, seed=turn,
                    workers=0 if peer.ours else usable_cores(), cores=usable_cores(),
                    engine=SCALED_DECODING if name == SCALED else "",
                    address=f"s3://{BUCKET}/{name}" if remote else "",
                    fetched=f"{work}/cache-{name}-{turn}" if remote else "",
                )  # fmt: skip
                if reason := peer.why_not(job):
                    skipped[name] = reason
                    continue
                process = SubjectProcess("bench.core.loader_subject:LoaderServer", environment=store.environment,
                                         imports=(*IMPORTS, *filter(None, [peer.needs])))  # fmt: skip
                process.patience = settings.time_limit
                try:
                    with closing(process):
                        if remote and turn == 0:
                            bring_into_store(store, job, process)
                        runs[name].append(
                            process.ask("rates_from_opening", timed=True, job=job, epochs=settings.epochs)
                        )
                except PetsegError as error:
                    skipped[name], runs[name] = str(error), []
    rates = {
        name: {"first": median(run[0] for run in turns), "later": median(median(run[1:]) for run in turns)}
        for name, turns in runs.items() if turns
    }  # fmt: skip
    others = [rates[name]["first"] for name in rates if name not in (LOCAL, OURS, SCALED)]
    ours, scaled, local = rates.get(OURS), rates.get(SCALED), rates.get(LOCAL)
    return {
        "images_per_second": rates, "skipped": skipped, "delay": settings.delay, "epochs": settings.epochs,
        "repeats": settings.repeats,
        "first_epoch_over_best_other": ours["first"] / max(others) if ours and others else None,
        "scaled_first_epoch_over_best_other": scaled["first"] / max(others) if scaled and others else None,
        "later_epochs_over_local": ours["later"] / local["later"] if ours and local else None,
    }  # fmt: skip


def bring_into_store(store: SlowStore, job: Job, process: SubjectProcess) -> None:
    """Upload the images in the subject's own format."""
    peer, files = PEERS[job.peer](job), [path for path in Path(job.shards).iterdir() if path.is_file()]
    if isinstance(peer, ConvertedPeer):
        process.ask("convert", job=job)
        process.close()
        files = files_under(peer.output)
    store.upload(files, job.address.removeprefix(f"s3://{BUCKET}/"))
