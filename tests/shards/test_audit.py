"""Every reason of the audit is caused; what passes decodes strictly and is what the source held."""

from __future__ import annotations

import io
import random
import struct
import zlib
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
import simplejpeg
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from shard_sources import encoded, picture, trimap

from shards.audit import findings
from shards.audit import jpeg_headers as jpeg
from shards.audit import png_chunks as png
from shards.audit.findings import RejectedError
from shards.audit.image import turn
from shards.audit.pair import AuditedPair, audit_pair

PICTURE, TRIMAP = picture(1), trimap(1)
JPEG, PNG = encoded(PICTURE, "JPEG", quality=90), encoded(TRIMAP, "PNG")


def reasons(pair: AuditedPair) -> dict[str, str]:
    return {finding.reason: finding.action for finding in pair.findings}


def with_exif(orientation: int, array: np.ndarray = PICTURE) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(array, "JPEG", exif=exif.tobytes(), quality=90)


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def with_chunk(data: bytes, kind: bytes, body: bytes) -> bytes:
    return data[:33] + chunk(kind, body) + data[33:]


def grey_png(values: np.ndarray, depth: int) -> bytes:
    """A grey PNG with fewer than 8 bits a pixel, or 16: Pillow cannot write the former."""
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
    """The trimap as PNG with other image data, all chunks' own checksums being right."""
    raw = b"".join(b"\0" + row.tobytes() for row in TRIMAP)
    ihdr = struct.pack(">IIBBBBB", 60, 44, 8, 0, 0, 0, 0)
    data = change(zlib.compress(raw))
    return png.SIGNATURE + chunk(b"IHDR", ihdr) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def frames(format_: str) -> bytes:
    buffer = io.BytesIO()
    first, second = (Image.fromarray(picture(seed)) for seed in (1, 2))
    first.save(buffer, format_, save_all=True, append_images=[second])
    return buffer.getvalue()


def rgba(alpha: int) -> bytes:
    return encoded(np.dstack([PICTURE, np.full(PICTURE.shape[:2], alpha, np.uint8)]), "PNG")


def palette(values: np.ndarray) -> bytes:
    image = Image.fromarray(values)
    image = Image.frombytes("P", image.size, image.tobytes())
    image.putpalette([9, 9, 9, 255, 0, 0, 0, 255, 0, 0, 0, 255])
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def interlaced() -> bytes:
    """An Adam7 PNG of one pixel, and a trimap as small: enough to see that interlacing is noticed."""
    ihdr = struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 1)
    return png.SIGNATURE + chunk(b"IHDR", ihdr) + chunk(b"IDAT", zlib.compress(b"\0\1")) + chunk(b"IEND", b"")


def cmyk() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(PICTURE).convert("CMYK").save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def rgb_coded() -> bytes:
    """A JPEG whose components are R, G, B."""
    buffer = io.BytesIO()
    Image.fromarray(PICTURE).save(buffer, "JPEG", keep_rgb=True, quality=95)
    return buffer.getvalue()


def strange_precision() -> bytes:
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


def changed(values: np.ndarray, value: int) -> np.ndarray:
    copy = values.copy()
    copy[3, 3] = value
    return copy


MENDED: dict[str, tuple[bytes, bytes, set[str]]] = {
    "PNG named jpg": (encoded(PICTURE, "PNG"), PNG, {"picture-wrong-type"}),
    "BMP named jpg": (encoded(PICTURE, "BMP"), PNG, {"picture-wrong-type"}),
    "animated GIF": (frames("GIF"), PNG, {"picture-wrong-type", "picture-animated"}),
    "WebP": (encoded(PICTURE, "WEBP"), PNG, {"picture-wrong-type"}),
    "opaque alpha": (rgba(255), PNG, {"picture-wrong-type", "picture-alpha"}),
    "transparent": (rgba(100), PNG, {"picture-wrong-type", "picture-alpha"}),
    "CMYK": (cmyk(), PNG, {"picture-cmyk"}),
    "16-bit grey PNG": (
        grey_png(PICTURE[..., 0].astype(np.uint16) * 257, 16),
        PNG,
        {"picture-wrong-type", "picture-16-bit"},
    ),
    "RGB components": (rgb_coded(), PNG, {"picture-rare-jpeg"}),
    "stray bytes": (JPEG[:-2] + b"abcdefgh" + JPEG[-2:], PNG, {"picture-stray-bytes"}),
    "turned by EXIF, trimap too": (with_exif(6, turn(PICTURE, 8)), PNG, {"exif-turned"}),
    "turned by EXIF, trimap not": (with_exif(6), PNG, {"exif-ignored"}),
    "upside down, by EXIF": (with_exif(3), PNG, {"exif-ignored"}),
    "trimap as BMP": (JPEG, encoded(TRIMAP, "BMP"), {"trimap-wrong-type"}),
    "trimap with a palette": (JPEG, palette(TRIMAP), {"trimap-palette"}),
    "trimap as RGB": (JPEG, encoded(np.dstack([TRIMAP] * 3), "PNG"), {"trimap-channels"}),
    "2-bit trimap": (JPEG, grey_png(TRIMAP, 2), {"trimap-depth"}),
    "4-bit trimap": (JPEG, grey_png(TRIMAP, 4), {"trimap-depth"}),
    "16-bit trimap": (JPEG, grey_png(TRIMAP, 16), {"trimap-depth"}),
    "trimap with gamma": (JPEG, with_chunk(PNG, b"gAMA", struct.pack(">I", 45455)), {"trimap-extras"}),
    "trimap with transparency": (JPEG, with_chunk(PNG, b"tRNS", b"\0\1"), {"trimap-extras"}),
}

LEFT_OUT: dict[str, tuple[bytes, bytes, str]] = {
    "empty picture": (b"", PNG, "picture-empty"),
    "garbage": (b"hello, world" * 9, PNG, "picture-unknown-format"),
    "damaged": (JPEG[:-200] + b"\xff\xd3" * 20 + JPEG[-160:], PNG, "picture-corrupt"),
    "cut in half": (JPEG[: len(JPEG) // 2], PNG, "picture-truncated"),
    "cut in its headers": (JPEG[:60], PNG, "picture-truncated"),
    "without its end": (JPEG[:-2], PNG, "picture-truncated"),
    "cut PNG": (encoded(PICTURE, "PNG")[:-40], PNG, "picture-truncated"),
    "damaged PNG": (flipped_middle(encoded(PICTURE, "PNG")), PNG, "picture-corrupt"),
    "bomb": (huge(JPEG), PNG, "picture-too-large"),
    "PNG bomb": (huge(encoded(PICTURE, "PNG")), PNG, "picture-too-large"),
    "12-bit JPEG": (strange_precision(), PNG, "picture-16-bit"),
    "empty trimap": (JPEG, b"", "trimap-empty"),
    "garbage trimap": (JPEG, b"nothing", "trimap-unknown-format"),
    "damaged trimap": (JPEG, flipped_middle(PNG), "trimap-corrupt"),
    "trimap cut": (JPEG, PNG[:-20], "trimap-truncated"),
    "trimap without its end": (JPEG, PNG[:-12], "trimap-truncated"),
    "trimap without its data's checksum": (JPEG, with_data(lambda data: data[:-4]), "trimap-truncated"),
    "trimap with a wrong data checksum": (JPEG, with_data(lambda data: data[:-1] + b"?"), "trimap-corrupt"),
    "trimap with too few rows": (JPEG, with_data(lambda _: zlib.compress(bytes(61 * 43))), "trimap-corrupt"),
    "trimap with an unknown filter": (JPEG, with_data(lambda _: zlib.compress(bytes([9] * 61 * 44))), "trimap-corrupt"),
    "trimap bomb": (JPEG, huge(PNG), "trimap-too-large"),
    "value 0": (JPEG, encoded(changed(TRIMAP, 0), "PNG"), "trimap-values"),
    "value 4": (JPEG, encoded(changed(TRIMAP, 4), "PNG"), "trimap-values"),
    "value 255 in a palette": (JPEG, palette(changed(TRIMAP, 0)), "trimap-values"),
    "16-bit value": (JPEG, grey_png(TRIMAP.astype(np.uint16) * 256, 16), "trimap-values"),
    "channels that differ": (JPEG, encoded(np.dstack([TRIMAP, TRIMAP, 4 - TRIMAP]), "PNG"), "trimap-channels"),
    "trimap as JPEG": (JPEG, encoded(TRIMAP * 80, "JPEG"), "trimap-values"),
    "sizes differ": (encoded(PICTURE[1:], "JPEG"), PNG, "size-mismatch"),
    "sizes differ, PNG": (encoded(PICTURE[1:], "PNG"), PNG, "size-mismatch"),
    "sizes differ, EXIF": (with_exif(6, PICTURE[1:]), PNG, "size-mismatch"),
}


@pytest.mark.parametrize("storage", ["source", "jpeg"])
@pytest.mark.parametrize("case", MENDED)
def test_what_can_be_mended_is(case: str, storage: str) -> None:
    image, mask, expected = MENDED[case]
    pair = audit_pair(image, mask, storage=storage)  # type: ignore[arg-type]
    assert reasons(pair) == dict.fromkeys(expected, "mended")
    again = Image.open(io.BytesIO(pair.trimap.png))
    assert again.mode == "L"
    assert png.read_header(pair.trimap.png).plain
    assert np.array_equal(np.asarray(again), TRIMAP)
    if storage == "source":
        assert pair.picture.jpeg is not None
        assert jpeg.read_header(pair.picture.jpeg).common
        assert Image.open(io.BytesIO(pair.picture.jpeg)).getexif().get(0x0112, 1) == 1
        pixels = simplejpeg.decode_jpeg(pair.picture.jpeg, strict=True)
    else:
        assert pair.picture.pixels is not None
        pixels = pair.picture.pixels
    if case in ("16-bit grey PNG",):
        expected_pixels = np.dstack([PICTURE[..., 0]] * 3)
    elif case == "transparent":
        expected_pixels = (PICTURE.astype(float) * 100 / 255 + 155).round()
    else:
        expected_pixels = PICTURE
    difference = np.abs(pixels.astype(int) - expected_pixels.astype(int)).mean()
    limit = 40 if case == "CMYK" else 12 if "GIF" in case else 4  # few colours; and Pillow's plain CMYK conversion
    assert difference < limit, f"{case}: mean difference {difference}"


@pytest.mark.parametrize("storage", ["source", "raw"])
@pytest.mark.parametrize("case", LEFT_OUT)
def test_what_cannot_be_trusted_is_left_out(case: str, storage: str) -> None:
    image, mask, reason = LEFT_OUT[case]
    with pytest.raises(RejectedError) as caught:
        audit_pair(image, mask, storage=storage)  # type: ignore[arg-type]
    assert caught.value.reason == reason, caught.value.detail


def test_sound_pairs_keep_their_bytes() -> None:
    pair = audit_pair(JPEG, PNG, storage="source")
    assert pair.picture.jpeg == JPEG
    assert pair.trimap.png == PNG
    assert pair.trimap.class_pixels == tuple(int((value == TRIMAP).sum()) for value in (1, 2, 3))
    assert not pair.findings


@pytest.mark.parametrize("options", [{"progressive": True}, {"subsampling": 0}, {"subsampling": 1}, {"optimize": True}])
def test_ordinary_jpegs_keep_their_bytes(options: dict[str, object]) -> None:
    data = encoded(PICTURE, "JPEG", **options)
    assert audit_pair(data, PNG, storage="source").picture.jpeg == data


def test_grey_jpegs_keep_their_bytes_and_are_rgb_as_pixels() -> None:
    data = encoded(PICTURE[..., 0], "JPEG")
    assert audit_pair(data, PNG, storage="source").picture.jpeg == data
    pixels = audit_pair(data, PNG, storage="raw").picture.pixels
    assert pixels is not None
    assert pixels.shape == PICTURE.shape


def test_no_animal_is_a_remark() -> None:
    mask = encoded(np.full_like(TRIMAP, 2), "PNG")
    assert reasons(audit_pair(JPEG, mask, storage="source")) == {"no-animal": "remark"}


def test_interlaced_trimaps_are_stored_plainly() -> None:
    tiny = encoded(PICTURE[:1, :1], "JPEG")
    pair = audit_pair(tiny, interlaced(), storage="source")
    assert reasons(pair) == {"trimap-extras": "mended"}
    assert png.read_header(pair.trimap.png).plain


@pytest.mark.parametrize("orientation", range(1, 9))
def test_turn_is_pillows(orientation: int) -> None:
    from PIL import ImageOps

    exif = Image.Exif()
    exif[0x0112] = orientation
    image = Image.open(io.BytesIO(encoded(PICTURE, "PNG", exif=exif)))
    expected = np.asarray(ImageOps.exif_transpose(image))
    assert np.array_equal(turn(PICTURE, orientation), expected)


def test_orientation_is_removed_without_touching_anything_else() -> None:
    for order in ("<", ">"):
        tiff = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "IH", 8, 1)
        tiff += struct.pack(order + "HHIHH", 0x0112, 3, 1, 6, 0) + bytes(4)
        body = b"Exif\0\0" + tiff
        data = JPEG[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + JPEG[2:]
        head = jpeg.read_header(data)
        assert head.orientation == 6
        plain = jpeg.without_orientation(data, head)
        assert jpeg.read_header(plain).orientation == 1
        assert len(plain) == len(data)
        assert sum(a != b for a, b in zip(plain, data, strict=True)) == 1


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_whatever_passes_decodes_strictly(data: st.DataObject) -> None:
    """Flip bits, cut and insert: the audit raises only RejectedError, and what it lets through decodes."""
    image, mask = bytearray(JPEG), bytearray(PNG)
    target = data.draw(st.sampled_from([image, mask]))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(target) - 1))
        action = data.draw(st.sampled_from(["flip", "cut", "insert"]))
        if action == "flip":
            target[at] ^= 1 << data.draw(st.integers(0, 7))
        elif action == "cut":
            del target[at : at + data.draw(st.integers(1, 30))]
        else:
            target[at:at] = data.draw(st.binary(min_size=1, max_size=20))
        if not target:
            break
    try:
        pair = audit_pair(bytes(image), bytes(mask), storage="source")
    except RejectedError:
        return
    assert pair.picture.jpeg is not None
    assert jpeg.read_header(pair.picture.jpeg).common
    assert simplejpeg.decode_jpeg(pair.picture.jpeg, strict=True).shape[:2] == pair.trimap.size[::-1]
    values = np.asarray(Image.open(io.BytesIO(pair.trimap.png)))
    assert set(np.unique(values)) <= {1, 2, 3}
    audit_again = audit_pair(pair.picture.jpeg, pair.trimap.png, storage="source")
    assert not [finding for finding in audit_again.findings if finding.action == "mended"]


@settings(max_examples=200, deadline=None)
@given(
    st.binary(max_size=300), st.sampled_from([b"", jpeg.SIGNATURE, png.SIGNATURE, b"GIF89a", b"RIFF", b"BM", b"II*\0"])
)
def test_garbage_is_only_ever_rejected(tail: bytes, head: bytes) -> None:
    for image, mask in ((head + tail, PNG), (JPEG, head + tail)):
        with pytest.raises(RejectedError):
            audit_pair(image, mask, storage="source")


@pytest.mark.parametrize("error", [MemoryError(), ImportError("no plugin"), PermissionError(13, "denied")])
def test_the_machines_fault_is_not_the_pictures(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(Image, "open", fail)
    with pytest.raises(type(error)):
        audit_pair(encoded(PICTURE, "BMP"), PNG, storage="source")


@given(st.integers(1, 200_000), st.integers(0, 255))
@settings(max_examples=20, deadline=None)
def test_stored_blocks_are_a_zlib_stream(length: int, value: int) -> None:
    data = bytes([value]) * length
    assert zlib.decompress(png.stored(data, struct.pack(">I", zlib.adler32(data)))) == data


@pytest.mark.parametrize("size", [(1, 1), (3, 70_000), (700, 500)])
def test_large_trimaps_with_every_filter(size: tuple[int, int]) -> None:
    mask = np.random.default_rng(0).integers(1, 4, size, dtype=np.uint8)
    for level in (0, 9):
        data = encoded(mask, "PNG", compress_level=level)
        assert np.array_equal(png.decode_plain(data, png.read_header(data)), mask)


def test_rejections_survive_pickling() -> None:
    import pickle

    error = pickle.loads(pickle.dumps(RejectedError("picture-empty", "x")))
    assert (error.reason, error.detail) == ("picture-empty", "x")


def test_every_reason_about_a_file_is_caused_here() -> None:
    from shards.audit.findings import REASONS

    caused = {reason for case in MENDED.values() for reason in case[2]} | {case[2] for case in LEFT_OUT.values()}
    about_files = {name for name in REASONS if name.startswith(("picture-", "trimap-", "exif-", "size-"))}
    elsewhere = {"picture-without-trimap", "trimap-without-picture", "picture-not-a-file", "trimap-not-a-file"}
    assert about_files - elsewhere == caused


def test_the_limit_is_a_parameter_of_the_decoder_not_of_the_machine() -> None:
    assert (Image.MAX_IMAGE_PIXELS or 0) > findings.MAX_PIXELS


def damaged(rng: random.Random, data: bytes) -> bytes:
    """A JPEG with bits flipped, or bytes cut off, taken out, put in, zeroed or overwritten with a marker."""
    changed, at = bytearray(data), rng.randrange(2, len(data))
    kind = rng.randrange(6)
    if kind == 0:
        for _ in range(rng.randrange(1, 12)):
            changed[rng.randrange(2, len(data))] ^= 1 << rng.randrange(8)
    elif kind == 1:
        del changed[at:]
    elif kind == 2:
        del changed[at : at + rng.randrange(1, 40)]
    elif kind == 3:
        changed[at:at] = rng.randbytes(rng.randrange(1, 40))
    elif kind == 4:
        changed[at : at + 30] = bytes(len(changed[at : at + 30]))
    else:
        changed[at : at + 2] = bytes((0xFF, rng.choice((0xC4, 0xD0, 0xD3, 0xD9, 0xDA, 0xDD))))
    return bytes(changed)


def test_damage_is_found_without_making_all_pixels(campaign: Callable[[int, int], int]) -> None:
    """``source`` storage makes few pixels of a JPEG; its verdict and reason are those of decoding in full."""
    rng = random.Random(3)
    noise = np.random.default_rng(3).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    picture = Image.fromarray(noise).resize((100, 76), Image.Resampling.BICUBIC)
    verdicts: Counter[str] = Counter()
    for number in range(campaign(1_500, 30_000)):
        buffer = io.BytesIO()
        more = {"restart_marker_blocks": 3} if number % 3 == 0 else {}
        picture.save(buffer, "JPEG", progressive=number % 2 == 0, subsampling=number % 3, quality=85, **more)
        data = damaged(rng, buffer.getvalue())
        verdict = strict_verdict(data, "RGB")
        assert strict_verdict(data, "GRAY", min_height=1, min_width=1) == verdict
        verdicts[verdict] += 1
    assert len(verdicts) > 10
    assert min(verdicts[""], verdicts.total() - verdicts[""]) > verdicts.total() / 10


def strict_verdict(data: bytes, colours: str, **scale: int) -> str:
    try:
        simplejpeg.decode_jpeg(data, colours, strict=True, **scale)
    except ValueError as error:
        return str(error)
    return ""
