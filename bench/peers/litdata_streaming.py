"""LitData: optimised chunks with the stored bytes, decoded by the fast functions in its StreamingDataLoader."""

from bench.peers.fast_decode import Collate, decoded_rows
from bench.peers.peer import SCALED, ConvertedPeer

CHUNK_BYTES = 64 << 20  # the usual size in its documentation


class LitDataPeer(ConvertedPeer):
    """LitData's StreamingDataset in its StreamingDataLoader."""

    name, storages, augments, needs, caveats = "litdata", ("source", "raw"), True, "litdata", (SCALED,)

    def convert(self) -> None:
        from litdata.streaming.writer import BinaryWriter

        writer = BinaryWriter(str(self.output), chunk_bytes=CHUNK_BYTES)
        for row in self.rows():
            writer[row["index"]] = row
        writer.done()
        writer.merge()

    def open(self, workers: int) -> None:
        from litdata import StreamingDataLoader, StreamingDataset

        how = {"input_dir": str(self.output), "shuffle": True, "drop_last": False, "seed": self.job.seed}
        dataset, options = decoded_rows(StreamingDataset, self.job, **how), self.loader_options(workers)
        self._loader = StreamingDataLoader(dataset, batch_size=self.job.batch_size, collate_fn=Collate(self.job),
                                           **options)  # fmt: skip
