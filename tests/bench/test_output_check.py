"""A loader that cheats or makes mistakes must not win: it fails the check, with the reason."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator

import bench_results
import numpy as np
import pytest
import torch

from bench.core.loader_subject import LoaderServer
from bench.core.machine import cpu_seconds
from bench.core.output_check import CheckError, Reference, check_epoch, collect_reference, judge, mask_classes
from bench.peers.peer import Delivered, Job
from bench.results.records import Repeat
from shards.format.labels import IGNORE

N, SIZE, BATCH, C = 50, 8, 16, 3


def job(**changes: object) -> Job:
    return bench_results.job("fake", classes=C, samples=N, size=(SIZE, SIZE), batch_size=BATCH, **changes)


def pixels(index: int) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(index)
    image = torch.from_numpy(rng.integers(0, 256, (3, SIZE, SIZE), dtype=np.uint8))
    classes = torch.from_numpy(rng.integers(0, C + 1, (SIZE, SIZE)))  # C: ignored, in no plane
    return image, torch.nn.functional.one_hot(classes, C + 1).permute(2, 0, 1)[:C].to(torch.uint8).contiguous()


def batches(indices: list[int]) -> Iterator[Delivered]:
    for start in range(0, len(indices), BATCH):
        chosen = indices[start : start + BATCH]
        image, mask = (torch.stack(tensors) for tensors in zip(*map(pixels, chosen), strict=True))
        yield Delivered(image, mask, np.array(chosen, dtype=np.int64))


@pytest.fixture(scope="module")
def reference() -> Reference:
    return collect_reference(batches(list(range(N))), job())


def check_and_judge(
    found: Iterator[Delivered], reference: Reference, *, image_differs: bool = False, mask: str = "onehot"
) -> None:
    check = check_epoch(found, job(mask=mask), reference)
    judge(check, image_differs=image_differs)


def test_a_complete_epoch_in_any_order_passes(reference: Reference) -> None:
    order = np.random.default_rng(3).permutation(N).tolist()
    check = check_epoch(batches(order), job(), reference)
    assert (check.delivered, check.missing, check.repeated, check.compared) == (N, 0, 0, N)
    assert check.image_difference == check.mask_difference == 0
    judge(check, image_differs=False)


@pytest.mark.parametrize(
    ("indices", "message"),
    [
        (list(range(N - 3)), "left out 3 and repeated 0"),  # drops the end, or returns early
        ([*range(N), 0, 1], "left out 0 and repeated 2"),  # pads without saying so
        ([*range(N - 1), 0], "left out 1 and repeated 1"),  # the right number of wrong samples
        ([], "left out 50"),
    ],
)
def test_dropping_repeating_and_stopping_early_fail(reference: Reference, indices: list[int], message: str) -> None:
    with pytest.raises(CheckError, match=message):
        check_and_judge(batches(indices), reference)


def one_class_more(mask: torch.Tensor) -> torch.Tensor:
    filled = mask.clone()
    filled[:, 0] |= (mask.sum(1) == 0).to(torch.uint8)
    return filled


def changed(change: Callable[[Delivered], Delivered]) -> Iterator[Delivered]:
    return (change(batch) for batch in batches(list(range(N))))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda b: Delivered(b.image.float(), b.mask, b.index), "image is float32"),
        (lambda b: Delivered(b.image, b.mask[:, 0], b.index), r"mask is uint8 \(\d+, 8, 8\)"),
        (lambda b: Delivered(b.image, b.mask * 0, b.index), "another class"),  # everything ignored
        (lambda b: Delivered(b.image, b.mask * 0 + 1, b.index), "not one-hot"),
        (lambda b: Delivered(b.image, b.mask * 255, b.index), "not one-hot"),
        (lambda b: Delivered(b.image, one_class_more(b.mask), b.index), "another class"),  # ignored pixels have one
        (lambda b: Delivered(b.image, b.mask, b.index + N), "of a split of 50"),
        (lambda b: Delivered(b.image.flip(0), b.mask.flip(0), b.index), "images differ"),  # the wrong names
        (lambda b: Delivered(b.image, b.mask.roll(1, 1), b.index), "another class"),
        (lambda b: Delivered(b.image // 2, b.mask, b.index), "images differ"),
    ],
)
def test_wrong_tensors_fail(reference: Reference, change: Callable[[Delivered], Delivered], message: str) -> None:
    with pytest.raises(CheckError, match=message):
        check_and_judge(changed(change), reference)


def as_classes(batch: Delivered) -> Delivered:
    ignored = batch.mask.sum(1) == 0
    return Delivered(batch.image, batch.mask.argmax(1).masked_fill(ignored, IGNORE).to(torch.uint8), batch.index)


@pytest.fixture(scope="module")
def class_reference() -> Reference:
    return collect_reference(changed(as_classes), job(mask="index"))


def test_class_indices_are_compared_as_classes(class_reference: Reference) -> None:
    assert class_reference.mask.shape == (N, SIZE, SIZE)
    check_and_judge(changed(as_classes), class_reference, mask="index")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda b: b,
            r"mask is uint8 \(\d+, 3, 8, 8\), expected uint8 \(\d+, 8, 8\)",
        ),  # one-hot
        (lambda b: Delivered(b.image, as_classes(b).mask.long(), b.index), "mask is int64"),
        (lambda b: Delivered(b.image, as_classes(b).mask + 1, b.index), "holds class 3"),  # trimap values as they are
        (lambda b: Delivered(b.image, as_classes(b).mask % 255, b.index), "another class"),  # ignored are class 0
        (
            lambda b: Delivered(b.image, as_classes(b).mask.clamp(max=C), b.index),
            "holds class 3",
        ),  # a class of their own
        (lambda b: Delivered(b.image, as_classes(b).mask.roll(1, 1), b.index), "another class"),
    ],
)
def test_wrong_class_indices_fail(
    class_reference: Reference, change: Callable[[Delivered], Delivered], message: str
) -> None:
    with pytest.raises(CheckError, match=message):
        check_and_judge(changed(change), class_reference, mask="index")


@pytest.mark.parametrize("classes", [1, 21, 150, 255])
def test_masks_of_both_forms_are_read_for_any_number_of_classes(classes: int) -> None:
    rng = np.random.default_rng(classes)
    indices = rng.integers(0, classes, (2, 5, 7), dtype=np.uint8)
    indices[rng.random(indices.shape) < 0.2] = IGNORE
    planes = np.stack([indices == each for each in range(classes)], axis=1).astype(np.uint8)
    assert np.array_equal(mask_classes(indices, classes), indices)
    assert np.array_equal(mask_classes(planes, classes), indices)


def test_class_indices_fail_where_one_hot_is_asked_for(reference: Reference) -> None:
    with pytest.raises(CheckError, match=r"mask is uint8 \(\d+, 8, 8\), expected uint8 \(\d+, 3, 8, 8\)"):
        check_and_judge(changed(as_classes), reference)


def test_a_small_difference_needs_to_be_declared(reference: Reference) -> None:
    def shifted(batch: Delivered) -> Delivered:
        return Delivered((batch.image.int() + 4).clamp(max=255).to(torch.uint8), batch.mask, batch.index)

    with pytest.raises(CheckError, match="declares no difference"):
        check_and_judge(changed(shifted), reference)
    check_and_judge(changed(shifted), reference, image_differs=True)


def test_padding_is_not_counted(reference: Reference) -> None:
    def padded() -> Iterator[Delivered]:
        *first, last = batches(list(range(N)))
        yield from first
        index = np.concatenate([last.index, [-1, -1]])
        yield Delivered(last.image[[0, 1, 0, 0]], last.mask[[0, 1, 0, 0]], index)

    check_and_judge(padded(), reference)


class FakePeer:
    """Delivers ``n`` samples an epoch, each batch after a while."""

    def __init__(self, n: int = N, seconds: float = 0.0) -> None:
        self.n, self.seconds = n, seconds

    def epoch(self, number: int) -> Iterator[Delivered]:
        for batch in batches(list(range(self.n))):
            time.sleep(self.seconds)
            yield batch


def timed(peer: FakePeer, work: Job, epochs: int) -> Repeat:
    server = LoaderServer(())
    server.use(peer, work)  # type: ignore[arg-type]
    return server.run(epochs)


def test_the_clock_refuses_an_epoch_of_another_length() -> None:
    for n in (N - 1, N + 1):
        with pytest.raises(CheckError, match=f"had {n} samples, expected {N}"):
            timed(FakePeer(n), job(), 1)


def test_the_clock_measures_what_was_slept() -> None:
    for _ in range(5):  # on a crowded machine a sleep may last too long
        repeat = timed(FakePeer(seconds=0.05), job(), 2)
        assert repeat.images == 2 * N
        assert repeat.seconds >= 0.4
        assert repeat.batch_ms[0] >= 50
        assert repeat.cpu_seconds < 0.5 * repeat.seconds + 0.1
        if repeat.seconds < 0.8 and repeat.batch_ms[0] < 100:
            return
    pytest.fail(f"much more than was slept: {repeat}")


def test_a_handicap_costs_what_it_says() -> None:
    shares = []
    for _ in range(5):  # on a crowded machine a sleep may last too long; a handicap that is not there never fits
        plain, slow = (timed(FakePeer(seconds=0.05), job(handicap=part), 2).rate for part in (0.0, 0.2))
        shares.append(slow / plain)
        if shares[-1] == pytest.approx(0.8, abs=0.06):
            return
    pytest.fail(f"0.8 was expected, measured were {shares}")


def test_processor_time_is_counted() -> None:
    before, start = cpu_seconds(os.getpid()), time.process_time()
    while time.process_time() - start < 0.3:
        sum(range(10_000))
    assert cpu_seconds(os.getpid()) - before == pytest.approx(0.3, abs=0.1)
