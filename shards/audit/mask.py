"""The audit of a trimap: every pixel is 1, 2 or 3, and what is packed is an 8-bit grey PNG."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from shards.audit import png_chunks as png
from shards.audit import transcode as foreign
from shards.audit.findings import Finding, RejectedError, check_pixels, mended
from shards.audit.transcode import Pixels
from shards.format.layout import MASK_VALUES

PNG_LEVEL = 6  # zlib's; more costs time and gains little on trimaps


@dataclass(frozen=True)
class Trimap:
    """A trimap that is fit to be packed.

    Attributes:
        png: an 8-bit grey PNG; the original bytes where nothing had to be mended.
        values: uint8 (height, width), 1, 2, 3.
        findings: what was mended, and remarks.
    """

    png: bytes
    values: Pixels
    findings: list[Finding]

    @cached_property
    def class_pixels(self) -> tuple[int, int, int]:
        """Pixels of each class, in class order; counted when asked for, as ``raw`` storage counts what it stores."""
        return class_pixels(self.values)

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in pixels."""
        height, width = self.values.shape
        return width, height


def audit_trimap(data: bytes) -> Trimap:
    """Decode a trimap wholly, check every value, and mend its form where its values are beyond doubt.

    Raises:
        RejectedError: the trimap is damaged or has other values than 1, 2, 3.
    """
    findings: list[Finding] = []
    if data.startswith(png.SIGNATURE):
        header = _check_png(data)
        if header.plain:
            values = _decode_plain(data, header)
        else:
            values, findings = _to_grey(foreign.open_image(data, what="trimap"), header)
    else:
        image = foreign.open_image(data, what="trimap")
        values, more = _to_grey(image, None)
        findings = [mended("trimap-wrong-type", f"a {image.format} file; stored as PNG"), *more]
    least, most = int(values.min()), int(values.max())  # there are no values between 1 and 3 but the three
    if least < MASK_VALUES[0] or most > MASK_VALUES[-1]:
        raise RejectedError("trimap-values", _strange_values(np.bincount(values.reshape(-1), minlength=256).tolist()))
    packed = encode_png(values) if findings else data
    if least > 1:
        findings = [*findings, Finding("remark", "no-animal")]
    return Trimap(packed, values, findings)


def encode_png(values: Pixels) -> bytes:
    """Encode uint8 (height, width) values as an 8-bit grey PNG; see :func:`shards.audit.png_chunks.encode_unfiltered`."""
    return png.encode_unfiltered(values, level=PNG_LEVEL)


def class_pixels(values: Pixels) -> tuple[int, int, int]:
    """Count the pixels of each class; all are 1, 2 or 3. Comparing bytes is many times faster than a histogram."""
    first, second = (int(np.count_nonzero(values == value)) for value in MASK_VALUES[:2])
    return first, second, values.size - first - second


def nearest(values: Pixels, size: int) -> Pixels:
    """Resize (height, width) to (size, size), each pixel from the source pixel under its centre.

    The same rule as the pipeline's: source index ``floor((i + 0.5) * n / size)``, in whole numbers.
    """
    rows, columns = ((2 * np.arange(size, dtype=np.int64) + 1) * length // (2 * size) for length in values.shape)
    return np.asarray(values[rows].take(columns, axis=1))  # row by row is faster than pixel by pixel


def _check_png(data: bytes) -> png.PngHeader:
    try:
        header = png.read_header(data)
    except png.PngError as error:
        raise _rejected(error) from None
    check_pixels(header.width, header.height, "trimap")
    return header


def _decode_plain(data: bytes, header: png.PngHeader) -> Pixels:
    try:
        return png.decode_plain(data, header)
    except png.PngError as error:
        raise _rejected(error) from None


def _rejected(error: png.PngError) -> RejectedError:
    return RejectedError(f"trimap-{'truncated' if error.truncated else 'corrupt'}", str(error))


def _to_grey(image: Image.Image, header: png.PngHeader | None) -> tuple[Pixels, list[Finding]]:
    """Return one channel of values, and what was changed for that."""
    if image.mode == "P":
        return _checked(np.asarray(image)), [mended("trimap-palette")]
    findings = []
    if header is not None and not header.harmless:
        findings.append(mended("trimap-extras"))
    if header is not None and header.interlaced:
        findings.append(mended("trimap-extras", "interlaced; stored plainly"))
    if header is not None and header.depth != 8:
        findings.append(mended("trimap-depth", f"{header.depth} bits a pixel; stored with 8"))
    values = np.asarray(image)
    if values.ndim == 3:
        values = _one_channel(image, values)
        findings.append(mended("trimap-channels", f"{len(image.getbands())} channels that agree; stored as one"))
    if header is not None and header.colour == png.GREY and header.depth < 8:
        # Pillow spreads small grey values over 0..255; the file's own values are the trimap's.
        step = 255 // (2**header.depth - 1)
        values = values.astype(np.int64) * (255 if image.mode == "1" else 1) // step
    return _checked(values), findings


def _checked(values: npt.NDArray[Any]) -> Pixels:
    """Return values as uint8; reject what does not fit."""
    if values.min(initial=0) < 0 or values.max(initial=0) > 255:
        raise RejectedError("trimap-values", f"values from {values.min()} to {values.max()}")
    return np.ascontiguousarray(values.astype(np.uint8))


def _one_channel(image: Image.Image, values: Pixels) -> Pixels:
    """Return the values that all colour channels share; an alpha channel must be opaque."""
    bands = image.getbands()
    colours = [index for index, band in enumerate(bands) if band != "A"]
    if any((values[..., index] != values[..., colours[0]]).any() for index in colours):
        raise RejectedError("trimap-channels", f"{len(bands)} channels that differ")
    if "A" in bands and (values[..., bands.index("A")] != 255).any():
        raise RejectedError("trimap-channels", "transparent pixels")
    return values[..., colours[0]]


def _strange_values(counts: list[int]) -> str:
    strange = [value for value, count in enumerate(counts) if count and value not in MASK_VALUES]
    pixels = sum(counts[value] for value in strange)
    shown = ", ".join(map(str, strange[:8])) + (", ..." if len(strange) > 8 else "")
    return f"{pixels} pixels with values {shown}; 1, 2 and 3 are expected"
