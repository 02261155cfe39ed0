"""Masks from PNG: the fast path gives what a PNG library does, or declines."""

from __future__ import annotations

import io
import zlib

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline.cpu.mask_png import decode_mask, decode_masks, decode_unfiltered
from shards.audit.png_chunks import encode_unfiltered


def pillow_png(values: np.ndarray, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, "PNG", **options)  # type: ignore[arg-type]
    return buffer.getvalue()


@given(height=st.integers(1, 40), width=st.integers(1, 40), seed=st.integers(0, 99))
def test_masks_are_decoded_by_the_fast_path_and_by_the_library(height: int, width: int, seed: int) -> None:
    values = np.random.default_rng(seed).integers(0, 256, (height, width), dtype=np.uint8)
    plain = encode_unfiltered(values, level=6)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(plain))), values)
    fast = decode_unfiltered(np.frombuffer(plain, np.uint8))
    assert fast is not None
    assert np.array_equal(fast, values)
    for data in (plain, pillow_png(values)):
        assert np.array_equal(decode_mask(np.frombuffer(data, np.uint8)), values)


def test_other_pngs_do_not_take_the_fast_path() -> None:
    ramp = np.arange(64 * 64, dtype=np.uint8).reshape(64, 64)
    large = np.tile(ramp, (6, 6))
    for values in (ramp, large):
        data = pillow_png(values)  # Pillow chooses filters that suit a ramp
        assert decode_unfiltered(np.frombuffer(data, np.uint8)) is None
        assert np.array_equal(decode_mask(np.frombuffer(data, np.uint8)), values)


@settings(max_examples=300)
@given(seed=st.integers(0, 10**6), data=st.data())
def test_no_bytes_make_the_mask_decoder_raise(seed: int, data: st.DataObject) -> None:
    """Corrupted and truncated PNGs give pixels or a reason, never an exception."""
    values = np.random.default_rng(seed).integers(1, 4, (9, 7), dtype=np.uint8)
    png = bytearray(encode_unfiltered(values, level=6))
    for _ in range(data.draw(st.integers(0, 4))):
        png[data.draw(st.integers(0, len(png) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    cut = data.draw(st.integers(0, len(png)))
    result = decode_mask(np.frombuffer(bytes(png[:cut]), np.uint8))
    assert isinstance(result, (str, np.ndarray))


@given(height=st.integers(1, 20), width=st.integers(1, 20), count=st.integers(1, 6), seed=st.integers(0, 99))
def test_masks_of_one_size_are_decoded_together(height: int, width: int, count: int, seed: int) -> None:
    values = np.random.default_rng(seed).integers(0, 256, (count, height, width), dtype=np.uint8)
    encoded = [np.frombuffer(encode_unfiltered(each, level=6), np.uint8) for each in values]
    out = np.zeros_like(values)
    assert decode_masks(encoded, out)
    assert np.array_equal(out, values)
    assert not decode_masks(encoded, np.zeros((count, height + 1, width), np.uint8))


@settings(max_examples=200)
@given(seed=st.integers(0, 10**6), data=st.data())
def test_decoding_together_is_correct_or_declined(seed: int, data: st.DataObject) -> None:
    """One of three is corrupted: all are as each alone, or the fast path declines."""
    values = np.random.default_rng(seed).integers(1, 4, (3, 9, 7), dtype=np.uint8)
    encoded = [bytearray(encode_unfiltered(each, level=6)) for each in values]
    corrupted = encoded[data.draw(st.integers(0, 2))]
    for _ in range(data.draw(st.integers(0, 3))):
        corrupted[data.draw(st.integers(0, len(corrupted) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    del corrupted[data.draw(st.integers(0, len(corrupted))) :]
    arrays = [np.frombuffer(bytes(each), np.uint8) for each in encoded]
    out = np.zeros_like(values)
    if decode_masks(arrays, out):
        for array, found in zip(arrays, out, strict=True):
            assert np.array_equal(decode_mask(array), found)


def test_a_filtered_mask_among_unfiltered_ones_is_declined() -> None:
    ramp = np.arange(64 * 64, dtype=np.uint8).reshape(64, 64)
    encoded = [np.frombuffer(data, np.uint8) for data in (encode_unfiltered(ramp, level=6), pillow_png(ramp))]
    assert not decode_masks(encoded, np.zeros((2, 64, 64), np.uint8))


def test_a_bomb_is_not_inflated() -> None:
    """A header that claims 30,000 x 30,000 pixels over a few bytes of data."""
    body = zlib.compress(b"\0" * 1000)
    head = bytearray(encode_unfiltered(np.ones((2, 2), np.uint8), level=6)[:33])
    head[16:24] = (30_000).to_bytes(4, "big") * 2
    data = bytes(head) + len(body).to_bytes(4, "big") + b"IDAT" + body
    assert decode_unfiltered(np.frombuffer(data, np.uint8)) is None
