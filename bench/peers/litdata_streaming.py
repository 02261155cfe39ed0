"""LitData: optimised chunks with the stored bytes, decoded by the fast functions in its StreamingDataLoader."""

import os
from typing import Any

from bench.peers.fast_decode import decoded_rows, loader_options
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

    def open(self) -> None:
        from litdata import StreamingDataLoader, StreamingDataset
        from litdata.streaming import downloader

        job, where = self.job, dict[str, Any](input_dir=self.job.address or str(self.output))
        if job.address:
            downloader._OBSTORE_CLIENT_OPTIONS["allow_http"] = "true"  # for which it has no option
            keys = {name.lower(): os.environ[name] for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")}
            where["storage_options"] = {**keys, "endpoint_url": os.environ["AWS_ENDPOINT_URL"]}
            where["cache_dir"] = job.fetched
        dataset = decoded_rows(StreamingDataset, job, shuffle=True, drop_last=False, seed=job.seed, **where)
        self._loader = StreamingDataLoader(dataset, **loader_options(job))

    def close(self) -> None:
        """Drop the loader. Its workers do not end when asked: torch waits 5 s before it stops one, here 0.1 s."""
        from torch.utils.data import _utils

        _utils.MP_STATUS_CHECK_INTERVAL = 0.1
        super().close()
