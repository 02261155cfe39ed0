"""MosaicML Streaming: MDS shards with the stored bytes, decoded by the fast functions in a DataLoader."""

from bench.peers.fast_decode import decoded_rows, loader_options
from bench.peers.peer import SCALED, ConvertedPeer


class MosaicStreamingPeer(ConvertedPeer):
    """StreamingDataset in a DataLoader."""

    name, storages, augments, needs, caveats = "streaming", ("source", "raw"), True, "streaming", (SCALED,)

    def prepare(self) -> None:
        """Write MDS shards unless there are some; remove shared memory that an earlier run left behind."""
        from streaming.base.util import clean_stale_shared_memory

        clean_stale_shared_memory()
        super().prepare()

    def convert(self) -> None:
        from streaming import MDSWriter

        columns = {"image": "bytes", "mask": "bytes", "index": "int"}
        with MDSWriter(out=str(self.output), columns=columns) as writer:
            for row in self.rows():
                writer.write(row)

    def open(self) -> None:
        from streaming import StreamingDataset
        from torch.utils.data import DataLoader

        job = self.job
        where = {"remote": job.address, "local": job.fetched} if job.address else {"local": str(self.output)}
        how = {"shuffle": True, "batch_size": job.batch_size, "shuffle_seed": job.seed, "num_canonical_nodes": 1}
        self._loader = DataLoader(decoded_rows(StreamingDataset, job, **how, **where), **loader_options(job))
