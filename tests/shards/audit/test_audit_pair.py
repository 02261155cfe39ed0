"""Every reason of the audit is caused; what passes decodes strictly and equals the source."""

from __future__ import annotations

import io
import pickle
import struct
import zlib
from collections.abc import Callable

import numpy as np
import pytest
import simplejpeg
from PIL import Image
from shard_sources import draw_image, draw_mask, encoded

from shards.audit import jpeg_headers as jpeg
from shards.audit import png_chunks as png
from shards.audit.findings import REASONS, RejectedError
from shards.audit.image import apply_orientation
from shards.audit.image_mask_pair import AuditedPair, audit_pair
from shards.audit.mask import class_pixels

IMAGE, MASK = draw_image(1), draw_mask(1)
JPEG, PNG = encoded(IMAGE, "JPEG", quality=90), encoded(MASK, "PNG")


def reasons(pair: AuditedPair) -> dict[str, str]:
    return {finding.reason: finding.action for finding in pair.findings}


def with_exif(orientation: int, array: np.ndarray = IMAGE) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(array, "JPEG", exif=exif.tobytes(), quality=90)


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def with_chunk(data: bytes, kind: bytes, body: bytes) -> bytes:
    return data[:33] + chunk(kind, body) + data[33:]


def gray_png(values: np.ndarray, depth: int) -> bytes:
    """A gray PNG with fewer than 8 bits a pixel, or 16: Pillow cannot write the former."""
    height, width = values.shape
    if depth == 16:
        rows = values.astype(">u2").view(np.uint8).reshape(height, -1)
    else:
        bits = np.unpackbits(values[..., None], axis=2)[..., 8 - depth :].reshape(height, -1)
        rows = np.packbits(bits, axis=1)
    raw = b"".join(b"\0" + row.tobytes() for row in rows)
    ihdr = struct.pack(">IIBBBBB", width, height, depth, 0, 0, 0, 0)
    return png.SIGNATURE + chunk(b"IHDR", ihdr) + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")


def with_data(change: Callable[[bytes], bytes]) -> bytes:
    """The mask as PNG with other image data, all chunks' own checksums being right."""
    raw = b"".join(b"\0" + row.tobytes() for row in MASK)
    ihdr = struct.pack(">IIBBBBB", 60, 44, 8, 0, 0, 0, 0)
    data = change(zlib.compress(raw))
    return png.SIGNATURE + chunk(b"IHDR", ihdr) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def frames(format_: str) -> bytes:
    buffer = io.BytesIO()
    first, second = (Image.fromarray(draw_image(seed)) for seed in (1, 2))
    first.save(buffer, format_, save_all=True, append_images=[second])
    return buffer.getvalue()


def rgba(alpha: int) -> bytes:
    return encoded(np.dstack([IMAGE, np.full(IMAGE.shape[:2], alpha, np.uint8)]), "PNG")


def palette(values: np.ndarray) -> bytes:
    image = Image.fromarray(values)
    image = Image.frombytes("P", image.size, image.tobytes())
    image.putpalette([9, 9, 9, 255, 0, 0, 0, 255, 0, 0, 0, 255])
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def interlaced() -> bytes:
    """An Adam7 PNG of one pixel, enough to see that interlacing is noticed."""
    ihdr = struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 1)
    return png.SIGNATURE + chunk(b"IHDR", ihdr) + chunk(b"IDAT", zlib.compress(b"\0\1")) + chunk(b"IEND", b"")


def cmyk() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(IMAGE).convert("CMYK").save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def rgb_coded() -> bytes:
    """A JPEG whose components are R, G, B."""
    buffer = io.BytesIO()
    Image.fromarray(IMAGE).save(buffer, "JPEG", keep_rgb=True, quality=95)
    return buffer.getvalue()


def unusual_precision() -> bytes:
    at = JPEG.index(b"\xff\xc0")
    return JPEG[: at + 4] + b"\x0c" + JPEG[at + 5 :]


def huge(data: bytes) -> bytes:
    if data.startswith(png.SIGNATURE):
        body = struct.pack(">IIBBBBB", 60000, 60000, 8, 0, 0, 0, 0)
        return data[:8] + chunk(b"IHDR", body) + data[33:]
    at = data.index(b"\xff\xc0")
    return data[: at + 5] + struct.pack(">HH", 60000, 60000) + data[at + 9 :]


def flipped_middle(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes(40) + data[middle + 40 :]


def with_value(values: np.ndarray, value: int) -> np.ndarray:
    copy = values.copy()
    copy[3, 3] = value
    return copy


REPAIRED: dict[str, tuple[bytes, bytes, set[str]]] = {
    "PNG named jpg": (encoded(IMAGE, "PNG"), PNG, {"picture-wrong-type"}),
    "BMP named jpg": (encoded(IMAGE, "BMP"), PNG, {"picture-wrong-type"}),
    "animated GIF": (frames("GIF"), PNG, {"picture-wrong-type", "picture-animated"}),
    "WebP": (encoded(IMAGE, "WEBP"), PNG, {"picture-wrong-type"}),
    "opaque alpha": (rgba(255), PNG, {"picture-wrong-type", "picture-alpha"}),
    "transparent": (rgba(100), PNG, {"picture-wrong-type", "picture-alpha"}),
    "CMYK": (cmyk(), PNG, {"picture-cmyk"}),
    "16-bit gray PNG": (
        gray_png(IMAGE[..., 0].astype(np.uint16) * 257, 16),
        PNG,
        {"picture-wrong-type", "picture-16-bit"},
    ),
    "RGB components": (rgb_coded(), PNG, {"picture-rare-jpeg"}),
    "stray bytes": (JPEG[:-2] + b"abcdefgh" + JPEG[-2:], PNG, {"picture-stray-bytes"}),
    "rotated by EXIF, mask too": (with_exif(6, apply_orientation(IMAGE, 8)), PNG, {"exif-turned"}),
    "rotated by EXIF, mask not": (with_exif(6), PNG, {"exif-ignored"}),
    "upside down, by EXIF": (with_exif(3), PNG, {"exif-ignored"}),
    "mask as BMP": (JPEG, encoded(MASK, "BMP"), {"trimap-wrong-type"}),
    "mask with a palette": (JPEG, palette(MASK), {"trimap-palette"}),
    "mask as RGB": (JPEG, encoded(np.dstack([MASK] * 3), "PNG"), {"trimap-channels"}),
    "2-bit mask": (JPEG, gray_png(MASK, 2), {"trimap-depth"}),
    "4-bit mask": (JPEG, gray_png(MASK, 4), {"trimap-depth"}),
    "16-bit mask": (JPEG, gray_png(MASK, 16), {"trimap-depth"}),
    "mask with gamma": (JPEG, with_chunk(PNG, b"gAMA", struct.pack(">I", 45455)), {"trimap-extras"}),
    "mask with transparency": (JPEG, with_chunk(PNG, b"tRNS", b"\0\1"), {"trimap-extras"}),
}

REJECTED: dict[str, tuple[bytes, bytes, str]] = {
    "empty image": (b"", PNG, "picture-empty"),
    "garbage": (b"hello, world" * 9, PNG, "picture-unknown-format"),
    "damaged": (JPEG[:-200] + b"\xff\xd3" * 20 + JPEG[-160:], PNG, "picture-corrupt"),
    "cut in half": (JPEG[: len(JPEG) // 2], PNG, "picture-truncated"),
    "cut in its headers": (JPEG[:60], PNG, "picture-truncated"),
    "without its end": (JPEG[:-2], PNG, "picture-truncated"),
    "cut PNG": (encoded(IMAGE, "PNG")[:-40], PNG, "picture-truncated"),
    "damaged PNG": (flipped_middle(encoded(IMAGE, "PNG")), PNG, "picture-corrupt"),
    "bomb": (huge(JPEG), PNG, "picture-too-large"),
    "PNG bomb": (huge(encoded(IMAGE, "PNG")), PNG, "picture-too-large"),
    "12-bit JPEG": (unusual_precision(), PNG, "picture-16-bit"),
    "empty mask": (JPEG, b"", "trimap-empty"),
    "garbage mask": (JPEG, b"nothing", "trimap-unknown-format"),
    "damaged mask": (JPEG, flipped_middle(PNG), "trimap-corrupt"),
    "mask cut": (JPEG, PNG[:-20], "trimap-truncated"),
    "mask without its end": (JPEG, PNG[:-12], "trimap-truncated"),
    "mask without its data's checksum": (JPEG, with_data(lambda data: data[:-4]), "trimap-truncated"),
    "mask with a wrong data checksum": (JPEG, with_data(lambda data: data[:-1] + b"?"), "trimap-corrupt"),
    "mask with too few rows": (JPEG, with_data(lambda _: zlib.compress(bytes(61 * 43))), "trimap-corrupt"),
    "mask with an unknown filter": (JPEG, with_data(lambda _: zlib.compress(bytes([9] * 61 * 44))), "trimap-corrupt"),
    "mask bomb": (JPEG, huge(PNG), "trimap-too-large"),
    "value 0": (JPEG, encoded(with_value(MASK, 0), "PNG"), "trimap-values"),
    "value 4": (JPEG, encoded(with_value(MASK, 4), "PNG"), "trimap-values"),
    "value 255 in a palette": (JPEG, palette(with_value(MASK, 0)), "trimap-values"),
    "16-bit value": (JPEG, gray_png(MASK.astype(np.uint16) * 256, 16), "trimap-values"),
    "channels that differ": (JPEG, encoded(np.dstack([MASK, MASK, 4 - MASK]), "PNG"), "trimap-channels"),
    "mask as JPEG": (JPEG, encoded(MASK * 80, "JPEG"), "trimap-values"),
    "sizes differ": (encoded(IMAGE[1:], "JPEG"), PNG, "size-mismatch"),
    "sizes differ, PNG": (encoded(IMAGE[1:], "PNG"), PNG, "size-mismatch"),
    "sizes differ, EXIF": (with_exif(6, IMAGE[1:]), PNG, "size-mismatch"),
}


@pytest.mark.parametrize("storage", ["source", "jpeg"])
@pytest.mark.parametrize("case", REPAIRED)
def test_repairable_pairs_are_repaired(case: str, storage: str) -> None:
    image, mask, expected = REPAIRED[case]
    pair = audit_pair(image, mask, storage=storage)  # type: ignore[arg-type]
    assert reasons(pair) == dict.fromkeys(expected, "mended")
    again = Image.open(io.BytesIO(pair.mask.png))
    assert again.mode == "L"
    assert png.read_chunks(pair.mask.png).plain
    assert np.array_equal(np.asarray(again), MASK)
    if storage == "source":
        assert pair.image.jpeg is not None
        assert jpeg.read_header(pair.image.jpeg).common
        assert Image.open(io.BytesIO(pair.image.jpeg)).getexif().get(0x0112, 1) == 1
        pixels = simplejpeg.decode_jpeg(pair.image.jpeg, strict=True)
    else:
        assert pair.image.pixels is not None
        pixels = pair.image.pixels
    if case in ("16-bit gray PNG",):
        expected_pixels = np.dstack([IMAGE[..., 0]] * 3)
    elif case == "transparent":
        expected_pixels = (IMAGE.astype(float) * 100 / 255 + 155).round()
    else:
        expected_pixels = IMAGE
    difference = np.abs(pixels.astype(int) - expected_pixels.astype(int)).mean()
    limit = 40 if case == "CMYK" else 12 if "GIF" in case else 4  # few colours; and Pillow's plain CMYK conversion
    assert difference < limit, f"{case}: mean difference {difference}"


@pytest.mark.parametrize("storage", ["source", "raw"])
@pytest.mark.parametrize("case", REJECTED)
def test_damaged_pairs_are_rejected(case: str, storage: str) -> None:
    image, mask, reason = REJECTED[case]
    with pytest.raises(RejectedError) as caught:
        audit_pair(image, mask, storage=storage)  # type: ignore[arg-type]
    assert caught.value.reason == reason, caught.value.detail


def test_undamaged_pairs_keep_their_bytes() -> None:
    pair = audit_pair(JPEG, PNG, storage="source")
    assert pair.image.jpeg == JPEG
    assert pair.mask.png == PNG
    assert class_pixels(pair.mask.values) == tuple(int((value == MASK).sum()) for value in (1, 2, 3))
    assert not pair.findings


def test_a_mask_without_an_animal_is_a_warning() -> None:
    mask = encoded(np.full_like(MASK, 2), "PNG")
    assert reasons(audit_pair(JPEG, mask, storage="source")) == {"no-animal": "remark"}


def test_interlaced_masks_are_stored_plainly() -> None:
    tiny = encoded(IMAGE[:1, :1], "JPEG")
    pair = audit_pair(tiny, interlaced(), storage="source")
    assert reasons(pair) == {"trimap-extras": "mended"}
    assert png.read_chunks(pair.mask.png).plain


def test_rejections_survive_pickling() -> None:
    error = pickle.loads(pickle.dumps(RejectedError("picture-empty", "x")))
    assert (error.reason, error.detail) == ("picture-empty", "x")


def test_every_reason_about_a_file_is_caused_here() -> None:
    caused = {reason for case in REPAIRED.values() for reason in case[2]} | {case[2] for case in REJECTED.values()}
    about_files = {name for name in REASONS if name.startswith(("picture-", "trimap-", "exif-", "size-"))}
    elsewhere = {"picture-without-trimap", "trimap-without-picture", "picture-not-a-file", "trimap-not-a-file"}
    assert about_files - elsewhere == caused
