"""SPDL: fast decoding in threads of one process."""

from collections.abc import Iterator, Sequence

from bench.peers.base import Delivered, FilePeer, deliver
from bench.peers.fast_decode import DecodedFiles, DecodedSample, collate


class SpdlPeer(FilePeer):
    """An SPDL pipeline: numbers, decode in threads, aggregate, collate."""

    def open(self, workers: int) -> None:
        """Keep the number of threads; a pipeline is built for each epoch, as SPDL's documentation does."""
        self._threads = workers
        self._samples = DecodedFiles(self.job)

    def epoch(self, number: int) -> Iterator[Delivered]:
        """Deliver one epoch in petseg's order."""
        from spdl.pipeline import PipelineBuilder

        self.sampler.number = number
        pipeline = (
            PipelineBuilder()
            .add_source(iter(self.sampler))
            .pipe(self._samples.__getitem__, concurrency=self._threads)
            .aggregate(self.job.batch_size)
            .pipe(self._collate)
            .add_sink(2)
            .build(num_threads=self._threads + 1)
        )
        with pipeline.auto_stop():
            yield from pipeline

    def _collate(self, samples: Sequence[DecodedSample]) -> Delivered:
        return deliver(*collate(samples, onehot=self.job.onehot), pin=self.job.device == "cuda")
