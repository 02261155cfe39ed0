"""Randomly damaged files: rejected, or what passes decodes strictly."""

from __future__ import annotations

import io
import random
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
import simplejpeg
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from shard_sources import draw_image, draw_mask, encoded

from shards.audit import jpeg_headers as jpeg
from shards.audit import png_chunks as png
from shards.audit.findings import MAX_PIXELS, RejectedError
from shards.audit.image_mask_pair import audit_pair

JPEG, PNG = encoded(draw_image(1), "JPEG", quality=90), encoded(draw_mask(1), "PNG")
SMALL_JPEG, SMALL_PNG = (
    encoded(make(1, width=10, height=8), kind) for make, kind in ((draw_image, "JPEG"), (draw_mask, "PNG"))
)


def test_every_flipped_bit_of_a_mask_is_found() -> None:
    audit_pair(SMALL_JPEG, SMALL_PNG, storage="source")
    for at in range(len(SMALL_PNG)):
        for bit in range(8):
            flipped = bytearray(SMALL_PNG)
            flipped[at] ^= 1 << bit
            with pytest.raises(RejectedError):
                audit_pair(SMALL_JPEG, bytes(flipped), storage="source")


@settings(max_examples=150)
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
    assert pair.image.jpeg is not None
    assert jpeg.read_header(pair.image.jpeg).common
    assert simplejpeg.decode_jpeg(pair.image.jpeg, strict=True).shape[:2] == pair.mask.size[::-1]
    values = np.asarray(Image.open(io.BytesIO(pair.mask.png)))
    assert set(np.unique(values)) <= {1, 2, 3}
    audit_again = audit_pair(pair.image.jpeg, pair.mask.png, storage="source")
    assert not [finding for finding in audit_again.findings if finding.action == "mended"]


@settings(max_examples=100)
@given(
    st.binary(max_size=300), st.sampled_from([b"", jpeg.SIGNATURE, png.SIGNATURE, b"GIF89a", b"RIFF", b"BM", b"II*\0"])
)
def test_garbage_is_only_ever_rejected(tail: bytes, head: bytes) -> None:
    for image, mask in ((head + tail, PNG), (JPEG, head + tail)):
        with pytest.raises(RejectedError):
            audit_pair(image, mask, storage="source")


@pytest.mark.parametrize("error", [MemoryError(), ImportError("no plugin"), PermissionError(13, "denied")])
def test_the_machines_fault_is_not_the_images(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(Image, "open", fail)
    with pytest.raises(type(error)):
        audit_pair(encoded(draw_image(1), "BMP"), PNG, storage="source")


def test_pillows_own_limit_is_above_ours() -> None:
    assert (Image.MAX_IMAGE_PIXELS or 0) > MAX_PIXELS


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
