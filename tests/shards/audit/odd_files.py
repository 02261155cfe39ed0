"""Images and masks as files of every kind that people have, and damaged ones."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageCms
from shard_sources import draw_image, draw_mask, encoded

from shards.audit import png_chunks as png
from shards.audit.findings import RejectedError
from shards.audit.image_mask_pair import AuditedPair, audit_pair
from shards.format.builtin_labels import PETS

IMAGE, MASK = draw_image(1), draw_mask(1)
JPEG, PNG, RGB_PNG = encoded(IMAGE, "JPEG", quality=90), encoded(MASK, "PNG"), encoded(IMAGE, "PNG")
GREY = IMAGE[..., 0]


def audited(image: bytes = JPEG, mask: bytes = PNG, *, pixels: bool = False, max_pixels: int = 2**27) -> AuditedPair:
    return audit_pair(image, mask, labels=PETS, pixels=pixels, max_pixels=max_pixels)


def reasons(pair: AuditedPair) -> dict[str, str]:
    return {finding.reason: finding.action for finding in pair.findings}


def rejection(image: bytes = JPEG, mask: bytes = PNG, *, pixels: bool = False) -> RejectedError:
    try:
        found = audited(image, mask, pixels=pixels)
    except RejectedError as error:
        return error
    raise AssertionError(f"not rejected: {found.findings}")


def with_exif(orientation: int, array: np.ndarray = IMAGE, format_: str = "JPEG", **options: object) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(array, format_, exif=exif.tobytes(), **options)


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def with_chunk(data: bytes, kind: bytes, body: bytes) -> bytes:
    return data[:33] + chunk(kind, body) + data[33:]


def raw_png(raw: bytes, *, width: int, height: int, depth: int, color: int, interlaced: bool = False) -> bytes:
    """A PNG of rows that are filtered already; Pillow cannot write every kind."""
    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, interlaced)
    palette = chunk(b"PLTE", bytes(range(256)) * 3) if color == png.PALETTE else b""
    return png.SIGNATURE + chunk(b"IHDR", header) + palette + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")


def grey_png(values: np.ndarray, depth: int) -> bytes:
    """A grey PNG with any number of bits a pixel."""
    height, width = values.shape
    if depth == 16:
        rows = values.astype(">u2").view(np.uint8).reshape(height, -1)
    else:
        bits = np.unpackbits(values[..., None], axis=2)[..., 8 - depth :].reshape(height, -1)
        rows = np.packbits(bits, axis=1)
    return raw_png(b"".join(b"\0" + row.tobytes() for row in rows), width=width, height=height, depth=depth, color=0)


def interlaced_png(array: np.ndarray) -> bytes:
    """An Adam7 PNG, 8 bits a channel, grey or RGB."""
    parts = []
    for top, left, down, right in ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2)):
        parts += [b"\0" + row.tobytes() for row in array[top::down, left::right] if row.size]
    parts += [b"\0" + row.tobytes() for row in array[1::2]]
    height, width = array.shape[:2]
    color = png.RGB if array.ndim == 3 else png.GRAY
    return raw_png(b"".join(parts), width=width, height=height, depth=8, color=color, interlaced=True)


def rgb16_png() -> bytes:
    rows = (IMAGE.astype(">u2") * 257).view(np.uint8).reshape(IMAGE.shape[0], -1)
    raw = b"".join(b"\0" + row.tobytes() for row in rows)
    return raw_png(raw, width=IMAGE.shape[1], height=IMAGE.shape[0], depth=16, color=png.RGB)


def tiff(values: np.ndarray, *, bits: int, samples: int, photometric: int = 1, kind: int = 1, extra: int = 0) -> bytes:
    """An uncompressed little-endian TIFF of any number of bits and channels; ``kind``: 1 unsigned, 3 float."""
    height, width = values.shape[:2]
    pixels = values.tobytes()
    entries = [
        (256, 4, [width]),
        (257, 4, [height]),
        (258, 3, [bits] * samples),
        (259, 3, [1]),
        (262, 3, [photometric]),
        (273, 4, [0]),
        (277, 3, [samples]),
        (278, 4, [height]),
        (279, 4, [len(pixels)]),
        (339, 3, [kind] * samples),
    ]
    if extra:
        entries.insert(9, (338, 3, [0] * extra))
    end = 8 + 2 + 12 * len(entries) + 4
    longer = b""
    directory = b""
    for tag, type_, numbers in entries:
        body = struct.pack(f"<{len(numbers)}{'H' if type_ == 3 else 'I'}", *numbers)
        if len(body) > 4:
            body, longer = struct.pack("<I", end + len(longer)), longer + body
        directory += struct.pack("<HHI", tag, type_, len(numbers)) + body.ljust(4, b"\0")
    data = b"II*\0" + struct.pack("<IH", 8, len(entries)) + directory + bytes(4) + longer
    at = data.index(struct.pack("<HHI", 273, 4, 1)) + 8
    return data[:at] + struct.pack("<I", len(data)) + data[at + 4 :] + pixels


def retagged(data: bytes, tag: int, value: int) -> bytes:
    """A little-endian TIFF with another number in a tag of one SHORT."""
    at = data.index(struct.pack("<HHI", tag, 3, 1)) + 8
    return data[:at] + struct.pack("<H", value) + data[at + 2 :]


def big_tiff(values: np.ndarray) -> bytes:
    """A BigTIFF of RGB, with the bits of its values."""
    height, width, _ = values.shape
    bits = struct.pack("<3H", *[8 * values.itemsize] * 3)
    entries = [(256, 4, 1, width), (257, 4, 1, height), (258, 3, 3, int.from_bytes(bits, "little")), (259, 3, 1, 1),
               (262, 3, 1, 2), (273, 16, 1, 24 + 20 * 9 + 8), (277, 3, 1, 3), (278, 4, 1, height),
               (279, 16, 1, values.nbytes)]  # fmt: skip
    directory = b"".join(struct.pack("<HHQQ", *entry) for entry in entries)
    return struct.pack("<2sHHHQQ", b"II", 43, 8, 0, 16, len(entries)) + directory + bytes(8) + values.tobytes()


def frames(format_: str, array: np.ndarray = IMAGE) -> bytes:
    buffer = io.BytesIO()
    first, second = Image.fromarray(array), Image.fromarray(draw_image(2))
    first.save(
        buffer, format_, save_all=True, append_images=[second], **({"lossless": True} if format_ == "WEBP" else {})
    )
    return buffer.getvalue()


def rgba(alpha: int, format_: str = "PNG") -> bytes:
    return encoded(np.dstack([IMAGE, np.full(IMAGE.shape[:2], alpha, np.uint8)]), format_)


def palette(values: np.ndarray, format_: str = "PNG") -> bytes:
    """A file with a palette whose colours say nothing about the values."""
    image = Image.fromarray(values)
    image = Image.frombytes("P", image.size, image.tobytes())
    image.putpalette([9, 9, 9, 255, 0, 0, 0, 255, 0, 0, 0, 255, *range(200)])
    buffer = io.BytesIO()
    image.save(buffer, format_)
    return buffer.getvalue()


def cmyk() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(IMAGE).convert("CMYK").save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def lab() -> bytes:
    """A TIFF in Lab, whose channels Pillow calls L, A and B."""
    profiles = [ImageCms.createProfile(name) for name in ("sRGB", "LAB")]
    buffer = io.BytesIO()
    converted = ImageCms.profileToProfile(Image.fromarray(IMAGE), *profiles, outputMode="LAB")
    assert converted is not None
    converted.save(buffer, "TIFF")
    return buffer.getvalue()


def rgb_coded() -> bytes:
    """A JPEG whose components are R, G, B."""
    buffer = io.BytesIO()
    Image.fromarray(IMAGE).save(buffer, "JPEG", keep_rgb=True, quality=95)
    return buffer.getvalue()


def with_precision(bits: int) -> bytes:
    at = JPEG.index(b"\xff\xc0")
    return JPEG[: at + 4] + bytes([bits]) + JPEG[at + 5 :]


def with_size(data: bytes, width: int, height: int) -> bytes:
    """A file whose header says another size."""
    if data.startswith(png.SIGNATURE):
        return data[:8] + chunk(b"IHDR", struct.pack(">II", width, height) + data[24:29]) + data[33:]
    at = max(data.find(b"\xff\xc0"), data.find(b"\xff\xc2"))
    return data[: at + 5] + struct.pack(">HH", height, width) + data[at + 9 :]


def flipped_middle(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes(40) + data[middle + 40 :]


def with_data(array: np.ndarray, change: Callable[[bytes], bytes]) -> bytes:
    """A plain PNG with other image data, all chunks' own checksums being right."""
    height, width = array.shape[:2]
    raw = b"".join(b"\0" + row.tobytes() for row in array)
    header = struct.pack(">IIBBBBB", width, height, 8, png.RGB if array.ndim == 3 else png.GRAY, 0, 0, 0)
    data = change(zlib.compress(raw))
    return png.SIGNATURE + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def with_value(values: np.ndarray, value: int) -> np.ndarray:
    copy = values.copy()
    copy[3, 3] = value
    return copy
