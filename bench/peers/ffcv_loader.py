"""FFCV: its own file, compiled decoders, threads.

FFCV cannot store a mask of another size than the output, so masks are stored as they are delivered; and it encodes
JPEGs itself, from pixels.
"""

import gc
from pathlib import Path
from typing import Any

import numpy as np

from bench.peers.fast_decode import Collate, FastDecoder, decode_image
from bench.peers.peer import Caveat, ConvertedPeer, Job
from shards.cores import usable_cores
from shards.format.geometry import Size
from shards.format.layout import STORAGES

JPEG_QUALITY = 95


class FfcvSamples:
    """The input of FFCV's writer: image, mask and index by number."""

    def __init__(self, job: Job, rows: list[dict[str, Any]]) -> None:
        self._original, self._rows = job.storage == "source", rows
        self._decode, self._collate = FastDecoder(job), Collate(job)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, number: int) -> tuple[Any, Any, int]:
        row = self._rows[number]
        sample = self._decode(**row)
        image = decode_image(row["image"]) if self._original else np.ascontiguousarray(sample[0])
        return image, self._collate([sample])[1][0].numpy(), row["index"]


class FfcvPeer(ConvertedPeer):
    """FFCV's Loader."""

    name, storages, fits, needs = "ffcv", STORAGES, ("stretch",), "ffcv"
    install = "make peers; it needs system packages, see docs/performance.md"
    caveats = (
        Caveat("stores masks in their delivered form and size: nothing is decoded, resized or made one-hot"),
        Caveat("re-encodes the JPEGs when packing, and averages areas", ("source", "jpeg"), image=True),
        Caveat("resizes masks when packing", ("source",)),
    )

    @property
    def output(self) -> Path:
        return Path(self.job.work) / f"{self.job.mask}.beton"

    def convert(self) -> None:
        from ffcv.fields import IntField, NDArrayField, RGBImageField
        from ffcv.writer import DatasetWriter

        def array(*more: int) -> Any:
            return NDArrayField(np.dtype("uint8"), (*self.job.size, *more))

        mask = array(self.job.classes) if self.job.onehot else array()
        image = array(3) if self.job.storage == "raw" else RGBImageField(write_mode="jpg", jpeg_quality=JPEG_QUALITY)
        fields = {"image": image, "mask": mask, "index": IntField()}
        writer = DatasetWriter(str(self.output), fields, num_workers=1)
        writer.from_indexed_dataset(FfcvSamples(self.job, list(self.rows())))

    def worker_counts(self) -> tuple[int, ...]:
        """Return the usual counts up to the number of cores, the most threads that numba allows."""
        return tuple(count for count in super().worker_counts() if count <= usable_cores())

    def open(self) -> None:
        from ffcv.fields.decoders import IntDecoder, NDArrayDecoder, SimpleRGBImageDecoder
        from ffcv.loader import Loader, OrderOption
        from ffcv.transforms import ToTensor

        decoders = {"raw": NDArrayDecoder, "jpeg": SimpleRGBImageDecoder}
        decoder = _stretch(self.job.size) if self.job.storage == "source" else decoders[self.job.storage]()
        fields = {"image": decoder, "mask": NDArrayDecoder(), "index": IntDecoder()}
        self._loader = Loader(
            str(self.output), batch_size=self.job.batch_size, num_workers=self.job.workers, order=OrderOption.RANDOM,
            seed=self.job.seed, os_cache=True, drop_last=False,
            pipelines={name: [first, ToTensor()] for name, first in fields.items()},
        )  # fmt: skip

    def discard_prefetched(self) -> None:
        """Unmap the file: pages that are mapped cannot be dropped. The next epoch maps it again."""
        self._loader.memory_manager.context.mmap = None
        gc.collect()  # an ended epoch's iterator may still refer to it


def _stretch(size: Size) -> Any:
    """Return a decoder that stretches the whole image to a size."""
    from ffcv.fields.rgb_image import CenterCropRGBImageDecoder

    def whole(height: Any, width: Any, _: Any, __: Any) -> Any:
        return 0, 0, height, width

    class StretchDecoder(CenterCropRGBImageDecoder):  # type: ignore[misc]
        """Takes the whole image in place of its centre."""

        get_crop_generator = property(lambda _: whole)

    return StretchDecoder(size, 1.0)
