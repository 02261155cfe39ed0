"""The audit of a mask: every value or colour is that of a class, or ignored; what is packed are class indices."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from shards.audit import png_chunks as png
from shards.audit import transcode
from shards.audit.findings import MAX_PIXELS, Finding, RejectedError, check_pixels, damaged, repaired
from shards.audit.transcode import Pixels
from shards.format.geometry import Size, nearest_places
from shards.format.labels import IGNORE, Labels

Counts = npt.NDArray[np.int64]


@dataclass(frozen=True)
class AuditedMask:
    """A mask that can be packed, with repairs and warnings.

    ``indices`` are canonical, uint8 (height, width): class index, or 255 where the pixel is ignored. ``counts`` are the
    pixels of each index 0..255, int64 (256,).
    """

    indices: Pixels
    counts: Counts
    findings: list[Finding]

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in pixels."""
        height, width = self.indices.shape
        return width, height


def audit_mask(data: bytes, *, labels: Labels, max_pixels: int = MAX_PIXELS) -> AuditedMask:
    """Decode a mask completely, and map every value (or colour) to the index of the class that claims it.

    Raises ``RejectedError`` if the mask is damaged, or has values that ``labels`` do not claim.
    """
    findings: list[Finding] = []
    chunks = None
    try:
        if data.startswith(png.SIGNATURE):
            chunks = png.read_chunks(data)
            check_pixels(chunks.width, chunks.height, "mask", max_pixels=max_pixels)
        if chunks is not None and chunks.plain:
            values = png.decode_plain(chunks)
        else:
            image = transcode.open_image(data, what="mask", max_pixels=max_pixels)
            values, findings = _to_rgb(image) if labels.rgb else _to_gray(image, chunks)
    except png.PngError as error:
        raise damaged("mask", error, truncated=error.truncated) from None
    indices = map_colours(values, labels) if labels.rgb else map_values(values, labels)
    counts = index_counts(indices)
    if labels.foreground and not counts[list(labels.indices(labels.foreground))].any():
        findings = [*findings, Finding("warning", "no-foreground", f"no pixel is {' or '.join(labels.foreground)}")]
    if counts[IGNORE] == indices.size:
        findings = [*findings, Finding("warning", "mask-ignored")]
    return AuditedMask(indices, counts, findings)


def map_values(values: Pixels, labels: Labels) -> Pixels:
    """Map values, uint8 (height, width), to class indices; raise ``RejectedError`` for values that none claims."""
    table, claimed = labels.index_table()
    counts = index_counts(values)
    unclaimed = np.flatnonzero((counts > 0) & ~claimed)
    if len(unclaimed):
        raise _unclaimed({str(value): int(counts[value]) for value in unclaimed}, "values")
    return table.take(values)


def map_colours(values: Pixels, labels: Labels) -> Pixels:
    """Map colours, uint8 (height, width, 3), or grey values (height, width), to class indices, likewise."""
    parts = values.astype(np.int32)
    packed = parts * 0x010101 if values.ndim == 2 else parts[..., 0] << 16 | parts[..., 1] << 8 | parts[..., 2]
    indices = labels.colour_table().take(packed)
    unknown = packed[indices < 0]
    if len(unknown):
        found, counts = np.unique(unknown, return_counts=True)
        raise _unclaimed({f"#{v:06x}": int(n) for v, n in zip(found, counts, strict=True)}, "colours")
    return indices.astype(np.uint8)


def index_counts(values: Pixels) -> Counts:
    """Return how many pixels have each value 0..255, int64 (256,)."""
    return np.bincount(values.reshape(-1), minlength=256)


def nearest(values: Pixels, size: Size) -> Pixels:
    """Resize (height, width) to ``size``, each pixel from the source pixel under its centre, as the pipeline does."""
    rows, columns = (nearest_places(*lengths) for lengths in zip(values.shape, size, strict=True))
    return np.asarray(values[rows].take(columns, axis=1))  # row by row is faster than pixel by pixel


def _unclaimed(counts: dict[str, int], what: str) -> RejectedError:
    most = sorted(counts, key=lambda value: -counts[value])
    shown = ", ".join(f"{value} ({counts[value]:,} pixels)" for value in most[:8]) + (", ..." if len(most) > 8 else "")
    return RejectedError("mask-values", f"{what} that no class claims: {shown}", {v: counts[v] for v in most[:32]})


def _to_rgb(image: Image.Image) -> tuple[Pixels, list[Finding]]:
    """Return the colours of a mask, uint8 (height, width, 3); an alpha channel must be opaque."""
    transparent = "A" in image.getbands() or "transparency" in image.info
    if transparent and image.convert("RGBA").getchannel("A").getextrema()[0] != 255:
        raise RejectedError("mask-channels", "transparent pixels")
    if image.mode not in ("RGB", "RGBA", "P", "L", "LA", "1"):
        raise RejectedError("mask-channels", f"pixels of mode {image.mode}; RGB with 8 bits a channel is expected")
    return np.asarray(image.convert("RGB")), []


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
        raise RejectedError(
            "mask-channels",
            f"{len(bands)} channels that differ: an RGB mask, for which every class needs a color and no value",
        )
    if "A" in bands and (values[..., bands.index("A")] != 255).any():
        raise RejectedError("mask-channels", "transparent pixels")
    return values[..., colors[0]]
