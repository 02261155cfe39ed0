"""SPDL: the tuned functions in threads of one process."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bench.peers.job import Job
from bench.peers.base import Delivered, folder_files, usual_worker_counts
from bench.peers.fast_decode import FastDecoder, Item, collate
from bench.peers.sampling import EpochSampler


class SpdlThreads:
    """An SPDL pipeline: indices, decode in threads, aggregate, collate."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self._sampler = EpochSampler(job)
        self._keys = job.read_keys()
        self._threads = 1
        self._decode: FastDecoder | None = None

    def prepare(self) -> None:
        """Nothing: it reads the files as they are."""

    def worker_counts(self) -> tuple[int, ...]:
        """As usual, threads."""
        return usual_worker_counts(self.job.cores)

    def open(self, workers: int) -> None:
        """Note the number of threads; a pipeline is made for each epoch, as SPDL's are meant to be used."""
        self._threads = workers
        self._decode = FastDecoder(self.job)

    def epoch(self, number: int) -> Iterator[Delivered]:
        """One epoch in our order."""
        from spdl.pipeline import PipelineBuilder

        self._sampler.number = number
        pipeline = (
            PipelineBuilder()
            .add_source(iter(self._sampler))
            .pipe(self._load, concurrency=self._threads)
            .aggregate(self.job.batch_size)
            .pipe(self._collate)
            .add_sink(2)
            .build(num_threads=self._threads + 1)
        )
        with pipeline.auto_stop():
            yield from pipeline

    def _load(self, drawn_index: int) -> Item:
        assert self._decode is not None
        epoch, index = divmod(drawn_index, len(self._keys))
        key = self._keys[index]
        image, trimap = self.job.image_path(key).read_bytes(), self.job.mask_path(key).read_bytes()
        return self._decode(image, trimap, index, epoch)

    def _collate(self, items: Sequence[Item]) -> Delivered:
        return collate(items, onehot=self.job.onehot, pin=self.job.device == "cuda")

    def files(self) -> list[Path]:
        """The pictures and trimaps."""
        return folder_files(Path(self.job.files))

    def close(self) -> None:
        """Nothing is left open between epochs."""
        self._decode = None


def make(job: Job) -> Any:
    """Return the peer."""
    return SpdlThreads(job)
