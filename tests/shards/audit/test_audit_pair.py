"""Every reason of the audit is caused; what passes decodes strictly and equals the source."""

from __future__ import annotations

import io
import pickle
import struct
import zlib

import numpy as np
import pytest
import simplejpeg
from odd_files import (
    GREY,
    IMAGE,
    JPEG,
    MASK,
    PNG,
    RGB_PNG,
    audited,
    big_tiff,
    cmyk,
    flipped_middle,
    frames,
    grey_png,
    interlaced_png,
    lab,
    palette,
    reasons,
    rejection,
    retagged,
    rgb16_png,
    rgb_coded,
    rgba,
    tiff,
    with_chunk,
    with_data,
    with_exif,
    with_precision,
    with_size,
    with_value,
)
from PIL import Image
from shard_sources import encoded

from shards.audit import jpeg_headers as jpeg
from shards.audit import png_chunks as png
from shards.audit.findings import REASONS, RejectedError
from shards.audit.image_mask_pair import AuditedPair
from shards.audit.orientation import apply_orientation, undo_orientation

WITH_GREY_ALPHA = np.dstack([GREY, np.full_like(GREY, 255)])
OVER_WHITE = (IMAGE.astype(float) * 100 / 255 + 155).round()
GREY_RGB = np.dstack([GREY] * 3)

# image, mask, the reasons of its repairs and warnings
REPAIRED: dict[str, tuple[bytes, bytes, set[str]]] = {
    "BMP": (encoded(IMAGE, "BMP"), PNG, {"image-transcoded"}),
    "WebP": (encoded(IMAGE, "WEBP", lossless=True), PNG, {"image-transcoded"}),
    "TIFF": (encoded(IMAGE, "TIFF", compression="tiff_lzw"), PNG, {"image-transcoded"}),
    "PPM": (encoded(IMAGE, "PPM"), PNG, {"image-transcoded"}),
    "grey TIFF": (encoded(GREY, "TIFF"), PNG, {"image-transcoded", "image-grey"}),
    "animated GIF": (frames("GIF", GREY), PNG, {"image-transcoded", "image-animated"}),
    "animated WebP": (frames("WEBP"), PNG, {"image-transcoded", "image-animated"}),
    "two-page TIFF": (frames("TIFF"), PNG, {"image-transcoded", "image-animated"}),
    "opaque alpha": (rgba(255), PNG, {"image-alpha"}),
    "transparent": (rgba(100), PNG, {"image-alpha"}),
    "transparent TIFF": (rgba(100, "TIFF"), PNG, {"image-transcoded", "image-alpha"}),
    "grey with alpha": (encoded(WITH_GREY_ALPHA, "PNG"), PNG, {"image-alpha", "image-grey"}),
    "one transparent colour": (
        with_chunk(RGB_PNG, b"tRNS", bytes([0, 1, 0, 2, 0, 3])),
        PNG,
        {"image-alpha"},
    ),
    "palette": (palette(GREY // 2), PNG, {"image-rare-png"}),
    "4-bit grey": (grey_png(GREY // 16, 4), PNG, {"image-rare-png", "image-grey"}),
    "1-bit grey": (grey_png(GREY // 128, 1), PNG, {"image-rare-png", "image-grey"}),
    "interlaced": (interlaced_png(IMAGE), PNG, {"image-rare-png"}),
    "gamma": (with_chunk(RGB_PNG, b"gAMA", struct.pack(">I", 45455)), PNG, {"image-extras"}),
    "colour profile": (with_chunk(RGB_PNG, b"iCCP", b"x\0\0" + zlib.compress(b"profile")), PNG, {"image-extras"}),
    "stray bytes after a PNG": (RGB_PNG + b"more", PNG, {"image-extras"}),
    "CMYK": (cmyk(), PNG, {"image-cmyk"}),
    "Lab": (lab(), PNG, {"image-transcoded"}),
    "RGB components": (rgb_coded(), PNG, {"image-rare-jpeg"}),
    "stray bytes": (JPEG[:-2] + b"abcdefgh" + JPEG[-2:], PNG, {"image-stray-bytes"}),
    "rotated by EXIF, mask too": (with_exif(6, apply_orientation(IMAGE, 8)), PNG, {"exif-rotated"}),
    "rotated by EXIF, mask not": (with_exif(6), PNG, {"exif-ignored"}),
    "upside down, by EXIF": (with_exif(3), PNG, {"exif-ambiguous"}),
    "PNG rotated by EXIF, mask too": (with_exif(6, apply_orientation(IMAGE, 8), "PNG"), PNG, {"exif-rotated"}),
    "PNG rotated by EXIF, mask not": (with_exif(8, format_="PNG"), PNG, {"exif-ignored"}),
    "mask as RGB": (JPEG, encoded(np.dstack([MASK] * 3), "PNG"), {"mask-equal-channels"}),
    "no animal": (JPEG, encoded(np.full_like(MASK, 2), "PNG"), {"no-foreground"}),
}
WARNINGS = {"image-grey", "no-foreground"}
EXPECTED: dict[str, np.ndarray] = {
    "grey TIFF": GREY_RGB,
    "animated GIF": GREY_RGB,
    "transparent": OVER_WHITE,
    "transparent TIFF": OVER_WHITE,
    "grey with alpha": GREY_RGB,
    "palette": np.asarray(Image.open(io.BytesIO(palette(GREY // 2))).convert("RGB")),
    "4-bit grey": GREY_RGB // 16 * 17,
    "1-bit grey": GREY_RGB // 128 * 255,
    "CMYK": np.asarray(Image.open(io.BytesIO(cmyk())).convert("RGB")),
    "Lab": np.asarray(Image.open(io.BytesIO(lab())).convert("RGB")),
    "RGB components": np.asarray(Image.open(io.BytesIO(rgb_coded()))),
}

REJECTED: dict[str, tuple[bytes, bytes, str]] = {
    "empty image": (b"", PNG, "image-empty"),
    "garbage": (b"hello, world" * 9, PNG, "image-unknown-format"),
    "damaged": (JPEG[:-200] + b"\xff\xd3" * 20 + JPEG[-160:], PNG, "image-corrupt"),
    "cut in half": (JPEG[: len(JPEG) // 2], PNG, "image-truncated"),
    "cut in its headers": (JPEG[:60], PNG, "image-truncated"),
    "without its end": (JPEG[:-2], PNG, "image-truncated"),
    "cut PNG": (RGB_PNG[:-40], PNG, "image-truncated"),
    "damaged PNG": (flipped_middle(RGB_PNG), PNG, "image-corrupt"),
    "PNG without its data's checksum": (with_data(IMAGE, lambda data: data[:-4]), PNG, "image-truncated"),
    "PNG with a wrong data checksum": (with_data(IMAGE, lambda data: data[:-1] + b"?"), PNG, "image-corrupt"),
    "PNG with too few rows": (with_data(IMAGE, lambda _: zlib.compress(bytes(181 * 43))), PNG, "image-corrupt"),
    "PNG with too many rows": (with_data(IMAGE, lambda _: zlib.compress(bytes(181 * 45))), PNG, "image-corrupt"),
    "PNG with an unknown filter": (with_data(IMAGE, lambda _: zlib.compress(b"\x05" * 181 * 44)), PNG, "image-corrupt"),
    "cut BMP": (encoded(IMAGE, "BMP")[:-50], PNG, "image-truncated"),
    "bomb": (with_size(JPEG, 60000, 60000), PNG, "image-too-large"),
    "PNG bomb": (with_size(RGB_PNG, 60000, 60000), PNG, "image-too-large"),
    "longer than libjpeg decodes": (with_size(JPEG, 65501, 1), PNG, "image-too-large"),
    "longer than OpenCV decodes": (with_size(RGB_PNG, 2**20 + 1, 1), PNG, "image-too-large"),
    "12-bit JPEG": (with_precision(12), PNG, "image-depth"),
    "16-bit grey PNG": (grey_png(GREY.astype(np.uint16) * 257, 16), PNG, "image-depth"),
    "16-bit RGB PNG": (rgb16_png(), PNG, "image-depth"),
    "16-bit grey TIFF": (tiff(GREY.astype("<u2"), bits=16, samples=1), PNG, "image-depth"),
    "16-bit RGB TIFF": (tiff(IMAGE.astype("<u2"), bits=16, samples=3, photometric=2), PNG, "image-depth"),
    "32-bit TIFF": (tiff(GREY.astype("<u4"), bits=32, samples=1), PNG, "image-depth"),
    "floating-point TIFF": (tiff(GREY.astype("<f4"), bits=32, samples=1, kind=3), PNG, "image-depth"),
    "16-bit PPM": (b"P6 60 44 65535\n" + bytes(60 * 44 * 6), PNG, "image-depth"),
    "16-bit BigTIFF": (big_tiff(IMAGE.astype("<u2") * 257), PNG, "image-unknown-format"),
    "mask as BigTIFF": (JPEG, big_tiff(np.dstack([MASK] * 3)), "mask-unknown-format"),
    "two-channel TIFF": (tiff(IMAGE[..., :2], bits=8, samples=2, extra=1), PNG, "image-channels"),
    "five-channel TIFF": (
        tiff(np.dstack([IMAGE, IMAGE[..., :2]]), bits=8, samples=5, photometric=2, extra=2),
        PNG,
        "image-channels",
    ),
    "empty mask": (JPEG, b"", "mask-empty"),
    "garbage mask": (JPEG, b"nothing", "mask-unknown-format"),
    "damaged mask": (JPEG, flipped_middle(PNG), "mask-corrupt"),
    "mask cut": (JPEG, PNG[:-20], "mask-truncated"),
    "mask without its end": (JPEG, PNG[:-12], "mask-truncated"),
    "mask without its data's checksum": (JPEG, with_data(MASK, lambda data: data[:-4]), "mask-truncated"),
    "mask with a wrong data checksum": (JPEG, with_data(MASK, lambda data: data[:-1] + b"?"), "mask-corrupt"),
    "mask with too few rows": (JPEG, with_data(MASK, lambda _: zlib.compress(bytes(61 * 43))), "mask-corrupt"),
    "mask with an unknown filter": (JPEG, with_data(MASK, lambda _: zlib.compress(b"\x09" * 61 * 44)), "mask-corrupt"),
    "mask bomb": (JPEG, with_size(PNG, 60000, 60000), "mask-too-large"),
    "value 0": (JPEG, encoded(with_value(MASK, 0), "PNG"), "mask-values"),
    "value 4": (JPEG, encoded(with_value(MASK, 4), "PNG"), "mask-values"),
    "value 0 in a palette": (JPEG, palette(with_value(MASK, 0)), "mask-values"),
    "16-bit value": (JPEG, grey_png(MASK.astype(np.uint16) * 256, 16), "mask-depth"),
    "channels that differ": (JPEG, encoded(np.dstack([MASK, MASK, 4 - MASK]), "PNG"), "mask-channels"),
    "mask as JPEG": (JPEG, encoded(MASK * 80, "JPEG"), "mask-lossy"),
    "mask as lossy WebP": (JPEG, encoded(np.dstack([MASK] * 3), "WEBP"), "mask-lossy"),
    "mask as TIFF of JPEG": (JPEG, encoded(MASK, "TIFF", compression="jpeg"), "mask-lossy"),
    "mask as TIFF of JPEG 2000": (JPEG, retagged(encoded(MASK, "TIFF"), 259, 34712), "mask-lossy"),
    "mask as TIFF of WebP": (JPEG, retagged(encoded(MASK, "TIFF"), 259, 50001), "mask-lossy"),
    "sizes differ": (encoded(IMAGE[1:], "JPEG"), PNG, "size-mismatch"),
    "sizes differ, PNG": (encoded(IMAGE[1:], "PNG"), PNG, "size-mismatch"),
    "sizes differ, BMP": (encoded(IMAGE[1:], "BMP"), PNG, "size-mismatch"),
    "sizes differ, EXIF": (with_exif(6, IMAGE[1:]), PNG, "size-mismatch"),
}


def pixels_of(pair: AuditedPair) -> np.ndarray:
    """The pixels of a packed file, decoded independently."""
    assert pair.image.file is not None
    image = Image.open(io.BytesIO(pair.image.file))
    assert image.format == {"jpg": "JPEG", "png": "PNG"}[pair.image.format]
    assert image.getexif().get(0x0112, 1) == 1
    if pair.image.format == "jpg":
        assert jpeg.read_header(pair.image.file).common
        return simplejpeg.decode_jpeg(pair.image.file, strict=True)
    chunks = png.read_chunks(pair.image.file)
    assert chunks.plain
    assert chunks.harmless
    assert chunks.color in (png.GRAY, png.RGB)
    return np.asarray(image.convert("RGB"))


@pytest.mark.parametrize("pixels", [False, True])
@pytest.mark.parametrize("case", REPAIRED)
def test_repairable_pairs_are_repaired(case: str, pixels: bool) -> None:
    image, mask, expected = REPAIRED[case]
    pair = audited(image, mask, pixels=pixels)
    assert reasons(pair) == {reason: "warning" if reason in WARNINGS else "repaired" for reason in expected}
    if pixels:
        assert pair.image.file is None
        assert pair.image.pixels is not None
        found = pair.image.pixels
    else:
        assert pair.image.pixels is None
        found = pixels_of(pair)
    assert found.dtype == np.uint8
    assert found.shape == (pair.image.height, pair.image.width, 3) == IMAGE.shape
    exact = not image.startswith(jpeg.SIGNATURE) or case in EXPECTED
    expected_pixels = EXPECTED.get(case, IMAGE)
    difference = np.abs(found.astype(int) - expected_pixels.astype(int))
    assert difference.max() <= (1 if case.startswith("transparent") else 0) if exact else difference.mean() < 4


@pytest.mark.parametrize("pixels", [False, True])
@pytest.mark.parametrize("case", REJECTED)
def test_damaged_pairs_are_rejected(case: str, pixels: bool) -> None:
    image, mask, reason = REJECTED[case]
    error = rejection(image, mask, pixels=pixels)
    assert error.reason == reason, error.detail


@pytest.mark.parametrize("data", [JPEG, RGB_PNG, encoded(GREY, "PNG"), encoded(GREY, "JPEG")])
def test_plain_files_keep_their_bytes(data: bytes) -> None:
    pair = audited(data)
    assert pair.image.file == data
    assert pair.image.format == ("png" if data.startswith(png.SIGNATURE) else "jpg")
    assert np.array_equal(pair.mask.indices, MASK - 1)
    assert pair.mask.counts.tolist()[:3] == [int((value == MASK).sum()) for value in (1, 2, 3)]
    grey = Image.open(io.BytesIO(data)).mode == "L"
    assert reasons(pair) == ({"image-grey": "warning"} if grey else {})


@pytest.mark.parametrize("kind", [b"tEXt", b"sRGB", b"pHYs", b"tIME"])
def test_chunks_that_change_nothing_are_kept(kind: bytes) -> None:
    data = with_chunk(RGB_PNG, kind, {b"tEXt": b"a\0b", b"sRGB": b"\0", b"pHYs": bytes(9), b"tIME": bytes(7)}[kind])
    assert audited(data).image.file == data
    upright = with_exif(1, format_="PNG")
    assert audited(upright).image.file == upright
    assert not audited(upright).findings


def test_an_unknown_critical_chunk_is_not_skipped() -> None:
    assert rejection(with_chunk(RGB_PNG, b"CgBI", b"")).reason == "image-corrupt"


@pytest.mark.parametrize("format_", ["TIFF", "WEBP", "PNG"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_in_every_format(format_: str, orientation: int) -> None:
    """The mask decides: where it fits the image as stored, nothing is rotated."""
    lossless: dict[str, object] = {"lossless": True} if format_ == "WEBP" else {}
    stored = undo_orientation(IMAGE, orientation)
    data = with_exif(orientation, np.ascontiguousarray(stored), format_, **lossless)
    rotated = orientation >= 5
    pair = audited(data)
    assert np.array_equal(pixels_of(pair), IMAGE if rotated else stored)
    assert ("exif-rotated" in reasons(pair)) == rotated
    assert ("exif-ambiguous" in reasons(pair)) == (1 < orientation < 5)
    if orientation > 1:
        fits = encoded(np.ascontiguousarray(np.full(stored.shape[:2], 1, np.uint8)), "PNG")
        pair = audited(data, fits)
        assert np.array_equal(pixels_of(pair), stored)
        assert reasons(pair)["exif-ignored" if rotated else "exif-ambiguous"] == "repaired"


def test_transcoding_gives_the_same_bytes_every_time() -> None:
    data = encoded(IMAGE, "BMP")
    first, second = (audited(data).image.file for _ in range(2))
    assert first == second
    assert first is not None
    assert len(first) < len(data)


def test_rejections_survive_pickling() -> None:
    error = pickle.loads(pickle.dumps(RejectedError("image-empty", "x", {"7": 3})))
    assert (error.reason, error.detail, error.unclaimed) == ("image-empty", "x", {"7": 3})


def test_every_reason_about_a_file_is_caused_here() -> None:
    caused = {reason for case in REPAIRED.values() for reason in case[2]} | {case[2] for case in REJECTED.values()}
    about_files = {name for name in REASONS if name.startswith(("image-", "mask-", "exif-", "size-"))}
    elsewhere = {"image-without-mask", "mask-without-image", "image-not-a-file", "mask-not-a-file", "mask-ignored"}
    assert about_files - elsewhere == caused - {"no-foreground"}
