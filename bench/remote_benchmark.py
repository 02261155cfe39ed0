"""``petseg-bench remote``: epochs over an object store, beside the other libraries that read from one.

The store is on loopback and waits before each reply (:mod:`bench.core.slow_store`). Every subject gets the same images
in its own format, a process of its own and an empty cache; later epochs read the cache, and those of petseg are
compared with the local set. A subject that fails, or takes longer than its time limit, is reported as skipped.
"""

import contextlib
import importlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import msgspec

from bench.core.slow_store import BUCKET, SlowStore, slow_store
from bench.peers.fast_decode import Collate, decoded_rows
from bench.peers.job import Job
from bench.peers.litdata_streaming import LitDataPeer
from bench.peers.mosaic_streaming import MosaicStreamingPeer
from bench.peers.peer import ConvertedPeer, Peer, files_under
from bench.peers.petseg_loader import PetsegPeer
from bench.peers.webdataset_library import SHUFFLE_BUFFER, DecodeMembers, WebDatasetPeer
from shards.errors import PetsegError
from shards.format.dataset import ShardSet

PEERS: dict[str, type[Peer]] = {
    "local": PetsegPeer, "petseg": PetsegPeer, "litdata": LitDataPeer, "streaming": MosaicStreamingPeer,
    "webdataset": WebDatasetPeer,
}  # fmt: skip


# Imported before the clock starts, besides what the peer itself needs.
IMPORTS = ("torch.utils.data", "pipeline.loader", "obstore.store", "boto3")


def run_remote_benchmark(
    shards: Path, *, size: int, batch_size: int, delay: float, epochs: int, repeats: int, time_limit: float
) -> dict[str, Any]:
    """Return images per second of each subject, in the first epoch and in later ones (medians), and the goals' ratios.

    Args:
        shards: a local set; its ``train`` split is uploaded, and converted for those who need another format.
        size: of the output, pixels.
        batch_size: images in a batch.
        delay: seconds that the server waits before each reply.
        epochs: of each run, at least 2; the first one fetches.
        repeats: runs of each subject, in turns.
        time_limit: seconds for a run, and for a conversion.
    """
    data = ShardSet.open(shards)
    found: dict[str, list[list[float]]] = {name: [] for name in PEERS}
    skipped: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as work, slow_store(delay) as store:
        for turn in range(repeats):
            for name, peer in PEERS.items():
                job = Job(
                    peer=name, storage=data.manifest.storage, shards=str(shards.absolute()), files="",
                    work=f"{work}/{name}", stored_size=data.manifest.size, split="train",
                    samples=data.manifest.splits["train"].samples, classes=len(data.manifest.labels), size=(size, size),
                    fit="stretch", batch_size=batch_size, augment=True, seed=turn,
                    workers=0 if name in ("local", "petseg") else len(os.sched_getaffinity(0)),
                    cores=len(os.sched_getaffinity(0)),
                )  # fmt: skip
                if name in skipped or (reason := peer.why_not(job)):
                    skipped.setdefault(name, reason)
                    continue
                try:
                    if turn == 0 and name != "local":
                        bring_into_store(store, job, time_limit)
                    document = {"job": job, "cache": f"{work}/cache-{name}-{turn}", "epochs": epochs}
                    found[name].append(json.loads(_in_its_own_process("run", document, store, time_limit)))
                except PetsegError as error:
                    skipped[name], found[name] = str(error), []
    rates = {
        name: {
            "first": statistics.median(run[0] for run in runs),
            "later": statistics.median(statistics.median(run[1:]) for run in runs),
        }
        for name, runs in found.items()
        if runs
    }
    others = [rates[name]["first"] for name in ("litdata", "streaming", "webdataset") if name in rates]
    ours, local = rates.get("petseg"), rates.get("local")
    return {
        "images_per_second": rates, "skipped": skipped, "delay": delay, "epochs": epochs, "repeats": repeats,
        "first_epoch_over_best_other": ours["first"] / max(others) if ours and others else None,
        "later_epochs_over_local": ours["later"] / local["later"] if ours and local else None,
    }  # fmt: skip


def bring_into_store(store: SlowStore, job: Job, time_limit: float) -> None:
    """Upload the images in the subject's own format."""
    peer = PEERS[job.peer](job)
    files = [path for path in Path(job.shards).iterdir() if path.is_file()]
    if isinstance(peer, ConvertedPeer):
        _in_its_own_process("convert", {"job": job}, store, time_limit)
        files = files_under(peer.output)
    store.upload(files, job.peer)


def _in_its_own_process(task: str, document: dict[str, Any], store: SlowStore, time_limit: float) -> str:
    """Return the last line that the process prints; ``PetsegError`` if it fails or takes too long."""
    # Files rather than pipes, which workers that outlive the process would keep open.
    with (
        tempfile.TemporaryFile("w+") as given,
        tempfile.TemporaryFile("w+") as output,
        tempfile.TemporaryFile("w+", errors="replace") as errors,
    ):
        given.write(msgspec.json.encode(document).decode())
        given.seek(0)
        process = subprocess.Popen(
            [sys.executable, "-m", __name__, task], env={**os.environ, **store.environment},
            stdin=given, stdout=output, stderr=errors, start_new_session=True,
        )  # fmt: skip
        try:
            process.wait(time_limit)
        except subprocess.TimeoutExpired:
            raise PetsegError(f"took longer than {time_limit:g} s ({task})") from None
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # with the workers that it may have left behind
            process.wait()
        output.seek(0)
        errors.seek(0)
        if process.returncode:
            raise PetsegError(f"failed ({task}): {errors.read().strip()[-600:]}")
        return output.read().strip().rpartition("\n")[2]


def open_remote(job: Job, cache: str) -> Peer:
    """Return a subject whose loader reads from the store."""
    from torch.utils.data import DataLoader

    peer = PEERS[job.peer](job)
    address, how = f"s3://{BUCKET}/{job.peer}", peer.loader_options(job.workers)
    if job.peer == "petseg":
        from pipeline.loader import Loader

        common: dict[str, Any] = {"split": "train", "batch_size": job.batch_size, "size": job.size, "augment": "train"}
        peer._loader = Loader(address, cache=cache, seed=job.seed, device="cpu", **common)
    elif job.peer == "litdata":
        from litdata import StreamingDataLoader, StreamingDataset
        from litdata.streaming import downloader

        downloader._OBSTORE_CLIENT_OPTIONS["allow_http"] = "true"  # for which it has no option
        keys = {"endpoint_url": os.environ["AWS_ENDPOINT_URL"], "aws_access_key_id": "bench"}
        where = {"storage_options": {**keys, "aws_secret_access_key": "bench"}, "cache_dir": cache, "shuffle": True}
        dataset = decoded_rows(StreamingDataset, job, input_dir=address, seed=job.seed, **where)
        peer._loader = StreamingDataLoader(dataset, batch_size=job.batch_size, collate_fn=Collate(job), **how)
    elif job.peer == "streaming":
        from streaming import StreamingDataset

        where = {"remote": address, "local": cache, "shuffle": True, "batch_size": job.batch_size}
        dataset = decoded_rows(StreamingDataset, job, num_canonical_nodes=1, shuffle_seed=job.seed, **where)
        peer._loader = DataLoader(dataset, batch_size=job.batch_size, collate_fn=Collate(job), **how)
    elif job.peer == "webdataset":
        import webdataset
        from boto3 import client

        s3, decode = client("s3"), DecodeMembers(job)
        names = [path.name for path in peer.files()]
        urls = [s3.generate_presigned_url("get_object", {"Bucket": BUCKET, "Key": f"webdataset/{n}"}) for n in names]
        Path(cache).mkdir()
        tars = [f"pipe:curl -sf '{url}'" for url in urls]
        dataset = webdataset.WebDataset(tars, shardshuffle=1000, seed=job.seed, empty_check=False, cache_dir=cache)
        dataset = dataset.compose(decode.count_epoch).shuffle(SHUFFLE_BUFFER, initial=SHUFFLE_BUFFER // 4).map(decode)
        batched = dataset.batched(job.batch_size, collation_fn=Collate(job), partial=True)
        peer._loader = webdataset.WebLoader(batched, batch_size=None, **how)
    else:
        peer.open(job.workers)
    return peer


def be_subject(task: str) -> None:
    """Convert the images, or run epochs and print images per second of each, the opening of the set in the first."""
    document = json.load(sys.stdin)
    job, rates = msgspec.convert(document["job"], Job), []
    if task == "convert":
        PEERS[job.peer](job).prepare()
        return
    for module in (*IMPORTS, PEERS[job.peer].needs or "msgspec"):
        importlib.import_module(module)
    start = time.perf_counter()
    peer = open_remote(job, document["cache"])
    for number in range(document["epochs"]):
        seen = sum(int((delivered.index >= 0).sum()) for delivered in peer.epoch(number))
        if seen != job.samples:
            raise PetsegError(f"{seen} of {job.samples} samples were delivered")
        rates.append(seen / (time.perf_counter() - start))
        start = time.perf_counter()
    print(json.dumps(rates), flush=True)  # noqa: T201 - for the process that started this one
    os._exit(0)


if __name__ == "__main__":
    be_subject(sys.argv[1])
