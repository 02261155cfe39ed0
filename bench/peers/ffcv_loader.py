"""FFCV: its own file, compiled decoders, threads.

FFCV cannot store a mask of another size than the output, so masks are stored as they are delivered; and it encodes
JPEGs itself, from pixels.
"""

from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg

from bench.peers.base import ConvertedPeer
from bench.peers.fast_decode import FastDecoder, collate
from bench.peers.job import Job

JPEG_QUALITY = 95


class FfcvSamples:
    """The input of FFCV's writer: image, mask and index by number."""

    def __init__(self, job: Job, rows: list[dict[str, Any]]) -> None:
        self._job = job
        self._rows = rows
        self._decode = FastDecoder(job)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, number: int) -> tuple[Any, Any, int]:
        row = self._rows[number]
        sample = self._decode(row["image"], row["mask"], row["index"])
        _, mask, _ = collate([sample], onehot=self._job.onehot)
        original = self._job.storage == "source"
        image = simplejpeg.decode_jpeg(row["image"], "RGB") if original else np.ascontiguousarray(sample.image)
        return image, mask[0].numpy(), row["index"]


class FfcvPeer(ConvertedPeer):
    """FFCV's Loader."""

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        self.output = Path(job.work) / f"{job.mask}.beton"

    def convert(self) -> None:
        """Write the .beton file."""
        from ffcv.fields import IntField, NDArrayField, RGBImageField
        from ffcv.writer import DatasetWriter

        size = self.job.size
        square = NDArrayField(np.dtype("uint8"), (size, size, 3))
        mask = square if self.job.onehot else NDArrayField(np.dtype("uint8"), (size, size))
        image = square if self.job.storage == "raw" else RGBImageField(write_mode="jpg", jpeg_quality=JPEG_QUALITY)
        fields = {"image": image, "mask": mask, "index": IntField()}
        writer = DatasetWriter(str(self.output), fields, num_workers=1)
        writer.from_indexed_dataset(FfcvSamples(self.job, list(self.rows())))

    def worker_counts(self) -> tuple[int, ...]:
        """Return the usual counts up to the number of cores, the most threads that numba allows."""
        return tuple(count for count in super().worker_counts() if count <= self.job.cores)

    def open(self, workers: int) -> None:
        """Make the Loader; its pipelines are compiled in the first epoch."""
        from ffcv.fields.decoders import IntDecoder, NDArrayDecoder, SimpleRGBImageDecoder
        from ffcv.loader import Loader, OrderOption
        from ffcv.transforms import ToTensor

        decoders = {"raw": NDArrayDecoder, "jpeg": SimpleRGBImageDecoder}
        decoder = _stretch(self.job.size) if self.job.storage == "source" else decoders[self.job.storage]()
        self._loader = Loader(
            str(self.output),
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


def _stretch(size: int) -> Any:
    """Return a decoder that stretches the whole image to size x size."""
    from ffcv.fields.rgb_image import CenterCropRGBImageDecoder

    def whole(height: Any, width: Any, _: Any, __: Any) -> Any:
        return 0, 0, height, width

    class StretchDecoder(CenterCropRGBImageDecoder):  # type: ignore[misc]
        """Takes the whole image in place of its centre."""

        get_crop_generator = property(lambda _: whole)

    return StretchDecoder((size, size), 1.0)
