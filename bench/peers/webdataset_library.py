"""The ``webdataset`` library over the same tars, with its WebLoader."""

from functools import partial
from pathlib import Path
from typing import Any

from bench.peers.fast_decode import Collate, FastDecoder, Sample, loader_options
from bench.peers.peer import BUFFER, SCALED, Job, Peer
from shards.format.layout import EXTENSIONS, STORAGES, STORED_FORMATS

SHUFFLE_BUFFER = 1000


class DecodeMembers:
    """Decodes the member dictionary of a sample."""

    def __init__(self, job: Job) -> None:
        self._formats = [EXTENSIONS[each] for each in STORED_FORMATS[job.storage]]  # type: ignore[index]
        self._decode, self._index = FastDecoder(job), job.read_index()

    def __call__(self, sample: dict[str, Any]) -> Sample:
        names = next(each for each in self._formats if each["image"] in sample)
        return self._decode(sample[names["image"]], sample[names["mask"]], self._index[sample["__key__"]])


class WebDatasetPeer(Peer):
    """WebDataset, shuffled by shard and in a buffer, decoded in worker processes."""

    name, storages, augments, needs = "webdataset", STORAGES, True, "webdataset"
    caveats = (SCALED, BUFFER)

    def worker_counts(self) -> tuple[int, ...]:
        """Return the usual counts up to the number of shards: a worker without a shard has nothing to do."""
        shards = len(self.files())
        return tuple(count for count in super().worker_counts() if count <= shards) or (1,)

    def open(self) -> None:
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
            .shuffle(SHUFFLE_BUFFER, initial=SHUFFLE_BUFFER // 4)
            .map(decode)
            .batched(job.batch_size, collation_fn=Collate(job), partial=True)
        )
        options = loader_options(job) | {"batch_size": None, "collate_fn": None}  # batches are made already
        self._loader = webdataset.WebLoader(dataset, **options)
