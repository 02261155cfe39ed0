"""Decoders of the CPU engine: libjpeg-turbo (simplejpeg) and libpng (OpenCV), or, for ``raw``, none."""

from collections.abc import Iterator
from typing import Any, Protocol, cast

import simplejpeg

from pipeline.cpu.mask_png import decode_mask, decode_masks
from pipeline.cpu.pixel_ops import Pixels
from pipeline.engine import BatchWork, stored_sizes
from pipeline.io.damage import DamagedSamples
from pipeline.io.members import MemberReader
from pipeline.io.raw_reader import RawReader
from pipeline.io.scratch import Bytes, Scratch


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

        Pixels are valid until the next sample is requested.
        """

    def fill(self, opened: Any, work: BatchWork, positions: slice, *, images: Pixels, masks: Pixels) -> None:
        """Write n samples at the stored size, uint8 (n, S, S, 3) and (n, S, S)."""


class TurboDecoder:
    """Decodes JPEG images and PNG masks; ``stored_size`` is None where each image has its own size."""

    def __init__(self, reader: MemberReader, *, stored_size: int | None) -> None:
        self._reader = reader
        self._stored_size = stored_size
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
                mask = decode_mask(data)
                if problem := find_problem(mask, *masks.shape[1:]):
                    damaged[place] = "trimap", problem
                else:
                    masks[place] = mask
        for place, data in enumerate(encoded_images):
            image = decode_image(data, images[place].reshape(-1))
            if problem := find_problem(image, *images.shape[1:3]):
                damaged[place] = "image", problem
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
        for place, height, width in zip(range(len(work))[positions], heights, widths, strict=True):
            image = decode_image(images[place], self._scratch.take("image", (height * width * 3,)))
            mask = decode_mask(masks[place])
            if problem := find_problem(image, height, width):
                yield self._reader.describe(int(work.indices[place]), "image", problem)
            elif problem := find_problem(mask, height, width):
                yield self._reader.describe(int(work.indices[place]), "trimap", problem)
            else:
                yield cast(Pixels, image), cast(Pixels, mask)


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
        """Read some of the samples into this thread's scratch memory, and yield them."""
        indices, size = work.indices[positions], self.raw.size
        images = self._scratch.take("images", (len(indices), size, size, 3))
        masks = self._scratch.take("masks", (len(indices), size, size))
        self.raw.gather(indices, work.rows[positions], images=images, masks=masks)
        return zip(images, masks, strict=True)


def decode_image(data: Bytes, memory: Pixels) -> Pixels | str:
    """Return a JPEG's pixels, uint8 (H, W, 3), put into ``memory`` (H * W * 3,), or what is wrong with it.

    Strict, as the audit of a set is: libjpeg would fill what is missing with grey and go on.
    """
    try:
        return simplejpeg.decode_jpeg(data, colorspace="RGB", strict=True, buffer=memory)  # type: ignore[no-any-return]
    except ValueError as error:
        return f"cannot be decoded: {error}"


def find_problem(decoded: Pixels | str, height: int, width: int) -> str | None:
    """Return why decoding failed, or that the size is not the table's, which the crop was drawn for; else None."""
    if isinstance(decoded, str):
        return decoded
    if decoded.shape[:2] == (height, width):
        return None
    return f"{decoded.shape[1]} x {decoded.shape[0]} pixels, the table says {width} x {height}"
