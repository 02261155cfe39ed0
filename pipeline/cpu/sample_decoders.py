"""Decoders of the CPU engine: libjpeg-turbo (simplejpeg) and libpng (OpenCV), or, for ``raw``, none."""

from collections.abc import Iterator
from typing import Any, Protocol

import simplejpeg

from pipeline.cpu.pixel_ops import Pixels
from pipeline.cpu.scaled_jpeg import decode_scaled_jpeg, jpeg_scales
from pipeline.cpu.stored_png import decode_mask, decode_masks, decode_png_image, size_problem
from pipeline.engine import BatchWork, stored_sizes
from pipeline.io.abandoned import check_wanted
from pipeline.io.damage import DamagedSamples
from pipeline.io.members import MemberReader
from pipeline.io.raw_reader import RawReader
from pipeline.io.scratch import Bytes, Scratch
from shards.format.geometry import Size
from shards.format.layout import IMAGE_FORMATS

_PNG = IMAGE_FORMATS.index("png")


class SampleDecoder(Protocol):
    """Turns samples into pixels on the host. All methods may be called by several threads at once.

    They raise ``DamagedSamples`` with positions in the batch (``open``) or from the start of the slice.
    """

    chunks_per_thread: int  # more than one where samples take unequal time
    fills: bool  # whether ``fill`` may be called

    def open(self, work: BatchWork) -> Any:
        """Do what is done for a whole batch at once; the result is passed to ``decode`` or ``fill``."""

    def decode(self, opened: Any, work: BatchWork, positions: slice) -> Iterator[tuple[Pixels, Pixels] | str]:
        """Yield the image (H, W, 3) and mask (H, W) at some positions of the batch, or what is wrong with the sample.

        Pixels are valid until the next sample is requested. An image may be smaller than its mask, see ``scaled``.
        """

    def fill(self, opened: Any, work: BatchWork, positions: slice, *, images: Pixels, masks: Pixels) -> None:
        """Write n samples at the stored size, uint8 (n, H, W, 3) and (n, H, W)."""


class TurboDecoder:
    """Decodes JPEG and PNG images and PNG masks.

    ``stored_size`` is None where each image has its own size; all others are JPEGs. With ``scaled``, a JPEG is decoded
    at the smallest of the scales 1/8, 1/4, 1/2 and 1 at which the part that is shown is not below the size that it is
    shown at.
    """

    def __init__(self, reader: MemberReader, *, stored_size: Size | None, scaled: bool = False) -> None:
        self._reader = reader
        self._stored_size = stored_size
        self._scaled = scaled
        self.fills = stored_size is not None
        self.chunks_per_thread = 1 if stored_size else 4
        self._scratch = Scratch()

    def open(self, work: BatchWork) -> Any:
        """Read the encoded bytes of a batch, into memory of the calling thread: valid until its next batch."""
        return self._reader.encoded(work.indices, work.rows, scratch=self._scratch)

    def fill(self, opened: Any, work: BatchWork, positions: slice, *, images: Pixels, masks: Pixels) -> None:
        """Decode some of the samples directly into a batch, the masks of all of them together."""
        encoded_images, encoded_masks = (members[positions] for members in opened)
        damaged: dict[int, tuple[str, str]] = {}
        if not decode_masks(encoded_masks, masks):
            for place, data in enumerate(encoded_masks):
                check_wanted()
                mask = decode_mask(data, *masks.shape[1:])
                if isinstance(mask, str):
                    damaged[place] = "mask", mask
                else:
                    masks[place] = mask
        for place, data in enumerate(encoded_images):
            check_wanted()
            image = decode_jpeg(data, images[place])
            if isinstance(image, str):
                damaged[place] = "image", image
        if damaged:
            indices = work.indices[positions].tolist()
            raise DamagedSamples(
                {place: self._reader.describe(indices[place], *problem) for place, problem in damaged.items()}
            )

    def decode(self, opened: Any, work: BatchWork, positions: slice) -> Iterator[tuple[Pixels, Pixels] | str]:
        """Decode some of the samples, one after the other into the same memory."""
        images, masks = opened
        sides = stored_sizes(work.rows[positions], self._stored_size)
        heights, widths = (each.tolist() for each in sides)
        formats = work.rows["image_format"][positions].tolist()
        scales = [8] * len(formats)
        if self._scaled:
            scales = jpeg_scales(work.parameters.boxes[positions], work.parameters.places[positions], sides).tolist()
        places = range(len(work))[positions]
        for place, form, scale, height, width in zip(places, formats, scales, heights, widths, strict=True):
            if form == _PNG:
                image = decode_png_image(images[place], height, width)
            elif scale < 8:
                image = decode_scaled_jpeg(images[place], (height, width), scale, self._scratch)
            else:
                image = decode_jpeg(images[place], self._scratch.take("image", (height, width, 3)))
            mask = decode_mask(masks[place], height, width)
            if isinstance(image, str):
                yield self._reader.describe(int(work.indices[place]), "image", image)
            elif isinstance(mask, str):
                yield self._reader.describe(int(work.indices[place]), "mask", mask)
            else:
                yield image, mask


class RawDecoder:
    """Gathers pixels from the tars of ``raw`` storage, each thread its part of the batch."""

    chunks_per_thread = 1
    fills = True

    def __init__(self, raw: RawReader) -> None:
        self.raw = raw
        self._scratch = Scratch()

    def open(self, work: BatchWork) -> Any:
        """Nothing is done for the whole batch."""

    def fill(self, opened: Any, work: BatchWork, positions: slice, *, images: Pixels, masks: Pixels) -> None:
        """Read some of the samples directly into a batch."""
        self.raw.gather(work.indices[positions], work.rows[positions], images=images, masks=masks)

    def decode(self, opened: Any, work: BatchWork, positions: slice) -> Iterator[tuple[Pixels, Pixels]]:
        """Yield some of the samples where they are mapped, or read all of them into this thread's scratch memory."""
        indices = work.indices[positions]
        if (mapped := self.raw.mapped(indices, work.rows[positions])) is not None:
            return zip(mapped[0], mapped[1], strict=True)
        images = self._scratch.take("images", (len(indices), *self.raw.size, 3))
        masks = self._scratch.take("masks", (len(indices), *self.raw.size))
        self.raw.gather(indices, work.rows[positions], images=images, masks=masks)
        return zip(images, masks, strict=True)


def decode_jpeg(data: Bytes, memory: Pixels) -> Pixels | str:
    """Return a JPEG's pixels, put into ``memory``, uint8 (H, W, 3), contiguous; or what is wrong with it.

    Strict, as the audit of a set is: libjpeg would fill what is missing with grey and go on.
    """
    try:
        pixels = simplejpeg.decode_jpeg(data, colorspace="RGB", strict=True, buffer=memory.reshape(-1))
    except ValueError as error:
        return f"cannot be decoded: {error}"
    if pixels.shape != memory.shape:
        return size_problem(pixels.shape, memory.shape)
    return pixels  # type: ignore[no-any-return]
