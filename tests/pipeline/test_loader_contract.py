"""What every loader promises, whatever engine and storage: one set of tests for all of them."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline import Augmentation, Batch, Loader
from pipeline.order.permutation import permutation
from shards.errors import UsageError
from shards.format.dataset import ShardSet

# Each decoder and each engine once. What does not depend on the engine is tested with one; starting worker processes
# takes time, so that tests that add nothing about them do without.
ENGINES = [("source", "torch"), ("raw", "torch"), ("jpeg", "dali")]
with_processes = pytest.mark.parametrize("make", [*ENGINES, ("jpeg", "processes")], indirect=True, ids="-".join)
# Likewise with 21 classes, ignored pixels and images that are no squares, cut and letterboxed.
MANY = [("source", "torch", "cover"), ("raw", "dali", "contain")]
with_many_classes = pytest.mark.parametrize(
    "make", [*ENGINES, ("jpeg", "processes"), *MANY], indirect=True, ids="-".join
)
with_one_engine = pytest.mark.parametrize("make", [("raw", "torch")], indirect=True, ids="-".join)


@pytest.fixture(params=ENGINES, ids="-".join)
def make(
    request: pytest.FixtureRequest, sets: dict[str, Path], many_class_sets: dict[str, Path], with_engine: Any
) -> Iterator[Any]:
    """Make loaders of 40 samples in batches of 12, by default; closed at the end."""
    storage, engine, *fit = request.param
    made: list[Loader] = []

    def loader(**options: Any) -> Loader:
        size = 96 if engine == "processes" else 40  # as stored: to shrink images, workers import torch
        defaults: dict[str, Any] = {"batch_size": 12, "size": size, "device": "cpu", "engine": engine, "seed": 5}
        if fit:
            defaults |= {"size": (40, 52), "fit": fit[0]}
        made.append(Loader((many_class_sets if fit else sets)[storage], **with_engine(defaults | options)))
        return made[-1]

    yield loader
    for one in made:
        one.close()


def digest(batch: Batch) -> tuple[Any, ...]:
    parts = (batch.image, batch.mask)
    return (
        batch.epoch,
        batch.number,
        tuple(batch.index.tolist()),
        tuple(batch.valid.tolist()),
        *(hashlib.sha256(part.contiguous().numpy().tobytes()).hexdigest() for part in parts),
    )


def digests(loader: Loader) -> list[tuple[Any, ...]]:
    return [digest(batch) for batch in loader]


@with_many_classes
def test_shapes_types_and_devices(make: Any, request: pytest.FixtureRequest) -> None:
    kind = request.node.callspec.id
    many = any(fit in kind for fit in ("cover", "contain"))
    side = 96 if "processes" in kind else 40
    height, width, classes = (40, 52, 21) if many else (side, side, 3)
    for mask, shape in (("onehot", (12, classes, height, width)), ("index", (12, height, width))):
        loader = make(mask=mask)
        assert loader.size == (height, width)
        assert len(loader.labels) == classes
        for batch in loader:
            assert batch.image.shape == (12, 3, height, width)
            assert batch.image.dtype == torch.uint8
            assert batch.image.is_contiguous(memory_format=torch.channels_last)
            assert batch.mask.shape == shape
            assert batch.mask.dtype == torch.uint8
            assert batch.mask.is_contiguous()
            assert batch.index.shape == (12,)
            assert batch.index.dtype == torch.int64
            assert batch.index.device.type == "cpu"
            assert batch.valid.shape == (12,)
            assert batch.valid.dtype == torch.bool
            assert batch.valid.device == batch.image.device
            assert len(batch) == 12


def test_an_epoch_is_a_permutation_and_the_last_batch_is_padded(make: Any) -> None:
    loader = make()
    assert len(loader) == 4
    assert loader.samples == 40
    for epoch in range(3):
        batches = list(loader)
        assert loader.epoch == epoch + 1
        assert [batch.number for batch in batches] == [0, 1, 2, 3]
        assert [int(batch.valid.sum()) for batch in batches] == [loader.valid_in_batch(b) for b in range(4)]
        valid = [int(i) for b in batches for i, counts in zip(b.index, b.valid, strict=True) if counts]
        assert valid == permutation(5, epoch, 40).tolist()


@with_one_engine
def test_evaluation_keeps_the_stored_order(make: Any) -> None:
    loader = make(shuffle=False)
    for _ in range(2):
        valid = [int(i) for b in loader for i, counts in zip(b.index, b.valid, strict=True) if counts]
        assert valid == list(range(40))


@with_many_classes
def test_nothing_depends_on_prefetch_or_threads(make: Any) -> None:
    runs = [
        digests(make(prefetch=prefetch, threads=threads, augment="train"))
        for prefetch, threads in ((1, 1), (2, 2), (7, 3))
    ]
    assert runs[0] == runs[1] == runs[2]


def test_seeds_and_epochs_differ(make: Any) -> None:
    loader = make(augment="train")
    first, second = digests(loader), digests(loader)
    assert [d[2:] for d in first] != [d[2:] for d in second]
    assert digests(make(augment="train")) == first
    assert digests(make(augment="train", seed=6)) != first


def test_augmentation_changes_from_epoch_to_epoch(make: Any) -> None:
    loader = make(augment="train", shuffle=False)
    (first, *_), (second, *_) = list(loader), list(loader)
    assert torch.equal(first.index, second.index)
    assert not torch.equal(first.image, second.image)


def test_an_interrupted_epoch_starts_again(make: Any) -> None:
    loader = make(augment="train")
    wanted = digests(loader)
    loader.set_epoch(0)
    for number, _ in enumerate(loader):
        if number == 2:
            break
    assert loader.epoch == 0
    assert digests(loader) == wanted
    assert loader.epoch == 1


@with_many_classes
@pytest.mark.parametrize("taken", [0, 1, 3, 4, 5, 8])
def test_resuming_is_exact(make: Any, taken: int, request: pytest.FixtureRequest) -> None:
    """Whatever was taken before the state was saved, the rest of three epochs is what it would have been."""
    kind = request.node.callspec.id
    few = any(part in kind for part in ("processes", "cover", "contain"))
    if "raw-torch" not in kind and taken not in ((5,) if few else (3, 5)):
        pytest.skip("what depends on where it stopped is the same code in every engine")
    options = {"augment": "train", "crop_scale": (0.5, 1.5) if taken % 2 else None}
    options |= {"shuffle": "block", "shuffle_window": 2} if taken in (3, 4) else {}
    whole = make(**options)
    wanted = [entry for _ in range(3) for entry in digests(whole)]
    stopped, got, state = make(**options, prefetch=3), [], None
    state = stopped.state_dict()
    while len(got) < taken:
        for batch in stopped:
            got.append(digest(batch))
            state = stopped.state_dict()
            if len(got) == taken:
                break
    assert len(json.dumps(state)) < 1000
    resumed = make(**options, prefetch=1, threads=1)
    resumed.load_state_dict(json.loads(json.dumps(state)))
    while resumed.epoch < 3:
        got += digests(resumed)
    assert got == wanted


@with_one_engine
def test_block_shuffling_needs_few_shards_and_resumes_on_other_ranks(make: Any) -> None:
    """Six shards of seven samples, in windows of two; two ranks for five batches, then three ranks, then one."""
    options = {"shuffle": "block", "shuffle_window": 2}
    one = make(**options)
    wanted = [batch.index[batch.valid].tolist() for _ in range(3) for batch in one]
    assert one.shuffle == "block"
    assert all(sorted(chain(*wanted[start : start + 4])) == list(range(40)) for start in (0, 4, 8))
    assert wanted[:4] != wanted[4:8]
    for start in (0, 4, 8):
        assert len({index // 7 for index in wanted[start]}) == 2
        assert len({index // 7 for index in wanted[start] + wanted[start + 1]}) <= 4
    got: list[list[int]] = []
    state = one.state_dict() | {"epoch": 0, "batch": 0}
    for world_size, batches in ((2, 5), (3, 1), (1, 6)):
        ranks = [make(**options, rank=rank, world_size=world_size) for rank in range(world_size)]
        for loader in ranks:
            loader.load_state_dict(state)
        iterators = [iter(()) for _ in ranks]
        for _ in range(batches):
            parts = [next(each, None) for each in iterators]
            if parts[0] is None:
                iterators = [iter(loader) for loader in ranks]
                parts = [next(each) for each in iterators]
            got.append([index for part in parts for index in part.index[part.valid].tolist()])
        state = ranks[0].state_dict()
    assert got == wanted
    with pytest.raises(UsageError, match="shuffle: saved 'block, windows of 2 shards', now 'block, windows of 3"):
        make(shuffle="block", shuffle_window=3).load_state_dict(state)


@with_many_classes
def test_ranks_together_are_one_rank(make: Any) -> None:
    for batches in zip(
        make(augment="train"), *(make(augment="train", rank=r, world_size=3) for r in range(3)), strict=True
    ):
        whole, *parts = batches
        for name in ("image", "mask", "index", "valid"):
            assert torch.equal(torch.cat([getattr(part, name) for part in parts]), getattr(whole, name)), name


@with_processes
@pytest.mark.parametrize("batch_size", [1, 2, 7, 11, 40, 64])
def test_evaluation_on_any_number_of_ranks_counts_the_same(
    make: Any, batch_size: int, request: pytest.FixtureRequest
) -> None:
    """A confusion matrix of an arbitrary prediction, exact for 1, 2, 3 and 5 ranks and odd batch sizes."""
    processes = "processes" in request.node.callspec.id
    if "raw-torch" not in request.node.callspec.id and batch_size != 11:
        pytest.skip("what depends on the size is the same code in every engine")
    matrices = []
    for world_size in (1, 3) if processes else (1, 2, 3, 5):
        matrix, seen = np.zeros((3, 3), int), []
        for rank in range(world_size):
            loader = make(shuffle=False, batch_size=batch_size, mask="index", rank=rank, world_size=world_size)
            for batch in loader:
                assert len(batch) == len(loader.slices.slice)
                truth = batch.mask[batch.valid].long().flatten()
                guess = (batch.image[batch.valid].float().mean(1) // 86).long().flatten()
                matrix += torch.bincount(truth * 3 + guess, minlength=9).view(3, 3).numpy()
                seen += batch.index[batch.valid].tolist()
        assert sorted(seen) == list(range(40))
        matrices.append(matrix)
    assert all(np.array_equal(matrix, matrices[0]) for matrix in matrices)


@with_processes
@pytest.mark.parametrize("mask", ["onehot", "index"])
def test_a_rank_without_a_share_keeps_step(make: Any, mask: str) -> None:
    """More ranks than samples in a batch: as many batches as the others get, with B = 0 and nothing else changed."""
    full = make(shuffle=False, batch_size=2, mask=mask)
    empty = make(shuffle=False, batch_size=2, mask=mask, rank=0, world_size=5)
    for _ in range(2):
        for ours, theirs in zip(empty, full, strict=True):
            assert (ours.number, ours.epoch) == (theirs.number, theirs.epoch)
            for name in ("image", "mask", "index", "valid"):
                got, wanted = getattr(ours, name), getattr(theirs, name)
                assert (got.shape[0], *got.shape[1:]) == (0, *wanted.shape[1:])
                assert (got.dtype, got.device) == (wanted.dtype, wanted.device)
            assert empty.state_dict() == full.state_dict()
    assert empty.engine == full.engine


@with_processes
def test_tensors_outlive_the_loader(make: Any) -> None:
    loader = make(augment="train")
    batches = list(loader)
    before = [digest(batch) for batch in batches]
    list(loader)
    loader.close()
    assert [digest(batch) for batch in batches] == before


@pytest.mark.parametrize("prefetch", [1, 4])
@pytest.mark.parametrize("mask", ["onehot", "index"])
def test_buffers_are_bounded_by_prefetch(make: Any, lent_buffers: Any, prefetch: int, mask: str) -> None:
    """However slow the caller is, no more memory for batches is ever asked for than the loader says; and all of it."""
    held = lent_buffers.held
    loader = make(batch_size=4, prefetch=prefetch, mask=mask, augment="train")
    if loader.processes:
        pytest.skip("shared memory has a test of its own")
    if loader.buffer_bytes is None:
        next(iter(loader))
        assert not lent_buffers.arrays
        return
    each = 4 * 40 * 40 * (6 if mask == "onehot" else 4)
    assert loader.buffer_bytes == (prefetch + 3) * each
    for batch in loader:
        deadline = time.monotonic() + (120 if batch.number == 2 else 0.02)
        while held() < (prefetch + 2) * each and time.monotonic() < deadline:
            time.sleep(0.01)  # once, until all that may be made ahead is made; then as long as it lasts
        if batch.number == 2:
            time.sleep(0.1)
            assert held() >= (prefetch + 2) * each
        assert held() <= loader.buffer_bytes


def test_an_older_iteration_ends_with_a_message(make: Any) -> None:
    loader = make()
    older = iter(loader)
    next(older)
    newer = iter(loader)
    next(newer)
    with pytest.raises(UsageError, match="newer iter"):
        next(older)
    assert next(newer).number == 1


@with_one_engine
@pytest.mark.parametrize(
    ("change", "label"),
    [
        ({"seed": 6}, "seed: saved 5, now 6"),
        ({"batch_size": 10}, "batch_size"),
        ({"size": 41}, "size: saved '40', now '41'"),
        ({"size": (40, 41)}, "size: saved '40', now '40x41'"),
        ({"fit": "cover"}, "fit: saved 'stretch', now 'cover'"),
        ({"crop_scale": (0.5, 2)}, r"crop_scale: saved None, now \[0.5, 2.0\]"),
        ({"augment": None}, "augment"),
        ({"augment": Augmentation(flip=0.25)}, "augment"),
        ({"shuffle": False}, "shuffle"),
        ({"shuffle": "block"}, "shuffle: saved True, now 'block, windows of 16 shards'"),
    ],
)
def test_a_state_that_does_not_fit_says_what_differs(make: Any, change: dict[str, Any], label: str) -> None:
    state = make(augment="train").state_dict()
    with pytest.raises(UsageError, match=label):
        make(**({"augment": "train"} | change)).load_state_dict(state)


@with_one_engine
@pytest.mark.parametrize("state", [None, {}, [], {"version": 3}, {"version": True}, "text"])
def test_anything_but_a_state_is_refused(make: Any, state: Any) -> None:
    with pytest.raises(UsageError, match="a loader state is what state_dict"):
        make().load_state_dict(state)


@with_one_engine
def test_a_state_of_an_earlier_version_is_refused_with_the_reason(make: Any) -> None:
    loader = make()
    with pytest.raises(UsageError, match=r"earlier petseg \(version 1; this one reads 2\).*build the set again"):
        loader.load_state_dict(loader.state_dict() | {"version": 1, "size": 40})


@pytest.mark.parametrize("damage", [{"epoch": -1}, {"batch": 99}, {"batch": "1"}, {"epoch": None}, {"batch": True}])
@with_one_engine
def test_a_damaged_state_is_refused(make: Any, damage: dict[str, Any]) -> None:
    loader = make()
    with pytest.raises(UsageError, match="damaged"):
        loader.load_state_dict(loader.state_dict() | damage)


@with_one_engine
def test_a_state_of_another_set_is_refused(make: Any, make_set: Any) -> None:
    state = make().state_dict()
    other = make_set(41)
    with (
        Loader(other, batch_size=12, size=40, seed=5, device="cpu") as loader,
        pytest.raises(UsageError, match=r"content.*number of samples: saved 40, now 41"),
    ):
        loader.load_state_dict(state)


def test_samples_have_names(make: Any) -> None:
    loader = make()
    batch = next(iter(loader))
    assert [loader.key(i) for i in batch.index] == [f"pet_{int(i)}" for i in batch.index]


@with_one_engine
def test_an_open_set_is_accepted_too(make: Any, sets: dict[str, Path]) -> None:
    with Loader(ShardSet.open(sets["raw"]), batch_size=4, device="cpu") as loader:
        assert loader.samples == 40


def test_a_batch_moves_to_another_device(make: Any) -> None:
    batch = next(iter(make(batch_size=4)))
    moved = batch.to("meta")
    assert {moved.image.device.type, moved.mask.device.type, moved.valid.device.type} == {"meta"}
    assert moved.image.shape == batch.image.shape
    assert moved.image.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(moved.index, batch.index)
    assert (moved.epoch, moved.number) == (batch.epoch, batch.number)
    assert torch.equal(batch.to("cpu", non_blocking=True).image, batch.image)


def test_no_thread_is_left_behind(make: Any) -> None:
    before = set(threading.enumerate())
    loader = make()
    for _ in loader:
        break
    loader.close()
    assert not [thread for thread in set(threading.enumerate()) - before if thread.name.startswith("petseg")]


def test_the_engine_says_what_it_is(make: Any) -> None:
    assert make().engine in ("dali", "torch")
    assert make().engine_reason == "requested"
    assert make(engine="auto").engine_reason != "requested"
