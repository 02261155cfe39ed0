"""Decoding one sample at a time, with libjpeg-turbo (simplejpeg) and libpng (OpenCV): wherever their wheels work."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import simplejpeg

from pipeline.buffers import Scratch
from pipeline.engine import Work, stored_sizes
from pipeline.host import Pixels
from pipeline.reading import Bytes, MemberReader
from pipeline.trimap_png import decode_trimap


class TurboDecoder:
    """Decodes JPEG pictures and PNG trimaps in the engine's threads.

    Args:
        reader: of the encoded bytes.
        stored_size: side of a stored picture in pixels; None: each has its own, in the table.
    """

    in_place = True

    def __init__(self, reader: MemberReader, *, stored_size: int | None) -> None:
        self._reader = reader
        self._stored = stored_size
        self.chunks_per_thread = 1 if stored_size else 4
        self._scratch = Scratch()

    def open(self, work: Work) -> Any:
        """Read the encoded bytes of a batch, into memory of the calling thread: valid until its next batch."""
        return self._reader.encoded(work.indices, work.rows, scratch=self._scratch)

    def decode(
        self, opened: Any, work: Work, places: slice, into: Pixels | None
    ) -> Iterator[tuple[Pixels, Pixels] | tuple[str, str]]:
        """Decode some of the samples, one after the other into the same memory."""
        images, trimaps = opened
        heights, widths = stored_sizes(work.rows[places], self._stored)
        for number, place in enumerate(range(len(work))[places]):
            if into is None:
                memory = self._scratch.take("picture", (heights[number] * widths[number] * 3,))
            else:
                memory = into[number].reshape(-1)
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
