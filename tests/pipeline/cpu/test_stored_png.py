"""The PNGs of a set: the fast path for masks gives what a PNG library does, or declines; images; what is refused."""

from __future__ import annotations

import io
import tracemalloc
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline.cpu.stored_png import decode_mask, decode_masks, decode_png_image, decode_unfiltered, inflate_unfiltered
from shards.audit.png_data import encode_unfiltered


def pillow_png(values: np.ndarray, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, "PNG", **options)  # type: ignore[arg-type]
    return buffer.getvalue()


@given(height=st.integers(1, 40), width=st.integers(1, 40), seed=st.integers(0, 99))
def test_masks_are_decoded_by_the_fast_path_and_by_the_library(height: int, width: int, seed: int) -> None:
    values = np.random.default_rng(seed).integers(0, 256, (height, width), dtype=np.uint8)
    plain = encode_unfiltered(values)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(plain))), values)
    fast = decode_unfiltered(np.frombuffer(plain, np.uint8))
    assert fast is not None
    assert np.array_equal(fast, values)
    for data in (plain, pillow_png(values)):
        assert np.array_equal(decode_mask(np.frombuffer(data, np.uint8), height, width), values)


def test_other_pngs_do_not_take_the_fast_path() -> None:
    ramp = np.arange(64 * 64, dtype=np.uint8).reshape(64, 64)
    large = np.tile(ramp, (6, 6))
    for values in (ramp, large):
        data = pillow_png(values)  # Pillow chooses filters that suit a ramp
        assert decode_unfiltered(np.frombuffer(data, np.uint8)) is None
        assert np.array_equal(decode_mask(np.frombuffer(data, np.uint8), *values.shape), values)


def harmed(png: bytes, data: st.DataObject) -> np.ndarray:
    """A PNG with up to four flipped bits, cut anywhere."""
    harmed = bytearray(png)
    for _ in range(data.draw(st.integers(0, 4))):
        harmed[data.draw(st.integers(0, len(harmed) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    return np.frombuffer(bytes(harmed[: data.draw(st.integers(0, len(harmed)))]), np.uint8)


@settings(max_examples=300)
@given(seed=st.integers(0, 10**6), data=st.data())
def test_no_bytes_make_the_mask_decoder_raise(seed: int, data: st.DataObject) -> None:
    """Corrupted and truncated PNGs give pixels or a reason, never an exception."""
    values = np.random.default_rng(seed).integers(1, 4, (9, 7), dtype=np.uint8)
    result = decode_mask(harmed(encode_unfiltered(values), data), 9, 7)
    assert isinstance(result, (str, np.ndarray))


@given(height=st.integers(1, 20), width=st.integers(1, 20), count=st.integers(1, 6), seed=st.integers(0, 99))
def test_masks_of_one_size_are_decoded_together(height: int, width: int, count: int, seed: int) -> None:
    values = np.random.default_rng(seed).integers(0, 256, (count, height, width), dtype=np.uint8)
    encoded = [np.frombuffer(encode_unfiltered(each), np.uint8) for each in values]
    out = np.zeros_like(values)
    assert decode_masks(encoded, out)
    assert np.array_equal(out, values)
    assert not decode_masks(encoded, np.zeros((count, height + 1, width), np.uint8))


@settings(max_examples=200)
@given(seed=st.integers(0, 10**6), data=st.data())
def test_decoding_together_is_correct_or_declined(seed: int, data: st.DataObject) -> None:
    """One of three is corrupted: all are as each alone, or the fast path declines."""
    values = np.random.default_rng(seed).integers(1, 4, (3, 9, 7), dtype=np.uint8)
    encoded = [bytearray(encode_unfiltered(each)) for each in values]
    corrupted = encoded[data.draw(st.integers(0, 2))]
    for _ in range(data.draw(st.integers(0, 3))):
        corrupted[data.draw(st.integers(0, len(corrupted) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    del corrupted[data.draw(st.integers(0, len(corrupted))) :]
    arrays = [np.frombuffer(bytes(each), np.uint8) for each in encoded]
    out = np.zeros_like(values)
    if decode_masks(arrays, out):
        for array, found in zip(arrays, out, strict=True):
            assert np.array_equal(decode_mask(array, 9, 7), found)


def test_a_filtered_mask_among_unfiltered_ones_is_declined() -> None:
    ramp = np.arange(64 * 64, dtype=np.uint8).reshape(64, 64)
    encoded = [np.frombuffer(data, np.uint8) for data in (encode_unfiltered(ramp), pillow_png(ramp))]
    assert not decode_masks(encoded, np.zeros((2, 64, 64), np.uint8))


def test_a_bomb_is_not_inflated() -> None:
    """A header that claims 30,000 x 30,000 pixels over a few bytes of data."""
    body = zlib.compress(b"\0" * 1000)
    head = bytearray(encode_unfiltered(np.ones((2, 2), np.uint8))[:33])
    head[16:24] = (30_000).to_bytes(4, "big") * 2
    data = np.frombuffer(bytes(head) + len(body).to_bytes(4, "big") + b"IDAT" + body, np.uint8)
    assert decode_unfiltered(data) is None
    for decode in (decode_mask, decode_png_image):
        assert decode(data, 2, 2) == "30000 x 30000 pixels, the table says 2 x 2"


@given(height=st.integers(1, 40), width=st.integers(1, 40), grey=st.booleans(), seed=st.integers(0, 99))
def test_images_are_decoded_exactly(height: int, width: int, grey: bool, seed: int) -> None:
    shape = (height, width) if grey else (height, width, 3)
    pixels = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    found = decode_png_image(np.frombuffer(pillow_png(pixels), np.uint8), height, width)
    assert isinstance(found, np.ndarray)
    assert np.array_equal(found, np.repeat(pixels[:, :, None], 3, axis=2) if grey else pixels)


def test_an_orientation_does_not_turn_an_image_away_from_its_mask() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x112] = 6
    data = np.frombuffer(pillow_png(pixels, exif=exif), np.uint8)
    assert np.array_equal(decode_png_image(data, 4, 6), pixels)


def test_pngs_of_another_kind_are_refused() -> None:
    ramp = np.arange(12, dtype=np.uint8).reshape(3, 4)
    colour, deep = np.repeat(ramp[:, :, None], 3, axis=2), ramp.astype(np.uint16) * 257
    transparent = np.repeat(ramp[:, :, None], 4, axis=2)
    for decode, wrong in ((decode_mask, (colour, deep, transparent)), (decode_png_image, (deep, transparent))):
        for values in wrong:
            found = decode(np.frombuffer(pillow_png(values), np.uint8), 3, 4)
            assert isinstance(found, str)
            assert "colour type" in found
        assert "no PNG" in str(decode(np.zeros(100, np.uint8), 3, 4))
        assert "too short" in str(decode(np.zeros(20, np.uint8), 3, 4))


@settings(max_examples=100)
@given(seed=st.integers(0, 10**6), data=st.data())
def test_no_bytes_make_the_image_decoder_raise(seed: int, data: st.DataObject) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    found = decode_png_image(harmed(pillow_png(pixels), data), 9, 7)
    assert isinstance(found, (str, np.ndarray))


@pytest.mark.parametrize("part", [0.3, 0.7, 0.99])
def test_truncated_images_are_found(part: float) -> None:
    data = pillow_png(np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8))
    assert "cannot be decoded" in str(decode_png_image(np.frombuffer(data[: int(len(data) * part)], np.uint8), 40, 30))


def test_a_mask_that_inflates_to_more_than_its_size_takes_no_memory_for_that() -> None:
    deflate = zlib.compressobj(9)
    many = b"".join([*(deflate.compress(bytes(1 << 20)) for _ in range(256)), deflate.flush()])
    assert len(many) < 1 << 19
    tracemalloc.start()
    assert inflate_unfiltered(memoryview(many), 300 * 301) is None
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()
    rows = zlib.compress(bytes(300 * 301))
    assert inflate_unfiltered(memoryview(rows), 300 * 301) is not None
    assert inflate_unfiltered(memoryview(rows[:-1]), 300 * 301) is None, "the checksum is missing"
