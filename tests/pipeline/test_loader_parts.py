"""Small parts of the loader: threads, memory, trimaps from PNG, resizing on the host."""

from __future__ import annotations

import gc
import io
import threading
import time
import zlib
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline.cpu import pixel_ops as host
from pipeline.cpu.mask_png import decode_alike, decode_trimap, unfiltered
from pipeline.runtime.buffers import BufferPool, Scratch
from pipeline.runtime.threads import ReadAhead, Workers
from shards.audit.png_chunks import encode_unfiltered
from shards.errors import PetsegError


def test_workers_do_every_part_once_and_raise_what_was_raised() -> None:
    done: list[int] = []

    def fail(part: int) -> None:
        if part == 7:
            raise ValueError(part)
        done.append(part)

    for count in (1, 2, 5):
        workers = Workers(count, name="test")
        workers.run(done.append, range(100))
        assert sorted(done) == list(range(100))
        done.clear()
        with pytest.raises(ValueError, match="7"):
            workers.run(fail, range(20))
        assert len(done) == 19
        done.clear()
        workers.stop()


def test_workers_work_at_the_same_time() -> None:
    meeting = threading.Barrier(3, timeout=10)
    workers = Workers(3, name="test")
    workers.run(lambda _: meeting.wait(), range(3))  # passes only if three threads are in it at once
    workers.stop()


def test_a_worker_that_is_gone_is_told_within_seconds() -> None:
    workers = Workers(2, name="test")
    workers._jobs.put(None)  # ends the only helper behind our back
    workers._threads[0].join(5)
    start = time.monotonic()
    with pytest.raises(
        PetsegError, match=r"worker of the loader is gone \(test-0\).*[Mm]ake the loader in the process"
    ):
        workers.run(lambda _: None, range(4))
    assert time.monotonic() - start < 5
    workers.stop()


def test_a_reader_that_is_gone_is_told_within_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it had made before is still handed out."""

    def make_one(self: ReadAhead[int, int]) -> None:
        self._results.put((0, (0, None)))

    monkeypatch.setattr(ReadAhead, "_run", make_one)
    ahead: ReadAhead[int, int] = ReadAhead(lambda number: number, iter(range(10)), depth=3, name="test")
    start = time.monotonic()
    assert ahead.take(60) == 0
    with pytest.raises(PetsegError, match=r"worker of the loader is gone \(test\)"):
        ahead.take(60)
    assert time.monotonic() - start < 5
    ahead.stop()


def test_reading_ahead_is_bounded_and_in_order() -> None:
    made: list[int] = []

    def make(number: int) -> int:
        made.append(number)
        return number * number

    ahead = ReadAhead(make, iter(range(10)), depth=3, name="test")
    time.sleep(0.2)
    assert made == [0, 1, 2]
    assert ahead.take(5) == 0
    time.sleep(0.2)
    assert made == [0, 1, 2, 3]
    assert [ahead.take(5) for _ in range(9)] == [n * n for n in range(1, 10)]
    ahead.stop()


@pytest.mark.parametrize("threads", [2, 5])
def test_several_threads_make_and_the_order_stays(threads: int) -> None:
    together = threading.Barrier(2, timeout=10)
    going = [0]

    def make(number: int) -> int:
        if number < 2:
            together.wait()  # passes only if two are made at once
        going[0] += 1
        time.sleep(0.02 if number % 3 == 0 else 0)
        going[0] -= 1
        return number

    ahead = ReadAhead(make, iter(range(40)), depth=4, threads=threads, name="test")
    assert [ahead.take(5) for _ in range(40)] == list(range(40))
    ahead.stop()
    assert going == [0]


def test_several_threads_are_bounded_together() -> None:
    begun: list[int] = []
    ahead = ReadAhead(begun.append, iter(range(100)), depth=3, threads=5, name="test")
    for taken in range(4):
        time.sleep(0.1)
        assert sorted(begun) == list(range(3 + taken))
        ahead.take(5)
    assert ahead.take_ready() is None
    ahead.stop()


def test_what_came_before_a_failure_is_handed_out() -> None:
    """Job 3 fails at once, job 2 takes longer: 2 is handed out, then the failure; nothing new is begun."""
    begun: list[int] = []

    def make(number: int) -> int:
        begun.append(number)
        if number == 3:
            raise KeyError("three")
        time.sleep(0.1)
        return number

    ahead = ReadAhead(make, iter(range(100)), depth=8, threads=3, name="test")
    assert [ahead.take(5) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(KeyError, match="three"):
        ahead.take(5)
    ahead.stop()
    assert max(begun) < 7


def test_jobs_that_cannot_be_told_fail_in_their_turn() -> None:
    def jobs() -> Iterator[int]:
        yield from range(3)
        raise OSError("no table")

    ahead = ReadAhead(lambda number: number, jobs(), depth=9, threads=2, name="test")
    assert [ahead.take(5) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(OSError, match="no table"):
        ahead.take(5)
    ahead.stop()


def test_threads_end_with_a_pool_that_is_dropped() -> None:
    before = set(threading.enumerate())
    workers = Workers(3, name="dropped")
    workers.run(lambda _: None, range(5))
    del workers
    gc.collect()
    for thread in set(threading.enumerate()) - before:
        thread.join(5)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("dropped")]


def test_waiting_for_what_is_not_made_in_time_ends() -> None:
    release = threading.Event()
    ahead = ReadAhead(lambda _: release.wait(30), iter(range(2)), depth=1, name="test")
    start = time.monotonic()
    with pytest.raises(TimeoutError):
        ahead.take(0.05)
    with pytest.raises(TimeoutError):
        ahead.take(1.3)
    assert 1.3 < time.monotonic() - start < 5
    release.set()
    ahead.stop()


def test_reading_ahead_raises_where_it_failed() -> None:
    def make(number: int) -> int:
        if number == 2:
            raise KeyError("two")
        return number

    ahead = ReadAhead(make, iter(range(10)), depth=5, name="test")
    assert [ahead.take(5), ahead.take(5)] == [0, 1]
    with pytest.raises(KeyError, match="two"):
        ahead.take(5)
    ahead.stop()


def test_memory_comes_back_only_when_no_tensor_shares_it() -> None:
    pool = BufferPool((4, 4), spare=2)
    array = pool.take()
    address = array.ctypes.data
    tensor = torch.from_numpy(array)
    views = [tensor.permute(1, 0), tensor[1:], tensor.view(-1), tensor.numpy()]
    del array, tensor
    for _ in range(len(views)):
        views.pop(0)
        gc.collect()
        again = [pool.take() for _ in range(3)]
        if views:
            assert address not in [each.ctypes.data for each in again]
        del again
    assert address in [each.ctypes.data for each in [pool.take(), pool.take(), pool.take()]]


def test_scratch_memory_is_a_threads_own() -> None:
    scratch = Scratch()
    mine = scratch.take("a", (10,))
    theirs: list[int] = []
    thread = threading.Thread(target=lambda: theirs.append(scratch.take("a", (10,)).ctypes.data))
    thread.start()
    thread.join()
    assert scratch.take("a", (5, 2)).ctypes.data == mine.ctypes.data
    assert theirs[0] != mine.ctypes.data


def pillow_png(values: np.ndarray, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, "PNG", **options)  # type: ignore[arg-type]
    return buffer.getvalue()


@given(height=st.integers(1, 40), width=st.integers(1, 40), seed=st.integers(0, 99))
def test_trimaps_are_read_the_short_way_and_the_long_way(height: int, width: int, seed: int) -> None:
    values = np.random.default_rng(seed).integers(0, 256, (height, width), dtype=np.uint8)
    plain = encode_unfiltered(values, level=6)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(plain))), values)
    short = unfiltered(np.frombuffer(plain, np.uint8))
    assert short is not None
    assert np.array_equal(short, values)
    for data in (plain, pillow_png(values)):
        assert np.array_equal(decode_trimap(np.frombuffer(data, np.uint8)), values)


def test_other_pngs_do_not_take_the_short_way() -> None:
    ramp = np.arange(64 * 64, dtype=np.uint8).reshape(64, 64)
    large = np.tile(ramp, (6, 6))
    for values in (ramp, large):
        data = pillow_png(values)  # Pillow chooses filters that suit a ramp
        assert unfiltered(np.frombuffer(data, np.uint8)) is None
        assert np.array_equal(decode_trimap(np.frombuffer(data, np.uint8)), values)


@settings(max_examples=300)
@given(seed=st.integers(0, 10**6), data=st.data())
def test_no_bytes_make_the_trimap_decoder_fail(seed: int, data: st.DataObject) -> None:
    """Flipped and cut PNGs give pixels or a reason, never an exception; whatever fits in size is an array."""
    values = np.random.default_rng(seed).integers(1, 4, (9, 7), dtype=np.uint8)
    png = bytearray(encode_unfiltered(values, level=6))
    for _ in range(data.draw(st.integers(0, 4))):
        png[data.draw(st.integers(0, len(png) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    cut = data.draw(st.integers(0, len(png)))
    result = decode_trimap(np.frombuffer(bytes(png[:cut]), np.uint8))
    assert isinstance(result, (str, np.ndarray))


@given(height=st.integers(1, 20), width=st.integers(1, 20), count=st.integers(1, 6), seed=st.integers(0, 99))
def test_trimaps_of_one_size_are_read_together(height: int, width: int, count: int, seed: int) -> None:
    values = np.random.default_rng(seed).integers(0, 256, (count, height, width), dtype=np.uint8)
    encoded = [np.frombuffer(encode_unfiltered(each, level=6), np.uint8) for each in values]
    out = np.zeros_like(values)
    assert decode_alike(encoded, out)
    assert np.array_equal(out, values)
    assert not decode_alike(encoded, np.zeros((count, height + 1, width), np.uint8))


@settings(max_examples=200)
@given(seed=st.integers(0, 10**6), data=st.data())
def test_together_they_are_right_or_not_taken(seed: int, data: st.DataObject) -> None:
    """One of three flipped or cut: all are as each alone, or the short way says no."""
    values = np.random.default_rng(seed).integers(1, 4, (3, 9, 7), dtype=np.uint8)
    encoded = [bytearray(encode_unfiltered(each, level=6)) for each in values]
    harmed = encoded[data.draw(st.integers(0, 2))]
    for _ in range(data.draw(st.integers(0, 3))):
        harmed[data.draw(st.integers(0, len(harmed) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    del harmed[data.draw(st.integers(0, len(harmed))) :]
    arrays = [np.frombuffer(bytes(each), np.uint8) for each in encoded]
    out = np.zeros_like(values)
    if decode_alike(arrays, out):
        for array, found in zip(arrays, out, strict=True):
            assert np.array_equal(decode_trimap(array), found)


def test_a_filtered_trimap_among_plain_ones_is_not_taken() -> None:
    ramp = np.arange(64 * 64, dtype=np.uint8).reshape(64, 64)
    encoded = [np.frombuffer(data, np.uint8) for data in (encode_unfiltered(ramp, level=6), pillow_png(ramp))]
    assert not decode_alike(encoded, np.zeros((2, 64, 64), np.uint8))


def test_a_bomb_is_not_inflated() -> None:
    """A header that claims 30,000 x 30,000 pixels over a few bytes of data."""
    body = zlib.compress(b"\0" * 1000)
    head = bytearray(encode_unfiltered(np.ones((2, 2), np.uint8), level=6)[:33])
    head[16:24] = (30_000).to_bytes(4, "big") * 2
    data = bytes(head) + len(body).to_bytes(4, "big") + b"IDAT" + body
    assert unfiltered(np.frombuffer(data, np.uint8)) is None


def triangle_weights(length: int, size: int) -> np.ndarray:
    """The filter by its definition: (S, L) weights, a triangle of half-width max(1, L / S), normalised; float64."""
    scale = length / size
    centres = (np.arange(size) + 0.5) * scale
    weights = np.clip(1 - np.abs((np.arange(length) + 0.5)[None] - centres[:, None]) / max(scale, 1), 0, None)
    return weights / weights.sum(axis=1, keepdims=True)


@pytest.mark.parametrize(
    "shape", [(375, 500), (500, 333), (128, 128), (90, 70), (128, 90), (300, 60), (1, 1), (2, 700), (129, 127)]
)
@pytest.mark.parametrize("flip", [False, True])
def test_pictures_are_resized_as_the_filter_is_defined(shape: tuple[int, int], flip: bool) -> None:
    random = np.random.default_rng(0)
    region = random.integers(0, 256, (*shape, 3), dtype=np.uint8)
    pixels = random.integers(0, 256, (shape[0] + 5, shape[1] + 9, 3), dtype=np.uint8)
    pixels[3 : 3 + shape[0], 4 : 4 + shape[1]] = region
    out = np.empty((128, 128, 3), np.uint8)
    host.fit_picture(pixels, (3, 4, *shape), flip=flip, colour=None, out=out)
    rows, columns = triangle_weights(shape[0], 128), triangle_weights(shape[1], 128)
    exact = np.einsum("ih,hwc,jw->ijc", rows, region.astype(float), columns, optimize=True)
    difference = np.abs(out.astype(float) - (exact[:, ::-1] if flip else exact))
    assert difference.max() <= 1.6, difference.max()  # half a level, and what rounding between the passes adds
    assert difference.mean() <= 0.35


@given(
    height=st.integers(1, 400),
    width=st.integers(1, 400),
    size=st.integers(1, 200),
    flip=st.booleans(),
    seed=st.integers(0, 9),
)
@settings(max_examples=150, deadline=None)
def test_trimaps_take_exactly_the_pixel_under_the_centre(
    height: int, width: int, size: int, flip: bool, seed: int
) -> None:
    random = np.random.default_rng(seed)
    trimap = random.integers(1, 4, (height + 3, width + 2), dtype=np.uint8)
    out = np.empty((size, size), np.uint8)
    host.fit_trimap(trimap, (2, 1, height, width), flip=flip, out=out)
    rows = [2 + (2 * i + 1) * height // (2 * size) for i in range(size)]
    columns = [1 + (2 * i + 1) * width // (2 * size) for i in range(size)]
    wanted = trimap[np.ix_(rows, columns)]
    assert np.array_equal(out, wanted[:, ::-1] if flip else wanted)


def test_opencv_is_not_always_exact_and_that_is_noticed() -> None:
    known = [
        (length, size) for length in range(1, 1200) for size in (100, 128) if not host.opencv_is_exact(length, size)
    ]
    assert known  # else the long way in fit_trimap would be dead code
    length, size = known[0]
    trimap = np.random.default_rng(0).integers(1, 4, (length, length), dtype=np.uint8)
    out = np.empty((size, size), np.uint8)
    host.fit_trimap(trimap, (0, 0, length, length), flip=False, out=out)
    places = [(2 * i + 1) * length // (2 * size) for i in range(size)]
    assert np.array_equal(out, trimap[np.ix_(places, places)])


def test_illegal_values_are_found() -> None:
    trimaps = np.random.default_rng(0).integers(1, 4, (5, 8, 8), dtype=np.uint8)
    assert host.illegal_values(trimaps) == []
    trimaps[1, 2, 3], trimaps[4, 7, 7] = 0, 255
    assert host.illegal_values(trimaps) == [1, 4]
