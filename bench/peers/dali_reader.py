"""DALI alone: ``fn.readers.webdataset`` over the same tars, on the CPU, as its documentation shows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from bench.peers.job import Job
from bench.peers.base import Delivered, split_files
from bench.peers.fast_decode import deliver

SHUFFLE_BUFFER = 1000
KEY_BYTES = 100  # the member with the key is cut to its beginning, which holds it: {"key": "...


class DaliReader:
    """A DALI pipeline with its own reader, its own shuffling and its iterator for PyTorch."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self._iterator: Any = None
        self._index = {key: index for index, key in enumerate(job.read_keys())}

    def prepare(self) -> None:
        """Nothing: it reads our tars and indices as they are."""

    def worker_counts(self) -> tuple[int, ...]:
        """As many threads as cores."""
        return (self.job.cores,)

    def open(self, workers: int) -> None:
        """Build the pipeline and its iterator."""
        from nvidia.dali import pipeline_def
        from nvidia.dali.plugin.base_iterator import LastBatchPolicy
        from nvidia.dali.plugin.pytorch import DALIGenericIterator

        gpu = self.job.device == "cuda"

        @pipeline_def(  # type: ignore[untyped-decorator]
            batch_size=self.job.batch_size,
            num_threads=workers,
            device_id=0 if gpu else None,
            seed=self.job.seed,
        )
        def graph() -> Any:
            return self._graph(gpu=gpu)

        self._iterator = DALIGenericIterator(
            [graph()],
            ["image", "mask", "key"],
            reader_name="reader",
            last_batch_policy=LastBatchPolicy.PARTIAL,
            auto_reset=True,
        )

    def _graph(self, *, gpu: bool) -> Any:
        from nvidia.dali import fn, types

        raw = self.job.storage == "raw"
        members: Any = fn.readers.webdataset(
            paths=[str(path) for path in split_files(self.job, ".tar")],
            index_paths=[str(path) for path in split_files(self.job, ".idx")],
            ext=["image.npy", "trimap.npy", "json"] if raw else ["jpg", "trimap.png", "json"],
            missing_component_behavior="error",
            random_shuffle=True,
            initial_fill=SHUFFLE_BUFFER,
            name="reader",
        )
        image, trimap, meta = members
        size = [self.job.size, self.job.size]
        if raw:
            image, trimap = fn.decoders.numpy(image), fn.decoders.numpy(trimap)
            image, trimap = (image.gpu(), trimap.gpu()) if gpu else (image, trimap)
        else:
            where = "mixed" if gpu else "cpu"
            image = fn.decoders.image(image, device=where, output_type=types.RGB, adjust_orientation=False)
            trimap = fn.decoders.image(trimap, device=where, output_type=types.GRAY, adjust_orientation=False)
            image = fn.resize(image, size=size, interp_type=types.INTERP_LINEAR, antialias=True)
            trimap = fn.squeeze(fn.resize(trimap, size=size, interp_type=types.INTERP_NN), axes=[2])
        classes = trimap - types.Constant(1, dtype=types.UINT8)
        mask = fn.one_hot(classes, num_classes=3, axis=2, dtype=types.UINT8) if self.job.onehot else classes
        key = fn.slice(meta, 0, KEY_BYTES, axes=[0], out_of_bounds_policy="pad", normalized_anchor=False,
                       normalized_shape=False)  # fmt: skip
        return image, mask, key

    def epoch(self, number: int) -> Iterator[Delivered]:
        """The next epoch; the reader shuffles by itself."""
        for outputs in self._iterator:
            batch = outputs[0]
            index = [self._index[_key(row)] for row in batch["key"].cpu().numpy()]
            yield deliver(batch["image"], batch["mask"], index)

    def moved_per_picture(self) -> float:
        """Return the bytes that cross to the GPU: the encoded ones, or the pixels of ``raw``."""
        if self.job.device != "cuda":
            return 0.0
        if self.job.storage == "raw":
            return 4.0 * self.job.size * self.job.size
        return sum(path.stat().st_size for path in self.files()) / self.job.samples

    def files(self) -> list[Path]:
        """The tars."""
        return split_files(self.job, ".tar")

    def close(self) -> None:
        """Drop the pipeline."""
        self._iterator = None


def _key(meta: np.ndarray[Any, Any]) -> str:
    return bytes(meta).split(b'"', 4)[3].decode()


def make(job: Job) -> DaliReader:
    """Return the peer."""
    return DaliReader(job)
