"""Masks of every kind that people have: the values that are meant, exactly."""

from __future__ import annotations

import io
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from odd_files import frames, grey_png, interlaced_png, palette, tiff, with_chunk
from PIL import Image
from shard_sources import encoded

from shards.audit.findings import Finding, RejectedError
from shards.audit.mask import audit_mask, decode_mask, map_colours, map_values, value_counts
from shards.format.builtin_labels import BUILTIN
from shards.format.labels import UNTINTED, LabelClass, Labels, chosen_colour

RNG = np.random.default_rng(3)
INDICES = RNG.integers(0, 20, (31, 47), dtype=np.uint8)
FEW = INDICES % 4
TWO = INDICES % 2
ANY = Labels(classes=tuple(LabelClass(name=str(n), values=(n,), color=UNTINTED) for n in range(20)), ignore=(255,))
COLOURS = Labels(
    classes=tuple(
        LabelClass(name=str(n), color=chosen_colour(n), source_colors=(chosen_colour(n),)) for n in range(20)
    ),
    ignore_colors=("#000000",),
)


def bilevel(values: np.ndarray, format_: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(values.astype(bool)).save(buffer, format_)
    return buffer.getvalue()


KINDS: dict[str, tuple[bytes, np.ndarray]] = {
    "grey PNG": (encoded(INDICES, "PNG"), INDICES),
    "palette PNG": (palette(INDICES), INDICES),
    "palette PNG with transparency": (with_chunk(palette(FEW), b"tRNS", b"\0\xff"), FEW),
    "grey PNG with a transparent value": (with_chunk(encoded(INDICES, "PNG"), b"tRNS", b"\0\1"), INDICES),
    "grey PNG with gamma": (with_chunk(encoded(INDICES, "PNG"), b"gAMA", b"\0\0\xb1\x8f"), INDICES),
    "interlaced PNG": (interlaced_png(INDICES), INDICES),
    "1-bit PNG": (grey_png(TWO, 1), TWO),
    "2-bit PNG": (grey_png(FEW, 2), FEW),
    "4-bit PNG": (grey_png(INDICES % 16, 4), INDICES % 16),
    "16-bit PNG": (grey_png(INDICES.astype(np.uint16), 16), INDICES),
    "BMP": (encoded(INDICES, "BMP"), INDICES),
    "palette BMP": (palette(INDICES, "BMP"), INDICES),
    "1-bit BMP": (bilevel(TWO, "BMP"), TWO),
    "TIFF": (encoded(INDICES, "TIFF", compression="tiff_lzw"), INDICES),
    "1-bit TIFF": (bilevel(TWO, "TIFF"), TWO),
    "16-bit TIFF": (tiff(INDICES.astype("<u2"), bits=16, samples=1), INDICES),
    "palette TIFF": (palette(INDICES, "TIFF"), INDICES),
    "GIF": (encoded(INDICES, "GIF"), INDICES),
    "palette GIF": (palette(INDICES, "GIF"), INDICES),
    "PGM": (encoded(INDICES, "PPM"), INDICES),
    "RGB of equal channels": (encoded(np.dstack([INDICES] * 3), "PNG"), INDICES),
    "RGBA of equal channels": (encoded(np.dstack([INDICES] * 3 + [np.full_like(INDICES, 255)]), "PNG"), INDICES),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_values_that_are_stored_count(kind: str) -> None:
    data, expected = KINDS[kind]
    audited = audit_mask(data, labels=ANY)
    assert audited.indices.dtype == np.uint8
    assert np.array_equal(audited.indices, expected)
    assert audited.counts.tolist() == np.bincount(expected.reshape(-1), minlength=256).tolist()
    assert audited.findings == ([Finding("repaired", "mask-equal-channels")] if kind.startswith("RGB") else [])


@pytest.mark.parametrize("value", [1, 255])
def test_binary_masks_of_either_kind(value: int) -> None:
    audited = audit_mask(encoded(TWO * np.uint8(value), "PNG"), labels=BUILTIN["binary"])
    assert np.array_equal(audited.indices, TWO)


REJECTED: dict[str, tuple[bytes, str, str]] = {
    "16-bit values above 255": (grey_png(INDICES.astype(np.uint16) + 300, 16), "mask-depth", "from 0 to 255"),
    "floating-point": (tiff(INDICES.astype("<f4"), bits=32, samples=1, kind=3), "mask-depth", "floating-point"),
    "16-bit RGB": (
        tiff(np.dstack([INDICES] * 3).astype("<u2"), bits=16, samples=3, photometric=2),
        "mask-depth",
        "16 bits",
    ),
    "two pages": (frames("TIFF", INDICES), "mask-channels", "2 images"),
    "PGM of other values": (b"P5 3 1 20\n\1\2\3", "mask-depth", "values from 0 to 20"),
    "transparent": (encoded(np.dstack([INDICES] * 4), "PNG"), "mask-channels", "transparent"),
}


@pytest.mark.parametrize("case", REJECTED)
def test_what_is_in_doubt_is_rejected(case: str) -> None:
    data, reason, detail = REJECTED[case]
    with pytest.raises(RejectedError) as caught:
        audit_mask(data, labels=ANY)
    assert caught.value.reason == reason
    assert detail in caught.value.detail


def test_a_mask_of_nothing_but_ignored_pixels_is_a_warning() -> None:
    audited = audit_mask(encoded(np.full((3, 4), 255, np.uint8), "PNG"), labels=ANY)
    assert [(found.action, found.reason) for found in audited.findings] == [("warning", "mask-ignored")]


COLOUR_INDICES = np.where(INDICES == 7, 255, INDICES)
COLOUR_PIXELS = np.vstack([COLOURS.source_palette, np.zeros((236, 3), np.uint8)])[COLOUR_INDICES]


@pytest.mark.parametrize("format_", ["PNG", "BMP", "TIFF", "palette PNG", "palette GIF", "RGBA"])
def test_colours(format_: str) -> None:
    if format_.startswith("palette"):
        image = Image.frombytes("P", INDICES.shape[::-1], COLOUR_INDICES.tobytes())
        image.putpalette(np.vstack([COLOURS.source_palette, np.zeros((236, 3), np.uint8)]).tobytes())
        buffer = io.BytesIO()
        image.save(buffer, format_.split()[1])
        data = buffer.getvalue()
    elif format_ == "RGBA":
        data = encoded(np.dstack([COLOUR_PIXELS, np.full_like(INDICES, 255)]), "PNG")
    else:
        data = encoded(COLOUR_PIXELS, format_)
    audited = audit_mask(data, labels=COLOURS)
    assert np.array_equal(audited.indices, COLOUR_INDICES)
    assert audited.counts.tolist() == np.bincount(COLOUR_INDICES.reshape(-1), minlength=256).tolist()


def test_millions_of_unclaimed_colours_take_little_memory() -> None:
    """A mask may hold 16 million colours in a small file; as Python's objects they took 4 GB."""
    colours = np.arange(1 << 21, dtype=np.uint32).reshape(1024, 2048) * 7
    values = np.stack([colours >> shift & 255 for shift in (16, 8, 0)], axis=2).astype(np.uint8)
    tracemalloc.start()
    with pytest.raises(RejectedError, match="colours that no class claims") as caught:
        map_colours(values, COLOURS)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(caught.value.unclaimed) == 32
    assert peak < 1 << 28


def test_unclaimed_colours_are_counted_across_strips() -> None:
    """Large masks are looked up some rows at a time."""
    values = np.zeros((3000, 1000, 3), np.uint8)
    values[::500, :7] = (1, 2, 3)
    values[2999, 999] = (250, 251, 252)
    with pytest.raises(RejectedError) as caught:
        map_colours(values, COLOURS)
    assert caught.value.unclaimed == {"#010203": 42, "#fafbfc": 1}
    assert caught.value.detail == "colours that no class claims: #010203 (42 pixels), #fafbfc (1 pixel)"


@given(
    st.integers(1, 40),
    st.integers(1, 40),
    st.lists(st.integers(0, 255), min_size=1, max_size=256),
    st.integers(1, 12),
    st.integers(0, 999),
)
def test_counting_and_mapping_are_exact(height: int, width: int, values: list[int], run: int, seed: int) -> None:
    """Runs of any length, from noise to one value; labels that shift values, or map them anywhere."""
    rng = np.random.default_rng(seed)
    mask = np.repeat(rng.choice(np.array(values, np.uint8), (height, width)), run, axis=1)
    assert value_counts(mask).tolist() == np.bincount(mask.reshape(-1), minlength=256).tolist()
    present = sorted(set(values))[:255]
    order = list(rng.permutation(present)) if seed % 2 else present
    labels = Labels(classes=tuple(LabelClass(name=str(v), color=UNTINTED, values=(int(v),)) for v in order))
    unclaimed = set(np.unique(mask).tolist()) - set(present)
    if unclaimed:
        with pytest.raises(RejectedError, match=f"values that no class claims: {unclaimed.pop()} "):
            map_values(mask, labels)
        return
    indices, counts = map_values(mask, labels)
    assert np.array_equal(np.array(order, np.uint8)[indices], mask)
    assert counts.tolist() == np.bincount(indices.reshape(-1), minlength=256).tolist()


def test_counting_large_masks() -> None:
    mask = RNG.integers(0, 256, (1500, 1001), dtype=np.uint8)
    assert value_counts(mask).tolist() == np.bincount(mask.reshape(-1), minlength=256).tolist()


def test_grey_masks_are_decoded_as_they_are_for_colours() -> None:
    values, findings = decode_mask(encoded(INDICES, "PNG"), colours=True)
    assert np.array_equal(values, INDICES)
    assert not findings
