"""The ``webdataset`` library over the same tars, with its WebLoader."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.peers.job import Job
from bench.peers.base import EPOCHS_DRAWN, Delivered, split_files, usual_worker_counts
from bench.peers.fast_decode import FastDecoder, Item, Tensors, deliver

SHUFFLE_BUFFER = 1000
_MEMBERS = {
    "source": ("jpg", "trimap.png"),
    "jpeg": ("jpg", "trimap.png"),
    "raw": ("image.npy", "trimap.npy"),
}


class DecodeSample:
    """A member dictionary becomes an item. ``epoch`` is counted in each worker, which lives as long as the loader."""

    def __init__(self, job: Job) -> None:
        self._members = _MEMBERS[job.storage]
        self._decode = FastDecoder(job)
        self._index = {key: index for index, key in enumerate(job.read_keys())}
        self.epoch = -1

    def __call__(self, sample: dict[str, Any]) -> Item:
        """Decode one sample."""
        image, trimap = (sample[name] for name in self._members)
        return self._decode(image, trimap, self._index[sample["__key__"]], self.epoch % EPOCHS_DRAWN)


class CountEpochs:
    """A pipeline stage that tells the decoder when an epoch begins, and passes everything on."""

    def __init__(self, decode: DecodeSample) -> None:
        self._decode = decode

    def __call__(self, samples: Iterator[Any]) -> Iterator[Any]:
        """Run through one epoch."""
        self._decode.epoch += 1
        yield from samples


class WebDatasetPeer:
    """WebDataset, shuffled by shard and by buffer, decoded in worker processes."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self._loader: Any = None

    def prepare(self) -> None:
        """Nothing: it reads our tars as they are."""

    def worker_counts(self) -> tuple[int, ...]:
        """As usual, but no more than there are shards: a worker without a shard has nothing to do."""
        shards = len(self.files())
        return tuple(count for count in usual_worker_counts(self.job.cores) if count <= shards) or (1,)

    def open(self, workers: int) -> None:
        """Make the pipeline; worker processes split the shards among them."""
        import webdataset

        decode = DecodeSample(self.job)
        dataset = (
            webdataset.WebDataset(
                [str(path) for path in self.files()], shardshuffle=1000, seed=self.job.seed, empty_check=False
            )
            .compose(CountEpochs(decode))
            .shuffle(SHUFFLE_BUFFER, initial=SHUFFLE_BUFFER // 4)
            .map(decode)
            .batched(self.job.batch_size, collation_fn=Tensors(self.job.onehot), partial=True)
        )
        self._loader = webdataset.WebLoader(
            dataset,
            batch_size=None,
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=self.job.device == "cuda",
        )

    def epoch(self, number: int) -> Iterator[Delivered]:
        """The next epoch; the library shuffles by itself, epochs must be asked for in turn."""
        for image, mask, index in self._loader:
            yield deliver(image, mask, index)

    def files(self) -> list[Path]:
        """The tars."""
        return split_files(self.job, ".tar")

    def close(self) -> None:
        """Drop the loader, which ends its processes."""
        self._loader = None


def make(job: Job) -> WebDatasetPeer:
    """Return the peer."""
    return WebDatasetPeer(job)
