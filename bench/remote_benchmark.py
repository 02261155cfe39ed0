"""``petseg-bench remote``: epochs over an object store, beside the other libraries that read from one.

The store is moto's S3 server on loopback, in a process of its own, which waits before each reply as a distant one
would. Every subject gets the same images in its own format, a process of its own and an empty cache; the second epoch
reads the cache, and that of petseg is compared with the local set.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from bench.peers.fast_decode import Collate, decoded_rows
from bench.peers.job import Job
from bench.peers.litdata_streaming import LitDataPeer
from bench.peers.mosaic_streaming import MosaicStreamingPeer
from bench.peers.peer import Peer
from bench.peers.petseg_loader import PetsegPeer
from bench.peers.webdataset_library import SHUFFLE_BUFFER, DecodeMembers, WebDatasetPeer
from shards.format.dataset import ShardSet
from shards.store.open_store import open_store

BUCKET = "petseg-bench"
PEERS: dict[str, type[Peer]] = {
    "local": PetsegPeer, "petseg": PetsegPeer, "litdata": LitDataPeer, "streaming": MosaicStreamingPeer,
    "webdataset": WebDatasetPeer,
}  # fmt: skip


def run_remote_benchmark(shards: Path, *, size: int, batch_size: int, delay: float, repeats: int) -> dict[str, Any]:
    """Return images per second of each subject, by epoch (medians), and the two ratios that are goals.

    Args:
        shards: a local set; its ``train`` split is uploaded, and converted for those who need another format.
        size: of the output, pixels.
        batch_size: images in a batch.
        delay: seconds that the server waits before each reply.
        repeats: of each subject, in turns.
    """
    data = ShardSet.open(shards)
    found: dict[str, list[list[float]]] = {name: [] for name in PEERS}
    skipped: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as work, store_server(delay) as environment:
        os.environ.update(environment)
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
                if turn == 0:
                    upload(peer, job)
                found[name].append(in_its_own_process(job, f"{work}/cache-{name}-{turn}"))
    rates = {name: [statistics.median(epoch) for epoch in zip(*runs, strict=True)] for name, runs in found.items()}
    others = [rates[name][0] for name in ("litdata", "streaming", "webdataset") if rates[name]]
    return {
        "images_per_second": rates, "skipped": skipped, "delay": delay, "repeats": repeats,
        "first_epoch_over_best_other": rates["petseg"][0] / max(others) if others else None,
        "second_epoch_over_local": rates["petseg"][1] / rates["local"][1],
    }  # fmt: skip


@contextmanager
def store_server(delay: float) -> Iterator[dict[str, str]]:
    """Run the server, and provide the environment that leads to it."""
    server = subprocess.Popen([sys.executable, "-m", __name__, "serve", str(delay)], stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        url = server.stdout.readline().strip()
        keys = {"AWS_ACCESS_KEY_ID": "bench", "AWS_SECRET_ACCESS_KEY": "bench", "AWS_REGION": "us-east-1"}
        yield {**keys, "AWS_DEFAULT_REGION": "us-east-1", "AWS_ENDPOINT_URL": url, "S3_ENDPOINT_URL": url}
    finally:
        server.kill()
        server.wait()


def serve(delay: float) -> None:
    """Be the server; prints its address and runs until it is killed."""
    import logging

    from boto3 import client
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    application = DomainDispatcherApplication(create_backend_app)

    def delayed(environ: Any, start: Any) -> Any:
        time.sleep(delay)
        return application(environ, start)

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = make_server("127.0.0.1", 0, delayed, threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    url = f"http://127.0.0.1:{server.port}"
    s3 = client("s3", endpoint_url=url, aws_access_key_id="bench", aws_secret_access_key="bench")
    s3.create_bucket(Bucket=BUCKET, ACL="public-read")
    print(url, flush=True)  # noqa: T201 - for the process that started this one
    thread.join()


def upload(peer: type[Peer], job: Job) -> None:
    """Bring the images into the store, in the subject's own format."""
    made = peer(job)
    made.prepare()
    folder = made.output if isinstance(made, LitDataPeer | MosaicStreamingPeer) else Path(job.shards)
    store = open_store(f"s3://{BUCKET}/{job.peer}")
    for path in folder.iterdir():
        store.put(path.name, path)


def in_its_own_process(job: Job, cache: str) -> list[float]:
    """Return a subject's images per second in the first and the second epoch, its start included in the first."""
    document = json.dumps({"cache": cache, "job": json.loads(msgspec.json.encode(job))})
    command = [sys.executable, "-m", __name__, "subject"]
    done = subprocess.run(command, input=document, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{job.peer} failed: {done.stderr[-2000:]}")
    rates: list[float] = json.loads(done.stdout.strip().splitlines()[-1])
    return rates


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


def be_subject() -> None:
    """Run two epochs and print images per second of each."""
    document = json.load(sys.stdin)
    job, rates = msgspec.convert(document["job"], Job), []
    start = time.perf_counter()
    peer = open_remote(job, document["cache"])
    for number in range(2):
        seen = sum(int((delivered.index >= 0).sum()) for delivered in peer.epoch(number))
        assert seen == job.samples, (seen, job.samples)
        rates.append(seen / (time.perf_counter() - start))
        start = time.perf_counter()
    print(json.dumps(rates), flush=True)  # noqa: T201 - for the process that started this one
    os._exit(0)


if __name__ == "__main__":
    be_subject() if sys.argv[1] == "subject" else serve(float(sys.argv[2]))
