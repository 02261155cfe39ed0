"""DALI alone: ``fn.readers.webdataset`` over the same tars, as its documentation shows."""

from collections.abc import Iterator
from typing import Any

from bench.peers.peer import BUFFER, Delivered, Peer, deliver
from shards.cores import usable_cores
from shards.format.layout import STORAGES

SHUFFLE_BUFFER = 1000
KEY_BYTES = 100  # of each KEY.json, which begins with {"key": "..."


class DaliReaderPeer(Peer):
    """A DALI pipeline with its own reader, its own shuffling and its iterator for PyTorch."""

    name, storages, fits, needs = "dali-reader", STORAGES, ("stretch",), "nvidia.dali"
    install = "NVIDIA builds it for Linux only: pip install nvidia-dali-cuda120"
    caveats, reads_ahead, decodes_on_gpu = (BUFFER,), True, True

    def worker_counts(self) -> tuple[int, ...]:
        return (usable_cores(),)

    def open(self) -> None:
        from nvidia.dali import pipeline_def
        from nvidia.dali.plugin.base_iterator import LastBatchPolicy
        from nvidia.dali.plugin.pytorch import DALIGenericIterator

        job, gpu, self._index = self.job, self.job.device == "cuda", self.job.read_index()
        graph = pipeline_def(self._graph)(gpu=gpu, batch_size=job.batch_size, num_threads=job.workers,
                                          device_id=0 if gpu else None, seed=job.seed)  # fmt: skip
        self._loader = DALIGenericIterator([graph], ["image", "mask", "key"], reader_name="reader", auto_reset=True,
                                           last_batch_policy=LastBatchPolicy.PARTIAL)  # fmt: skip

    def _graph(self, *, gpu: bool) -> Any:
        from nvidia.dali import fn, types

        raw = self.job.storage == "raw"
        members: Any = fn.readers.webdataset(
            paths=[str(path) for path in self.split_files()], missing_component_behavior="error", name="reader",
            index_paths=[str(path) for path in self.split_files(".idx")], initial_fill=SHUFFLE_BUFFER,
            ext=["image.npy", "mask.npy", "json"] if raw else ["jpg;png", "mask.png", "json"], random_shuffle=True,
        )  # fmt: skip
        image, mask, meta = members
        if raw:
            image, mask = fn.decoders.numpy(image), fn.decoders.numpy(mask)
            image, mask = (image.gpu(), mask.gpu()) if gpu else (image, mask)
        else:
            where = "mixed" if gpu else "cpu"
            image = fn.decoders.image(image, device=where, output_type=types.RGB, adjust_orientation=False)
            mask = fn.decoders.image(mask, device=where, output_type=types.GRAY, adjust_orientation=False)
            image = fn.resize(image, size=self.job.size, interp_type=types.INTERP_LINEAR, antialias=True)
            mask = fn.squeeze(fn.resize(mask, size=self.job.size, interp_type=types.INTERP_NN), axes=[2])
        if self.job.onehot:
            mask = fn.one_hot(mask, num_classes=self.job.classes, axis=2, dtype=types.UINT8)
        return image, mask, fn.slice(meta, start=0, shape=KEY_BYTES, axes=[0], out_of_bounds_policy="pad")

    def epoch(self, number: int) -> Iterator[Delivered]:
        for outputs in self._loader:
            batch = outputs[0]
            keys = (bytes(row).split(b'"', 4)[3].decode() for row in batch["key"].cpu().numpy())
            yield deliver(batch["image"], batch["mask"], [self._index[key] for key in keys])
