"""The ``webdataset`` library over the same tars, with its WebLoader."""

from collections.abc import Iterator
from functools import partial
from typing import Any

from bench.peers.base import Peer
from bench.peers.fast_decode import DecodedSample, FastDecoder, collate
from bench.peers.job import Job

SHUFFLE_BUFFER = 1000


class DecodeMembers:
    """Decodes the member dictionary of a sample."""

    def __init__(self, job: Job) -> None:
        self._members = ("image.npy", "trimap.npy") if job.storage == "raw" else ("jpg", "trimap.png")
        self._decode = FastDecoder(job)
        self._index = {key: index for index, key in enumerate(job.read_keys())}
        self._epoch = -1

    def count_epoch(self, samples: Iterator[Any]) -> Iterator[Any]:
        """A stage of the pipeline: count the epochs of this worker, which lives as long as the loader."""
        self._epoch += 1
        yield from samples

    def __call__(self, sample: dict[str, Any]) -> DecodedSample:
        """Decode one sample."""
        image, mask = (sample[name] for name in self._members)
        return self._decode(image, mask, self._index[sample["__key__"]], self._epoch)


class WebDatasetPeer(Peer):
    """WebDataset, shuffled by shard and in a buffer, decoded in worker processes."""

    def worker_counts(self) -> tuple[int, ...]:
        """Return the usual counts up to the number of shards: a worker without a shard has nothing to do."""
        shards = len(self.files())
        return tuple(count for count in super().worker_counts() if count <= shards) or (1,)

    def open(self, workers: int) -> None:
        """Make the pipeline; its worker processes share out the shards."""
        import webdataset

        decode = DecodeMembers(self.job)
        dataset = (
            webdataset.WebDataset(
                [str(path) for path in self.files()], shardshuffle=1000, seed=self.job.seed, empty_check=False
            )
            .compose(decode.count_epoch)
            .shuffle(SHUFFLE_BUFFER, initial=SHUFFLE_BUFFER // 4)
            .map(decode)
            .batched(self.job.batch_size, collation_fn=partial(collate, onehot=self.job.onehot), partial=True)
        )
        self._loader = webdataset.WebLoader(dataset, batch_size=None, **self.loader_options(workers))
