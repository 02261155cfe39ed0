"""Image files of every kind that cameras and programs write, and that failing disks leave behind; all of 60 x 44.

Pillow writes most; where it cannot, a few bytes of a header are changed. Two arithmetic-coded files are stored here:
``cjpeg -arithmetic -quality 30`` of libjpeg-turbo 2.1.5, the second with ``-progressive``.
"""

from __future__ import annotations

import base64
import io
import struct
import zlib
from dataclasses import dataclass

import numpy as np
from PIL import Image

WIDTH, HEIGHT = 60, 44
_ARITHMETIC = (
    "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDABsSFBcUERsXFhceHBsgKEIrKCUlKFE6PTBCYFVlZF9VXVtqeJmBanGQc1tdhbWGkJ6jq62rZ4C8"
    "ybqmx5moq6T/2wBDARweHigjKE4rK06kbl1upKSkpKSkpKSkpKSkpKSkpKSkpKSkpKSkpKSkpKSkpKSkpKSkpKSkpKSkpKSkpKSkpKT/yQAR"
    "CAAsADwDASIAAhEBAxEB/8wACgAQEAUBEBEF/9oADAMBAAIRAxEAPwDR1UfwqiITQBpYvGYmJ47JA5AZHwz7gU9hEyXIZuxHXsR8A+JvxO1Q"
    "LMra48izJ2j8vxp2ysnzmM9cFnvBhp1c0JLWTibmq1Uua3T7KzVXTQ/52UXOFojA/HAI7nXQ7pD5I/Cbol3sJcHrtnx4ztt9B/XBCIxtHwjy"
    "/TcTyue5lE2RHBk0qEJp9p7oFqSecsVNREDhiioeO3MnwVVz51G9/rwyRK3CLQa79sgeL1qjFuUXJpeRU9oHJSkmpuTuVxeMTqHeLAiHmFFt"
    "ALO9zXOhUi04c9TBqn3aywuNpGYouxoFqUW0eGCQAMa3w959T9WF9WhK3nt/bdEOncobR2vm1VeJDeXkab6bZJQdgP/Z"
)
_PROGRESSIVE_ARITHMETIC = (
    "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDABsSFBcUERsXFhceHBsgKEIrKCUlKFE6PTBCYFVlZF9VXVtqeJmBanGQc1tdhbWGkJ6jq62rZ4C8"
    "ybqmx5moq6T/2wBDARweHigjKE4rK06kbl1upKSkpKSkpKSkpKSkpKSkpKSkpKSkpKSkpKSkpKSkpKSkpKSkpKSkpKSkpKSkpKSkpKT/ygAR"
    "CAAsADwDASIAAhEBAxEB/8wABgAQARD/2gAMAwEAAhADEAAAAdC1MKjBns/VIHVnEHV0fr7YJmbmVRJlZ6o1mFyyUgMhbQf43SeXLtPadoR2"
    "6cR2fyi6wv/MAAQQBf/aAAgBAQABBQKEEvZ5B6/q8CUXJm4Rjo8p/wCX5fRn1NmbUsOJBSbGIZCoVRD/zAAEEQX/2gAIAQMBAT8BNtzSKVM2"
    "CSEfbbgdW4+Yorgatwz/zAAEEQX/2gAIAQIBAT8BKKasaChfqeLUVQsh9dMOPXz0hPFoj0jm7Kww/8wABBAF/9oACAEBAAY/Aqj/zAAEEAX/"
    "2gAIAQEAAT8hBFEHJ3kn3fD3gNzClpu9prZHsreGTem8bhMbYXU+aoKawy1DuP/aAAwDAQACAAMAAAAQnqki2E6ju2kg/8wABBEF/9oACAED"
    "AQE/EHKLsJUoL921F/t6hBbbVrT/zAAEEQX/2gAIAQIBAT8Qejs+1Aouem0Vzqg1qkpLCjWb0//MAAQQBf/aAAgBAQABPxDba6nadWDKhi9n"
    "GcjukIwGK5erhiEN1omSMxgW8MoTNKu17c6TZrnb9oApZA5BXMA517BJvfDuwOpHaeOHQYD/2Q=="
)


@dataclass(frozen=True)
class OddImage:
    """A file with the reasons of the audit's findings: none for a file that is kept as it is."""

    data: bytes
    reasons: frozenset[str] = frozenset()
    ending: str = "jpg"


def picture() -> np.ndarray:
    """Smooth colours with some noise, uint8 (HEIGHT, WIDTH, 3)."""
    random = np.random.default_rng(7)
    coarse = Image.fromarray(random.integers(0, 256, (5, 6, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)).astype(int)
    return np.clip(smooth + random.integers(-15, 16, smooth.shape), 0, 255).astype(np.uint8)


def encoded(array: np.ndarray, format_: str = "JPEG", mode: str | None = None, **options: object) -> bytes:
    buffer = io.BytesIO()
    image = Image.fromarray(array)
    (image.convert(mode) if mode else image).save(buffer, format_, **options)
    return buffer.getvalue()


def patched(data: bytes, at: int, new: bytes) -> bytes:
    return data[:at] + new + data[at + len(new) :]


def with_reversed_codes(jpeg: bytes, table: int) -> bytes:
    """A JPEG whose Huffman table of this number assigns its codes to other symbols: in reverse order."""
    at = -1
    for _ in range(table + 1):
        at = jpeg.index(b"\xff\xc4", at + 1)
    first = at + 5  # marker, length, class and destination; then sixteen counts and the symbols
    symbols = first + 16
    count = sum(jpeg[first:symbols])
    return patched(jpeg, symbols, jpeg[symbols : symbols + count][::-1])


def without_tables(jpeg: bytes) -> bytes:
    """A JPEG as Motion-JPEG cameras write it: without Huffman tables, which means the standard ones."""
    while (at := jpeg.find(b"\xff\xc4")) >= 0:
        jpeg = jpeg[:at] + jpeg[at + 2 + int.from_bytes(jpeg[at + 2 : at + 4], "big") :]
    return jpeg


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_of(rows: bytes, *, depth: int = 8, color: int = 2, interlaced: bool = False, extra: bytes = b"") -> bytes:
    """A PNG of rows that have their filters; each chunk's checksum is right."""
    header = struct.pack(">IIBBBBB", WIDTH, HEIGHT, depth, color, 0, 0, interlaced)
    parts = chunk(b"IHDR", header), extra, chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def wrong_checksum(png: bytes, kind: bytes) -> bytes:
    """A PNG in which the CRC of the first chunk of a kind is wrong."""
    at = png.index(kind)
    end = at + 4 + int.from_bytes(png[at - 4 : at], "big")
    return patched(png, end, bytes([png[end] ^ 1]))


def interlaced(array: np.ndarray) -> bytes:
    starts = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
    parts = [array[top::down, left::right] for top, left, down, right in starts]
    return png_of(b"".join(b"\0" + row.tobytes() for part in parts for row in part if row.size), interlaced=True)


def odd_images() -> dict[str, OddImage]:
    """Return every kind by name."""
    image = picture()
    upside_down = Image.fromarray(np.ascontiguousarray(image[::-1]))
    grey = image[..., 0]
    jpeg, progressive = encoded(image, quality=90), encoded(image, progressive=True)
    restarts = encoded(image, restart_marker_blocks=2)
    cmyk = encoded(image, mode="CMYK")
    png = encoded(image, "PNG")
    rows = b"".join(b"\0" + row.tobytes() for row in image)
    frame = jpeg.index(b"\xff\xc0")
    adobe = cmyk.index(b"Adobe") + 11  # the transform: 0 CMYK, 2 YCCK
    several = {"save_all": True, "append_images": [upside_down]}
    palette = Image.frombytes("P", (WIDTH, HEIGHT), grey.tobytes())
    palette.putpalette([value for value in range(256) for _ in range(3)])
    buffer = io.BytesIO()
    palette.save(buffer, "PNG", transparency=bytes(range(256)))
    kept = {
        "baseline": jpeg,
        "progressive": progressive,
        "restart markers": restarts,
        "chroma 4:1:1": encoded(image, subsampling=2),
        "no Huffman tables": without_tables(jpeg),
        "extended sequential": patched(jpeg, frame, b"\xff\xc1"),
        "bytes after the end": jpeg + b"cat picture\n" * 9,
        "zeros after the end": jpeg + bytes(4096),
        "MPO": encoded(image, "MPO", **several),
        "fill bytes": jpeg[:2] + b"\xff" * 5 + jpeg[2:],
    }
    repaired = {
        "CMYK": (cmyk, "image-cmyk"),
        "YCCK": (patched(cmyk, adobe, b"\2"), "image-cmyk"),
        "arithmetic": (base64.b64decode(_ARITHMETIC), "image-rare-jpeg"),
        "progressive arithmetic": (base64.b64decode(_PROGRESSIVE_ARITHMETIC), "image-rare-jpeg"),
        "RGB components": (encoded(image, keep_rgb=True), "image-rare-jpeg"),
        "bytes before the end": (jpeg[:-2] + b"abcdefgh" + jpeg[-2:], "image-stray-bytes"),
        "grey": (encoded(grey), "image-grey"),
    }
    rejected = {
        "12 bits": (patched(jpeg, frame + 4, b"\x0c"), "image-depth"),
        "lossless": (patched(jpeg, frame, b"\xff\xc3"), "image-corrupt"),
        "no height": (patched(jpeg, frame + 5, b"\0\0"), "image-corrupt"),
        "wrong DC table": (with_reversed_codes(jpeg, 0), "image-corrupt"),
        "wrong AC table": (with_reversed_codes(jpeg, 1), "image-corrupt"),
        "impossible table": (patched(jpeg, jpeg.index(b"\xff\xc4") + 5, b"\x09"), "image-corrupt"),
        "restart markers that lost one": (restarts.replace(b"\xff\xd2", b"\xff\xd5", 1), "image-corrupt"),
        "an end too early": (jpeg[:-80] + b"\xff\xd9", "image-corrupt"),
        "an end too early, progressive": (progressive[:-300] + b"\xff\xd9", "image-corrupt"),
        **{f"cut by {count}": (jpeg[:-count], "image-truncated") for count in (1, 2, 3, 40)},
        "progressive, cut": (progressive[:-20], "image-truncated"),
    }
    repaired_pngs = {
        "interlaced": (interlaced(image), {"image-rare-png"}),
        "palette with alpha": (buffer.getvalue(), {"image-rare-png", "image-alpha"}),
        "grey with alpha": (encoded(np.dstack([grey, grey]), "PNG"), {"image-grey", "image-alpha"}),
        "APNG": (encoded(image, "PNG", **several), {"image-extras"}),
        "PNG with more behind": (png + b"more", {"image-extras"}),
    }
    rejected_pngs = {
        "16 bits": (png_of(b"".join(b"\0" + bytes(6 * WIDTH) for _ in image), depth=16), "image-depth"),
        **{
            f"wrong CRC of {kind.decode()}": (wrong_checksum(png, kind), "image-corrupt") for kind in (b"IHDR", b"IDAT")
        },
        "too few rows": (png_of(rows[: -3 * WIDTH - 1]), "image-corrupt"),
        "unknown filter": (png_of(b"\7" + rows[1:]), "image-corrupt"),
        "PNG cut": (png[:-40], "image-truncated"),
    }
    return {
        **{name: OddImage(data) for name, data in kept.items()},
        "PNG": OddImage(png, ending="png"),
        **{name: OddImage(data, frozenset({reason})) for name, (data, reason) in {**repaired, **rejected}.items()},
        **{name: OddImage(data, frozenset(reasons), "png") for name, (data, reasons) in repaired_pngs.items()},
        **{name: OddImage(data, frozenset({reason}), "png") for name, (data, reason) in rejected_pngs.items()},
    }


REJECTED = frozenset({"image-depth", "image-corrupt", "image-truncated"})
