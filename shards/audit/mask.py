"""The audit of a mask: every value or colour is that of a class, or ignored; what is packed are class indices."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from shards.audit import png_chunks as png
from shards.audit import transcode
from shards.audit.file_kinds.tiff_tags import COMPRESSION, LOSSY, is_tiff, read_tags
from shards.audit.findings import MAX_PIXELS, Finding, RejectedError, check_pixels, damaged, repaired
from shards.audit.orientation import Pixels
from shards.audit.palettes import has_palette, is_indexed, palette_of
from shards.audit.png_data import decode_plain
from shards.errors import counted
from shards.format.geometry import Size, nearest_places
from shards.format.labels import IGNORE, Labels

Counts = npt.NDArray[np.int64]

INDEXED: Final = "indexed masks: use their values (petseg-shard labels shows them)"
_STRIP: Final = 1 << 20  # pixels whose colours are looked up at a time
_EIGHT_BITS: Final = "save masks with 8 bits, a value from 0 to 255 for each class"
_MOST_CHUNKS: Final = 1 << 16  # of a WebP that are looked at
_MOST_NAMED: Final = 32  # unclaimed colours of one mask that are counted by name


@dataclass(frozen=True)
class AuditedMask:
    """A mask that can be packed, with repairs and warnings.

    ``indices`` are canonical, uint8 (height, width): class index, or 255 where the pixel is ignored. ``counts`` are the
    pixels of each index 0..255, int64 (256,). ``palette`` has the colours of the values that occur, if values count.
    """

    indices: Pixels
    counts: Counts
    findings: list[Finding]
    palette: dict[int, str] = field(default_factory=dict)

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in pixels."""
        height, width = self.indices.shape
        return width, height


def audit_mask(data: bytes, *, labels: Labels, max_pixels: int = MAX_PIXELS) -> AuditedMask:
    """Decode a mask completely, and map every value (or colour) to the index of the class that claims it.

    Raises ``RejectedError`` if the mask is damaged, or has values that ``labels`` do not claim.
    """
    values, findings = decode_mask(data, colours=labels.rgb, max_pixels=max_pixels)
    found = None if labels.rgb else value_counts(values)
    try:
        indices, counts = map_colours(values, labels) if found is None else map_values(values, labels, found=found)
    except RejectedError as error:
        if labels.rgb and is_indexed(data):
            raise RejectedError(error.reason, f"{error.detail}; {INDEXED}", error.unclaimed) from None
        raise
    if labels.foreground and not counts[list(labels.indices(labels.foreground))].any():
        findings = [*findings, Finding("warning", "no-foreground", f"no pixel is {' or '.join(labels.foreground)}")]
    if counts[IGNORE] == indices.size:
        findings = [*findings, Finding("warning", "mask-ignored")]
    palette: dict[int, str] = {}
    if found is not None and has_palette(data):
        palette = palette_of(data, np.flatnonzero(found).tolist())
    return AuditedMask(indices, counts, findings, palette)


def decode_mask(data: bytes, *, colours: bool, max_pixels: int = MAX_PIXELS) -> tuple[Pixels, list[Finding]]:
    """Decode a mask completely; return its values, uint8 (height, width), and what was changed to get them.

    With ``colours`` its colours instead, uint8 (height, width, 3); (height, width) where all of them are grey. Values
    of palette masks are indices, of masks with few bits the numbers 0, 1, ... that are stored.

    Raises ``RejectedError`` if the mask is damaged, or does not hold values (or colours) that are beyond doubt.
    """
    if data.startswith(png.SIGNATURE):
        try:
            chunks = png.read_chunks(data)
            check_pixels(chunks.width, chunks.height, "mask", max_pixels=max_pixels)
            if chunks.depth > 8 and (colours or chunks.color != png.GRAY):
                raise RejectedError("mask-depth", f"{chunks.depth} bits per channel; save masks with 8")
            if chunks.plain and not (colours and (chunks.alpha or chunks.color == png.PALETTE)):
                values = decode_plain(chunks)
                return (values, []) if colours or values.ndim == 2 else _one_channel(values, ("R", "G", "B"))
        except png.PngError as error:
            raise damaged("mask", error, truncated=error.truncated) from None
    elif is_lossy(data):
        raise RejectedError("mask-lossy")
    decoded = transcode.open_file(data, what="mask", max_pixels=max_pixels)
    if decoded.frames:
        raise RejectedError("mask-channels", f"the file holds {decoded.frames}; save each mask as its own file")
    values, findings = _to_rgb(decoded.image) if colours else _to_values(decoded.image, decoded.bits)
    return decoded.as_stored(values), findings


def map_values(values: Pixels, labels: Labels, *, found: Counts | None = None) -> tuple[Pixels, Counts]:
    """Map values, uint8 (height, width), to class indices, and count those; int64 (256,).

    ``found`` is :func:`value_counts` of the values, where the caller has it already.
    Raises ``RejectedError`` for values that no class claims.
    """
    table, claimed = labels.index_table()
    found = value_counts(values) if found is None else found
    present = np.flatnonzero(found)
    unclaimed = present[~claimed[present]]
    if len(unclaimed):
        raise _unclaimed({int(value): int(found[value]) for value in unclaimed}, "values")
    counts = np.zeros(256, dtype=np.int64)
    np.add.at(counts, table[present], found[present])
    shifts = present.astype(np.uint8) - table[present]
    if (shifts == shifts[:1]).all():  # values such as 1, 2, 3 for 0, 1, 2; this is several times faster than a table
        return (values - shifts[0] if shifts[0] else values), counts
    return np.frombuffer(values.tobytes().translate(table.tobytes()), np.uint8).reshape(values.shape), counts


def packed_colours(values: Pixels) -> Iterator[tuple[int, npt.NDArray[np.int32]]]:
    """Yield (top row, colours r << 16 | g << 8 | b, int32 (rows, width)) of strips of a mask, which need little memory.

    ``values`` are those of :func:`map_colours`.
    """
    step = max(1, _STRIP // values.shape[1])
    for top in range(0, len(values), step):
        part = values[top : top + step].astype(np.int32)
        yield top, part * 0x010101 if part.ndim == 2 else part[..., 0] << 16 | part[..., 1] << 8 | part[..., 2]


def map_colours(values: Pixels, labels: Labels) -> tuple[Pixels, Counts]:
    """Map colours, uint8 (height, width, 3), or grey values (height, width), to class indices, likewise."""
    table = labels.colour_table()
    indices = np.empty(values.shape[:2], dtype=np.uint8)
    unknown: npt.NDArray[np.uint32] | None = None  # pixels by colour: there may be 16 million
    for top, packed in packed_colours(values):
        found = table.take(packed)
        indices[top : top + len(packed)] = found  # -1 becomes 255 where a colour is unclaimed
        if (found < 0).any():
            unknown = np.zeros(1 << 24, np.uint32) if unknown is None else unknown
            colours, counts = np.unique(packed[found < 0], return_counts=True)
            unknown[colours] += counts.astype(np.uint32)
    if unknown is not None:
        raise _unclaimed(_most_frequent(unknown), "colours", grey=values.ndim == 2)
    return indices, value_counts(indices)


def value_counts(values: Pixels) -> Counts:
    """Return how many pixels have each value 0..255, int64 (256,).

    Masks are runs of equal values: finding and adding those up is several times faster than counting pixels.
    """
    flat = values.reshape(-1)
    ends = np.flatnonzero(flat[1:] != flat[:-1]) if flat.size <= _STRIP else np.empty(0, dtype=np.int64)
    if flat.size > _STRIP or 8 * len(ends) > flat.size:
        counts = np.zeros(256, dtype=np.int64)
        for start in range(0, flat.size, _STRIP):
            counts += np.bincount(flat[start : start + _STRIP], minlength=256)
        return counts
    starts = np.concatenate([np.zeros(1, dtype=np.int64), ends + 1])
    lengths = np.diff(starts, append=flat.size)
    return np.bincount(flat[starts], weights=lengths, minlength=256).astype(np.int64)


def nearest(values: Pixels, size: Size) -> Pixels:
    """Resize (height, width) to ``size``, each pixel from the source pixel under its centre, as the pipeline does."""
    rows, columns = (nearest_places(*lengths) for lengths in zip(values.shape, size, strict=True))
    return np.asarray(values[rows].take(columns, axis=1))  # row by row is faster than pixel by pixel


def is_lossy(data: bytes) -> bool:
    """Return whether a file is a JPEG, a lossy WebP, or a TIFF that holds such data."""
    if data.startswith(b"\xff\xd8\xff"):
        return True
    if is_tiff(data):
        return not LOSSY.isdisjoint(read_tags(data).get(COMPRESSION, ()))
    if data[:4] != b"RIFF" or data[8:12] != b"WEBP":
        return False
    position = 12
    for _ in range(_MOST_CHUNKS):
        if position + 8 > len(data):
            return False
        if data[position : position + 4] == b"VP8 ":
            return True
        position += 8 + int.from_bytes(data[position + 4 : position + 8], "little")
        position += position & 1
    return True  # it cannot be known


def _most_frequent(counts: npt.NDArray[np.uint32]) -> dict[int, int]:
    """Return the colours with the most pixels, with their pixels: as many as may be named, those of grey masks."""
    colours = np.flatnonzero(counts)
    order = np.argsort(-counts[colours].astype(np.int64), kind="stable")[:256]
    return {int(colour): int(counts[colour]) for colour in colours[order]}


def _unclaimed(counts: Mapping[int, int], what: Literal["values", "colours"], *, grey: bool = True) -> RejectedError:
    """Return the rejection for values or packed colours; of grey masks all are named, they are 256 at most."""
    most = sorted(counts, key=lambda value: (-counts[value], value))
    names = {value: str(value) if what == "values" else f"#{value:06x}" for value in most}
    shown = ", ".join(f"{names[value]} ({counted(counts[value], 'pixel')})" for value in most[:8])
    named = {names[value]: counts[value] for value in most[: 256 if grey else _MOST_NAMED]}
    more = ", ..." if len(most) > 8 else ""
    return RejectedError("mask-values", f"{what} that no class claims: {shown}{more}", named)


def _to_rgb(image: Image.Image) -> tuple[Pixels, list[Finding]]:
    """Return the colours of a mask, uint8 (height, width, 3); an alpha channel must be opaque."""
    transparent = "A" in image.getbands() or "transparency" in image.info
    if transparent and image.convert("RGBA").getchannel("A").getextrema()[0] != 255:
        raise RejectedError("mask-channels", "transparent pixels")
    if image.mode not in ("RGB", "RGBA", "P", "L", "LA", "1"):
        raise RejectedError("mask-channels", f"pixels of mode {image.mode}; RGB with 8 bits a channel is expected")
    return np.asarray(image.convert("RGB")), []


def _to_values(image: Image.Image, bits: int) -> tuple[Pixels, list[Finding]]:
    """Return one channel of values; ``bits`` are those of a channel in the file."""
    values = np.asarray(image)
    if values.ndim == 3:
        return _one_channel(values, image.getbands())
    if image.mode == "F":
        raise RejectedError("mask-depth", f"floating-point values; {_EIGHT_BITS}")
    if image.mode == "L" and bits < 8:
        values = values // (255 // (2**bits - 1))  # Pillow spreads them over 0..255; the file's own values count
    if values.dtype.itemsize > 1 and (values.min() < 0 or values.max() > 255):
        raise RejectedError("mask-depth", f"values from {values.min()} to {values.max()}; {_EIGHT_BITS}")
    return np.ascontiguousarray(values.astype(np.uint8)), []


def _one_channel(values: Pixels, bands: tuple[str, ...]) -> tuple[Pixels, list[Finding]]:
    """Return the values that all colour channels share; an alpha channel must be opaque."""
    colours = [index for index, band in enumerate(bands) if band != "A"]
    first = values[..., colours[0]]
    if any((values[..., index] != first).any() for index in colours):
        raise RejectedError(
            "mask-channels",
            f"{len(colours)} channels that differ: colours, but the labels give values; give every class a color "
            "and no value",
        )
    if "A" in bands and (values[..., bands.index("A")] != 255).any():
        raise RejectedError("mask-channels", "transparent pixels")
    findings = [repaired("mask-equal-channels")] if len(bands) > 1 else []
    return np.ascontiguousarray(first), findings
