"""Decoding with OpenCV (libjpeg-turbo and libpng): works wherever OpenCV's wheels do, one sample at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np

from pipeline.damage import DamagedSamples
from pipeline.engine import Work
from pipeline.host import Pixels
from pipeline.reading import Bytes, MemberReader

# As stored: a trimap has no EXIF, so the picture must not be turned alone.
_COLOUR = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
JPEG_END = b"\xff\xd9"


class OpenCvDecoder:
    """Decodes JPEG pictures and PNG trimaps in the engine's threads."""

    chunks_per_thread = 4

    def __init__(self, reader: MemberReader) -> None:
        self._reader = reader

    def open(self, work: Work) -> Any:
        """Read the encoded bytes of a batch."""
        return self._reader.encoded(work.indices, work.rows)

    def pixels(self, opened: Any, work: Work, places: slice) -> tuple[Sequence[Pixels], Sequence[Pixels]]:
        """Decode some of the samples."""
        images, trimaps = opened[0][places], opened[1][places]
        damaged: dict[int, str] = {}
        decoded: dict[str, list[Any]] = {
            "image": [decode_picture(data) for data in images],
            "trimap": [decode_trimap(data) for data in trimaps],
        }
        for role, results in decoded.items():
            for place, result in enumerate(results):
                if isinstance(result, str):
                    where = self._reader.split.place(int(work.indices[places][place]), role)
                    damaged.setdefault(place, f"{where}: {result}")
        if damaged:
            raise DamagedSamples(damaged)
        return decoded["image"], decoded["trimap"]

    def close(self) -> None:
        """Nothing is held."""


def decode_picture(data: Bytes) -> Pixels | str:
    """Return a JPEG's pixels, uint8 (H, W, 3), or what is wrong with it."""
    if JPEG_END not in data[-64:].tobytes():
        return "the JPEG is truncated (no end marker)"  # OpenCV would fill the rest with grey, silently
    try:
        pixels = cv2.imdecode(data, _COLOUR)
    except cv2.error as error:
        return f"cannot be decoded: {error.err}"
    return "cannot be decoded" if pixels is None else pixels  # type: ignore[return-value]


def decode_trimap(data: Bytes) -> Pixels | str:
    """Return a trimap's values, uint8 (H, W), or what is wrong with it."""
    try:
        pixels = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        return f"cannot be decoded: {error.err}"
    if pixels is None:
        return "cannot be decoded"
    if pixels.ndim != 2 or pixels.dtype != np.uint8:
        return f"not an 8-bit picture of one channel ({pixels.dtype}, shape {pixels.shape})"
    return pixels  # type: ignore[return-value]
