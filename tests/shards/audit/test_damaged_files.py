"""Randomly damaged files: rejected, or what passes decodes strictly."""

from __future__ import annotations

import io
import random
import struct
import time
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
import simplejpeg
from hypothesis import given, settings
from hypothesis import strategies as st
from odd_files import JPEG, PNG, audited
from PIL import Image
from shard_sources import draw_image, draw_mask, encoded

from shards.audit import jpeg_headers as jpeg
from shards.audit import png_chunks as png
from shards.audit import transcode
from shards.audit.findings import RejectedError
from shards.audit.mask import is_lossy
from shards.audit.png_data import encode_unfiltered

SMALL_IMAGE = draw_image(1, width=10, height=8)
SMALL_JPEG, SMALL_RGB_PNG = encoded(SMALL_IMAGE, "JPEG"), encoded(SMALL_IMAGE, "PNG")
SMALL_PNG = encoded(draw_mask(1, width=10, height=8), "PNG")


@pytest.mark.parametrize("what", ["mask", "image", "image with alpha"])
def test_every_flipped_bit_of_a_png_is_found(what: str) -> None:
    data = {
        "mask": SMALL_PNG,
        "image": SMALL_RGB_PNG,
        "image with alpha": encoded(np.dstack([SMALL_IMAGE, SMALL_IMAGE[..., :1]]), "PNG"),
    }[what]

    def pair(file: bytes) -> tuple[bytes, bytes]:
        return (SMALL_JPEG, file) if what == "mask" else (file, SMALL_PNG)

    audited(*pair(data))
    for at in range(len(data)):
        for bit in range(8):
            flipped = bytearray(data)
            flipped[at] ^= 1 << bit
            with pytest.raises(RejectedError):
                audited(*pair(bytes(flipped)))


def chunk(kind: bytes, body: bytes = b"") -> bytes:
    return png.write_chunk(kind, body)


TINY_PARTS = {
    "PNG of empty image data": lambda n: SMALL_PNG[:33] + chunk(b"IDAT") * n + SMALL_PNG[33:],
    "PNG of empty texts": lambda n: SMALL_PNG[:33] + chunk(b"tEXt") * n + SMALL_PNG[33:],
    "JPEG of empty comments": lambda n: SMALL_JPEG[:2] + b"\xff\xfe\0\2" * n + SMALL_JPEG[2:],
    "JPEG of restart markers": lambda n: SMALL_JPEG[:2] + b"\xff\xd0" * n + SMALL_JPEG[2:],
}


@pytest.mark.parametrize("kind", TINY_PARTS)
def test_files_of_nothing_but_tiny_parts_are_rejected_at_once(kind: str) -> None:
    """Each part takes a microsecond and a hundred bytes: a GiB of them hours, and all memory."""
    make = TINY_PARTS[kind]

    def pair(file: bytes) -> tuple[bytes, bytes]:
        return (file, SMALL_PNG) if kind.startswith("JPEG") else (SMALL_JPEG, file)

    audited(*pair(make(3)))
    began = time.process_time()
    with pytest.raises(RejectedError, match=r"more than (262144 chunks|65536 segments)"):
        audited(*pair(make(400_000)))
    assert time.process_time() - began < 3


@pytest.mark.parametrize("format_", ["GIF", "TIFF", "WEBP"])
def test_damage_of_a_later_image_in_a_file(format_: str, campaign: Callable[[int, int], int]) -> None:
    """It is the file's own: a verdict, not an error that ends the build."""
    turned = [Image.fromarray(each) for each in (SMALL_IMAGE[::-1], SMALL_IMAGE[:, ::-1], SMALL_IMAGE[::-1, ::-1])]
    data = encoded(SMALL_IMAGE, format_, save_all=True, append_images=turned)
    assert [found.detail for found in audited(data, SMALL_PNG).image.findings][-1] == "the first of 4 images was taken"
    generator, seen = random.Random(f"{format_} 1"), Counter[str]()
    for _ in range(campaign(400, 3000)):
        damaged = bytearray(data)
        for _ in range(generator.choice((1, 1, 2, 5))):
            damaged[generator.randrange(len(damaged) // 4, len(damaged))] = generator.randrange(256)
        if generator.random() < 0.3:
            del damaged[generator.randrange(len(damaged) // 2, len(damaged)) :]
        for pair in ((bytes(damaged), SMALL_PNG), (SMALL_RGB_PNG, bytes(damaged))):
            try:
                audited(*pair)
                seen["packed"] += 1
            except RejectedError as error:
                seen[error.reason] += 1
    assert seen["image-corrupt"] + seen["image-truncated"], seen


@pytest.mark.parametrize("tags", ["LONG", "LONG8", "twice"])
def test_tiles_that_are_larger_than_any_image_take_no_memory(tags: str) -> None:
    """A tile is unpacked whole, here of an image of 16 x 16; whole numbers of any type are taken for its size."""

    def entry(tag: int, value: int, kind: int = 4) -> bytes:
        return struct.pack("<HHII", tag, kind, 1, value)

    tiles = entry(322, 40_000) + entry(323, 40_000)
    if tags == "LONG8":  # of 8 bytes, which stand after the directory
        tiles = b"".join(struct.pack("<HHII", tag, 16, 1, 8 + 2 + 4 * 12 + 4) for tag in (322, 323))
    if tags == "twice":
        tiles += entry(322, 16) + entry(323, 16)
    directory = entry(256, 16) + entry(257, 16) + tiles
    data = b"II*\0" + struct.pack("<IH", 8, len(directory) // 12) + directory + struct.pack("<IQ", 0, 40_000)
    for pair, what in (((data, SMALL_PNG), "image"), ((SMALL_JPEG, data), "mask")):
        with pytest.raises(RejectedError, match="tiles of 40000 x 40000 pixels") as error:
            audited(*pair)
        assert error.value.reason == f"{what}-too-large"


def test_a_webp_that_would_take_gigabytes_is_rejected() -> None:
    """34 bytes may claim 268 million pixels, for each of which libwebp and Pillow together take 16 bytes."""
    assert audited(encoded(SMALL_IMAGE, "WEBP", lossless=True), SMALL_PNG).image.width == 10
    side = 16_383
    bits = (side - 1) | (side - 1) << 14  # width and height of a lossless one, of 14 bits each, less 1
    body = b"WEBPVP8L" + struct.pack("<IBI", 5, 0x2F, bits) + b"\0"
    data = b"RIFF" + struct.pack("<I", len(body)) + body
    for pair, what in (((data, SMALL_PNG), "image"), ((SMALL_JPEG, data), "mask")):
        with pytest.raises(RejectedError, match="WebPs are decoded up to 134,217,728") as error:
            audited(*pair, max_pixels=2**28)
        assert error.value.reason == f"{what}-too-large"


def test_many_tiny_images_in_a_file_are_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encoded(SMALL_IMAGE, "TIFF", save_all=True, append_images=[Image.fromarray(SMALL_IMAGE)] * 2)
    monkeypatch.setattr(transcode, "_COUNTED_TIFF", 100)
    assert [found.detail for found in audited(data, SMALL_PNG).image.findings][
        -1
    ] == "the first of several images was taken"


@pytest.mark.parametrize("comment", [b"#" + b"x" * (1 << 25) + b"\n", b"#x\n" * (1 << 23)])
def test_comments_without_end_are_not_read(comment: bytes) -> None:
    ppm = encoded(SMALL_IMAGE, "PPM")
    assert audited(ppm[:3] + b"# by a camera\n" * 9 + ppm[3:], SMALL_PNG).image.width == 10
    began = time.process_time()
    with pytest.raises(RejectedError, match="a header without a size"):
        audited(ppm[:3] + comment + ppm[3:], SMALL_PNG)
    assert time.process_time() - began < 0.5


def test_fill_bytes_are_passed_over_at_once() -> None:
    data = SMALL_JPEG[:2] + b"\xff" * (1 << 25) + SMALL_JPEG[2:]
    began = time.process_time()
    assert jpeg.read_header(data) == jpeg.read_header(SMALL_JPEG)
    assert time.process_time() - began < 0.5


def test_a_webp_whose_chunks_cannot_all_be_looked_at_counts_as_lossy() -> None:
    def webp(chunks: bytes) -> bytes:
        return b"RIFF" + bytes(4) + b"WEBP" + chunks

    junk = b"ABCD" + bytes(4)
    assert not is_lossy(webp(junk * 100 + b"VP8L" + bytes(4)))
    assert is_lossy(webp(junk * 100 + b"VP8 " + bytes(4)))
    assert is_lossy(webp(junk * 100_000))


@settings(max_examples=200)
@given(st.data())
def test_whatever_passes_decodes_strictly(data: st.DataObject) -> None:
    """Flip bits, cut and insert: the audit raises only RejectedError, and what it lets through decodes."""
    files = [bytearray(JPEG), bytearray(encoded(draw_image(1), "PNG")), bytearray(PNG)]
    target = data.draw(st.sampled_from(files))
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
    image, mask = files[target is files[1]], files[2]
    try:
        pair = audited(bytes(image), bytes(mask))
    except RejectedError:
        return
    assert pair.image.file is not None
    assert pair.image.format == ("jpg" if pair.image.file.startswith(jpeg.SIGNATURE) else "png")
    shape = (*pair.mask.size[::-1], 3)
    if pair.image.format == "jpg":
        assert jpeg.read_header(pair.image.file).common
        assert simplejpeg.decode_jpeg(pair.image.file, strict=True).shape == shape
    else:
        assert np.asarray(Image.open(io.BytesIO(pair.image.file)).convert("RGB")).shape == shape
    assert set(np.unique(pair.mask.indices)) <= {0, 1, 2}
    audit_again = audited(pair.image.file, encode_unfiltered(pair.mask.indices + 1))
    assert not [finding for finding in audit_again.findings if finding.action == "repaired"]


@settings(max_examples=100)
@given(
    st.binary(max_size=300), st.sampled_from([b"", jpeg.SIGNATURE, png.SIGNATURE, b"GIF89a", b"RIFF", b"BM", b"II*\0"])
)
def test_garbage_is_only_ever_rejected(tail: bytes, head: bytes) -> None:
    for image, mask in ((head + tail, PNG), (JPEG, head + tail)):
        with pytest.raises(RejectedError):
            audited(image, mask)


@pytest.mark.parametrize("error", [MemoryError(), ImportError("no plugin"), PermissionError(13, "denied")])
def test_the_machines_fault_is_not_the_images(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(Image, "open", fail)
    with pytest.raises(type(error)):
        audited(encoded(draw_image(1), "BMP"), PNG)


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate", "jpeg"])
def test_the_errors_of_libtiff_are_the_images(compression: str, capfd: pytest.CaptureFixture[str]) -> None:
    """It writes them to stderr, and they name no image; of a JPEG in a TIFF, Pillow then takes what there is."""
    data = encoded(draw_image(1, width=200, height=200), "TIFF", compression=compression)
    with pytest.raises(RejectedError) as caught:
        audited(data[:200] + b"\xff\x69" * 40 + data[280:], PNG)
    assert caught.value.reason == "image-corrupt"
    assert capfd.readouterr().err == ""


def test_pillows_own_limit_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is far below what --max-pixels allows; and it is the user's again afterwards."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert audited(encoded(draw_image(1), "BMP")).image.format == "png"
    assert Image.MAX_IMAGE_PIXELS == 100
    with pytest.raises(RejectedError, match="image-too-large"):
        audited(encoded(draw_image(1), "BMP"), encoded(draw_mask(1, width=5, height=5), "PNG"), max_pixels=60 * 44 - 1)


def damaged(rng: random.Random, data: bytes) -> bytes:
    """A JPEG with bits flipped, or bytes cut off, taken out, put in, zeroed or overwritten with a marker."""
    result, at = bytearray(data), rng.randrange(2, len(data))
    kind = rng.randrange(6)
    if kind == 0:
        for _ in range(rng.randrange(1, 12)):
            result[rng.randrange(2, len(data))] ^= 1 << rng.randrange(8)
    elif kind == 1:
        del result[at:]
    elif kind == 2:
        del result[at : at + rng.randrange(1, 40)]
    elif kind == 3:
        result[at:at] = rng.randbytes(rng.randrange(1, 40))
    elif kind == 4:
        result[at : at + 30] = bytes(len(result[at : at + 30]))
    else:
        result[at : at + 2] = bytes((0xFF, rng.choice((0xC4, 0xD0, 0xD3, 0xD9, 0xDA, 0xDD))))
    return bytes(result)


def test_damage_is_found_without_making_all_pixels(campaign: Callable[[int, int], int]) -> None:
    """``source`` storage makes few pixels of a JPEG; its verdict and reason are those of decoding in full."""
    rng = random.Random(3)
    noise = np.random.default_rng(3).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    image = Image.fromarray(noise).resize((100, 76), Image.Resampling.BICUBIC)
    verdicts: Counter[str] = Counter()
    for number in range(campaign(600, 30_000)):
        buffer = io.BytesIO()
        more = {"restart_marker_blocks": 3} if number % 3 == 0 else {}
        image.save(buffer, "JPEG", progressive=number % 2 == 0, subsampling=number % 3, quality=85, **more)
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
