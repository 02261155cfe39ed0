"""The audit of a mask: every pixel is 1, 2 or 3, and what is packed is an 8-bit grayscale PNG."""

from dataclasses import dataclass

import numpy as np
from PIL import Image

from shards.audit import png_chunks as png
from shards.audit import transcode
from shards.audit.findings import Finding, RejectedError, check_pixels, damaged, repaired
from shards.audit.transcode import Pixels
from shards.format.layout import MASK_VALUES


@dataclass(frozen=True)
class AuditedMask:
    """A mask that can be packed: ``values`` are uint8 (height, width), 1, 2, 3; with repairs and warnings.

    ``png`` is an 8-bit grayscale PNG, the original bytes where nothing was repaired.
    """

    png: bytes
    values: Pixels
    findings: list[Finding]

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in pixels."""
        height, width = self.values.shape
        return width, height


def audit_mask(data: bytes) -> AuditedMask:
    """Decode a mask completely, check every value, and repair its encoding where its values are beyond doubt.

    Raises ``RejectedError`` if the mask is damaged or has values other than 1, 2, 3.
    """
    findings: list[Finding] = []
    chunks = None
    try:
        if data.startswith(png.SIGNATURE):
            chunks = png.read_chunks(data)
            check_pixels(chunks.width, chunks.height, "mask")
        if chunks is not None and chunks.plain:
            values = png.decode_plain(chunks)
        else:
            values, findings = _to_gray(transcode.open_image(data, what="mask"), chunks)
    except png.PngError as error:
        raise damaged("mask", error, truncated=error.truncated) from None
    least = values.min()
    if least < MASK_VALUES[0] or values.max() > MASK_VALUES[-1]:  # between 1 and 3 there are no other values
        found, counts = np.unique(values, return_counts=True)
        invalid = ~np.isin(found, MASK_VALUES)
        shown = ", ".join(map(str, found[invalid][:8])) + (", ..." if invalid.sum() > 8 else "")
        detail = f"{counts[invalid].sum()} pixels with values {shown}; 1, 2 and 3 are expected"
        raise RejectedError("mask-values", detail)
    packed = png.encode_unfiltered(values) if findings else data
    if least > 1:
        findings = [*findings, Finding("warning", "no-foreground")]
    return AuditedMask(packed, values, findings)


def class_pixels(values: Pixels) -> tuple[int, int, int]:
    """Count the pixels of each class; all are 1, 2 or 3. Comparing bytes is many times faster than a histogram."""
    first, second = (int(np.count_nonzero(values == value)) for value in MASK_VALUES[:2])
    return first, second, values.size - first - second


def nearest(values: Pixels, size: int) -> Pixels:
    """Resize (height, width) to (size, size), each pixel from the source pixel under its center.

    The same rule as the pipeline's: source index ``floor((i + 0.5) * n / size)``, in integers.
    """
    rows, columns = ((2 * np.arange(size, dtype=np.int64) + 1) * length // (2 * size) for length in values.shape)
    return np.asarray(values[rows].take(columns, axis=1))  # row by row is faster than pixel by pixel


def _to_gray(image: Image.Image, chunks: png.PngChunks | None) -> tuple[Pixels, list[Finding]]:
    """Return one channel of values, and what was changed to get it."""
    findings = []
    if chunks is None:
        findings.append(repaired("mask-wrong-type", f"a {image.format} file; stored as PNG"))
    if image.mode == "P":
        findings.append(repaired("mask-palette"))
        chunks = None  # nothing else that they say matters to the indices
    if chunks is not None and not chunks.harmless:
        findings.append(repaired("mask-extras"))
    if chunks is not None and chunks.interlaced:
        findings.append(repaired("mask-extras", "interlaced; stored plainly"))
    if chunks is not None and chunks.depth != 8:
        findings.append(repaired("mask-depth", f"{chunks.depth} bits a pixel; stored with 8"))
    values = np.asarray(image)
    if values.ndim == 3:
        values = _one_channel(image, values)
        findings.append(repaired("mask-channels", f"{len(image.getbands())} channels that agree; stored as one"))
    if chunks is not None and chunks.color == png.GRAY and chunks.depth < 8:
        # Pillow spreads small gray values over 0..255; the file's own values are the mask's.
        step = 255 // (2**chunks.depth - 1)
        values = values.astype(np.int64) * (255 if image.mode == "1" else 1) // step
    if values.min(initial=0) < 0 or values.max(initial=0) > 255:
        raise RejectedError("mask-values", f"values from {values.min()} to {values.max()}")
    return np.ascontiguousarray(values.astype(np.uint8)), findings


def _one_channel(image: Image.Image, values: Pixels) -> Pixels:
    """Return the values that all color channels share; an alpha channel must be opaque."""
    bands = image.getbands()
    colors = [index for index, band in enumerate(bands) if band != "A"]
    if any((values[..., index] != values[..., colors[0]]).any() for index in colors):
        raise RejectedError("mask-channels", f"{len(bands)} channels that differ")
    if "A" in bands and (values[..., bands.index("A")] != 255).any():
        raise RejectedError("mask-channels", "transparent pixels")
    return values[..., colors[0]]
