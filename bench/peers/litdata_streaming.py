"""LitData: optimised chunks with the stored bytes, decoded by the fast functions in its StreamingDataLoader."""

from functools import partial

from bench.peers.base import ConvertedPeer
from bench.peers.fast_decode import collate, decoded_rows

CHUNK_BYTES = 64 << 20  # the usual size in its documentation


class LitDataPeer(ConvertedPeer):
    """LitData's StreamingDataset in its StreamingDataLoader."""

    def convert(self) -> None:
        """Write chunks."""
        from litdata.streaming.writer import BinaryWriter

        writer = BinaryWriter(str(self.output), chunk_bytes=CHUNK_BYTES)
        for row in self.rows():
            writer[row["index"]] = row
        writer.done()
        writer.merge()

    def open(self, workers: int) -> None:
        """Make dataset and loader."""
        from litdata import StreamingDataLoader, StreamingDataset

        dataset = decoded_rows(
            StreamingDataset, self.job, input_dir=str(self.output), shuffle=True, drop_last=False, seed=self.job.seed
        )
        self._loader = StreamingDataLoader(
            dataset,
            batch_size=self.job.batch_size,
            collate_fn=partial(collate, onehot=self.job.onehot),
            **self.loader_options(workers),
        )
