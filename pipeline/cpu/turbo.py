"""Decoding one sample at a time, with libjpeg-turbo (simplejpeg) and libpng (OpenCV): wherever their wheels work."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import simplejpeg

from pipeline.cpu.mask_png import decode_alike, decode_trimap
from pipeline.cpu.pixel_ops import Pixels
from pipeline.damage import DamagedSamples
from pipeline.engine import Work, size_problem, stored_sizes
from pipeline.io.members import Bytes, MemberReader
from pipeline.runtime.buffers import Scratch


class TurboDecoder:
    """Decodes JPEG pictures and PNG trimaps in the engine's threads.

    Args:
        reader: of the encoded bytes.
        stored_size: side of a stored picture in pixels; None: each has its own, in the table.
    """

    def __init__(self, reader: MemberReader, *, stored_size: int | None) -> None:
        self._reader = reader
        self._stored = stored_size
        self.fills = stored_size is not None
        self.chunks_per_thread = 1 if stored_size else 4
        self._scratch = Scratch()

    def open(self, work: Work) -> Any:
        """Read the encoded bytes of a batch, into memory of the calling thread: valid until its next batch."""
        return self._reader.encoded(work.indices, work.rows, scratch=self._scratch)

    def fill(self, opened: Any, work: Work, places: slice, *, images: Pixels, trimaps: Pixels) -> None:
        """Decode some of the samples straight into a batch, the trimaps of all of them together."""
        encoded_images, encoded_trimaps = (members[places] for members in opened)
        damaged: dict[int, tuple[str, str]] = {}
        if not decode_alike(encoded_trimaps, trimaps):
            for place, data in enumerate(encoded_trimaps):
                trimap = decode_trimap(data)
                problem = trimap if isinstance(trimap, str) else size_problem(trimap, *trimaps.shape[1:])
                if problem:
                    damaged[place] = "trimap", problem
                else:
                    trimaps[place] = trimap
        for place, data in enumerate(encoded_images):
            picture = decode_picture(data, images[place].reshape(-1))
            problem = picture if isinstance(picture, str) else size_problem(picture, *images.shape[1:3])
            if problem:
                damaged[place] = "image", problem
        if damaged:
            indices = work.indices[places].tolist()
            raise DamagedSamples(
                {place: self._reader.told(indices[place], role, text) for place, (role, text) in damaged.items()}
            )

    def decode(self, opened: Any, work: Work, places: slice) -> Iterator[tuple[Pixels, Pixels] | tuple[str, str]]:
        """Decode some of the samples, one after the other into the same memory."""
        images, trimaps = opened
        heights, widths = stored_sizes(work.rows[places], self._stored)
        for number, place in enumerate(range(len(work))[places]):
            memory = self._scratch.take("picture", (heights[number] * widths[number] * 3,))
            picture = decode_picture(images[place], memory)
            trimap = decode_trimap(trimaps[place])
            if isinstance(picture, str):
                yield "image", picture
            elif isinstance(trimap, str):
                yield "trimap", trimap
            else:
                yield picture, trimap

    def close(self) -> None:
        """Nothing is held."""


def decode_picture(data: Bytes, memory: Pixels) -> Pixels | str:
    """Return a JPEG's pixels, uint8 (H, W, 3), or what is wrong with it.

    Strict, as the audit of a set is: libjpeg would fill what is missing with grey and go on.

    Args:
        data: the JPEG.
        memory: where the pixels go, uint8 (H * W * 3,).
    """
    try:
        return simplejpeg.decode_jpeg(data, colorspace="RGB", strict=True, buffer=memory)  # type: ignore[no-any-return]
    except ValueError as error:
        return f"cannot be decoded: {error}"
