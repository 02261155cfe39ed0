"""FFCV: its own file, compiled decoders, threads.

FFCV cannot store a trimap of another size than the output, so masks are stored as they are delivered; and it encodes
JPEGs itself, from pixels.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from bench.peers.job import Job
from bench.peers.base import Delivered, usual_worker_counts
from bench.peers.converted import stored_members
from bench.peers.fast_decode import FastDecoder, deliver, stack

JPEG_QUALITY = 95


class Rows:
    """What FFCV's writer takes: picture, mask and index by number."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._members = list(stored_members(job))
        self._decode = FastDecoder(job)

    def __len__(self) -> int:
        return len(self._members)

    def __getitem__(self, number: int) -> tuple[Any, Any, int]:
        index, image, trimap = self._members[number]
        item = self._decode(image, trimap, index)
        pixels, mask, _ = stack([item], onehot=self._job.onehot)
        if self._job.storage == "source":
            import simplejpeg

            return simplejpeg.decode_jpeg(image, "RGB"), mask[0], index
        return np.ascontiguousarray(pixels[0]), mask[0], index


class FfcvLoader:
    """FFCV's Loader."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self._file = Path(job.work) / f"{job.mask}.beton"
        self._loader: Any = None

    def prepare(self) -> None:
        """Write the .beton file."""
        from ffcv.fields import IntField, NDArrayField, RGBImageField
        from ffcv.writer import DatasetWriter

        if self._file.exists():
            return
        size = self.job.size
        square = NDArrayField(np.dtype("uint8"), (size, size, 3))
        mask = square if self.job.onehot else NDArrayField(np.dtype("uint8"), (size, size))
        image = square if self.job.storage == "raw" else RGBImageField(write_mode="jpg", jpeg_quality=JPEG_QUALITY)
        fields = {"image": image, "mask": mask, "index": IntField()}
        writer = DatasetWriter(str(self._file), fields, num_workers=1)
        writer.from_indexed_dataset(Rows(self.job))

    def worker_counts(self) -> tuple[int, ...]:
        """As usual, threads; no more than cores, which is what numba allows."""
        return tuple(count for count in usual_worker_counts(self.job.cores) if count <= self.job.cores)

    def open(self, workers: int) -> None:
        """Make the Loader; its pipelines are compiled in the first epoch."""
        from ffcv.fields.decoders import IntDecoder, NDArrayDecoder, SimpleRGBImageDecoder
        from ffcv.loader import Loader, OrderOption
        from ffcv.transforms import ToTensor

        decoders = {"raw": NDArrayDecoder, "jpeg": SimpleRGBImageDecoder}
        decoder = _squash(self.job.size) if self.job.storage == "source" else decoders[self.job.storage]()
        self._loader = Loader(
            str(self._file),
            batch_size=self.job.batch_size,
            num_workers=workers,
            order=OrderOption.RANDOM,
            seed=self.job.seed,
            os_cache=True,
            drop_last=False,
            pipelines={
                "image": [decoder, ToTensor()],
                "mask": [NDArrayDecoder(), ToTensor()],
                "index": [IntDecoder(), ToTensor()],
            },
        )

    def epoch(self, number: int) -> Iterator[Delivered]:
        """The next epoch; the library shuffles by itself."""
        for image, mask, index in self._loader:
            yield deliver(image, mask, index.numpy().ravel())

    def files(self) -> list[Path]:
        """The .beton file."""
        return [self._file]

    def close(self) -> None:
        """Drop the loader."""
        self._loader = None


def _squash(size: int) -> Any:
    """Return a decoder that squashes the whole picture to size x size."""
    from ffcv.fields.rgb_image import CenterCropRGBImageDecoder

    def whole(height: Any, width: Any, _: Any, __: Any) -> Any:
        return 0, 0, height, width

    class Squash(CenterCropRGBImageDecoder):  # type: ignore[misc]
        """Takes the whole picture in the place of its middle."""

        @property
        def get_crop_generator(self) -> Any:
            return whole

    return Squash((size, size), 1.0)


def make(job: Job) -> FfcvLoader:
    """Return the peer."""
    return FfcvLoader(job)
