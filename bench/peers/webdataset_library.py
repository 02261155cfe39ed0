"""The ``webdataset`` library over the same tars, with its WebLoader."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from bench.peers.fast_decode import Collate, DecodedSample, FastDecoder
from bench.peers.job import Job
from bench.peers.peer import BUFFER, SCALED, Peer
from shards.format.layout import EXTENSIONS, STORAGES, STORED_FORMATS

SHUFFLE_BUFFER = 1000


class DecodeMembers:
    """Decodes the member dictionary of a sample."""

    def __init__(self, job: Job) -> None:
        self._formats = [EXTENSIONS[each] for each in STORED_FORMATS[job.storage]]  # type: ignore[index]
        self._decode = FastDecoder(job)
        self._index = job.read_index()
        self._epoch = -1

    def count_epoch(self, samples: Iterator[Any]) -> Iterator[Any]:
        """A stage of the pipeline: count the epochs of this worker, which lives as long as the loader."""
        self._epoch += 1
        yield from samples

    def __call__(self, sample: dict[str, Any]) -> DecodedSample:
        names = next(each for each in self._formats if each["image"] in sample)
        image, mask = sample[names["image"]], sample[names["mask"]]
        return self._decode(image, mask, self._index[sample["__key__"]], self._epoch)


class WebDatasetPeer(Peer):
    """WebDataset, shuffled by shard and in a buffer, decoded in worker processes."""

    name, storages, augments, needs = "webdataset", STORAGES, True, "webdataset"
    caveats = (SCALED, BUFFER)

    def worker_counts(self) -> tuple[int, ...]:
        """Return the usual counts up to the number of shards: a worker without a shard has nothing to do."""
        shards = len(self.files())
        return tuple(count for count in super().worker_counts() if count <= shards) or (1,)

    def open(self, workers: int) -> None:
        import webdataset

        job, decode, tars = self.job, DecodeMembers(self.job), [str(path) for path in self.files()]
        if job.address:
            from boto3 import client

            bucket, _, folder = job.address.removeprefix("s3://").partition("/")
            sign = partial(client("s3").generate_presigned_url, "get_object")
            wanted = [{"Bucket": bucket, "Key": f"{folder}/{path.name}"} for path in self.files()]
            tars = [f"pipe:curl -sf '{sign(each)}'" for each in wanted]
            Path(job.fetched).mkdir()
        how = {"shardshuffle": 1000, "seed": job.seed, "empty_check": False, "cache_dir": job.fetched or None}
        dataset = (
            webdataset.WebDataset(tars, **how)
            .compose(decode.count_epoch)
            .shuffle(SHUFFLE_BUFFER, initial=SHUFFLE_BUFFER // 4)
            .map(decode)
            .batched(job.batch_size, collation_fn=Collate(job), partial=True)
        )
        self._loader = webdataset.WebLoader(dataset, batch_size=None, **self.loader_options(workers))
