"""SPDL: fast decoding in threads of one process."""

from collections.abc import Iterator

from bench.peers.fast_decode import Collate, DecodedFiles
from bench.peers.peer import SCALED, Delivered, FilePeer, deliver


class SpdlPeer(FilePeer):
    """An SPDL pipeline: numbers, decode in threads, aggregate, collate."""

    name, augments, needs, caveats = "spdl", True, "spdl", (SCALED,)

    def open(self) -> None:
        """Make the parts; a pipeline is built from them for each epoch, as SPDL's documentation does."""
        self._samples, self._collate = DecodedFiles(self.job), Collate(self.job)

    def epoch(self, number: int) -> Iterator[Delivered]:
        from spdl.pipeline import PipelineBuilder

        pin = self.job.device == "cuda"
        pipeline = (
            PipelineBuilder()
            .add_source(iter(self))
            .pipe(self._samples.__getitem__, concurrency=self.job.workers)
            .aggregate(self.job.batch_size)
            .pipe(lambda samples: deliver(*self._collate(samples), pin=pin))
            .add_sink(2)
            .build(num_threads=self.job.workers + 1)
        )
        with pipeline.auto_stop():
            yield from pipeline
