"""``petseg-bench remote``: epochs over an object store, beside the other libraries that read from one.

The store is on loopback and waits before each reply (:mod:`bench.core.slow_store`). Every subject gets the same images
in its own format, a process of its own and an empty cache; later epochs read the cache, and those of petseg are
compared with the local set. petseg's loader runs with its defaults, and with JPEGs decoded at a reduced scale, as the
other libraries do here. A subject that fails, or takes longer than its time limit, is reported as skipped.
"""

from contextlib import closing
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

from msgspec.structs import replace

from bench.core.slow_store import BUCKET, SlowStore, slow_store
from bench.core.subject_process import SubjectProcess
from bench.peers import PEERS
from bench.peers.peer import ConvertedPeer, Job, files_under
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

    The ``train`` split of a local set is uploaded, and converted for those who need another format. A
    :class:`PetsegError` says why the set cannot be read.
    """
    common = Job.on(ShardSet.open(settings.shards).split("train"), size=(settings.size, settings.size), fit="stretch",
                    batch_size=settings.batch_size, augment=True)  # fmt: skip
    runs, skipped = {name: list[list[float]]() for name in SUBJECTS}, dict[str, str]()
    with scratch_folder("bench") as work, slow_store(settings.delay) as store:
        for turn, name in product(range(settings.repeats), SUBJECTS):
            peer, where = PEERS[OURS if name in (LOCAL, SCALED) else name], dict[str, str]()
            if name != LOCAL:
                where = {"address": f"s3://{BUCKET}/{name}", "fetched": f"{work}/cache-{name}-{turn}"}
            job = replace(common, peer=peer.name, engine=SCALED_DECODING if name == SCALED else "", seed=turn,
                          work=f"{work}/{name}", workers=0 if peer.ours else usable_cores(), **where)  # fmt: skip
            if reason := skipped.get(name) or peer.why_not(job):
                skipped[name] = reason
                continue
            process = SubjectProcess("bench.core.loader_subject:LoaderServer", environment=store.environment,
                                     imports=(*IMPORTS, *filter(None, [peer.needs])))  # fmt: skip
            process.patience = settings.time_limit
            try:
                with closing(process):
                    if where and turn == 0:
                        bring_into_store(store, job, process)
                    runs[name].append(process.ask("rates_from_opening", timed=True, job=job, epochs=settings.epochs))
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
