"""How well a loader shuffles, measured: ``python tests/pipeline/order/test_shuffle_quality.py`` prints a table.

A set is made of tars whose samples stand sorted by class, as a folder of images often is, and read in this project's
order, by DALI's ``fn.readers.webdataset`` and by the ``webdataset`` library, each with its shuffle buffer. Two figures:

* **travel**: the mean distance between a sample's place in the tars and its place in the epoch, as a part of N. Two
  independent uniform places are (N**2 - 1) / (3 N**2) apart: 0.333.
* **mix**: the mean number of different classes in a batch, over what a uniform permutation has on average.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import click
import numpy as np
import numpy.typing as npt

from pipeline.order.epoch_order import BlockOrder
from pipeline.order.feistel import FeistelPermutation
from pipeline.order.hashing import derive
from pipeline.order.permutation import permutation

Order = npt.NDArray[np.int64]

SAMPLES, CLASSES, BATCH, PER_TAR, BUFFER = 7349, 37, 32, 1000, 1000


@dataclass(frozen=True, kw_only=True)
class ShuffleQuality:
    """The two figures of one order; 0.333 and 1 are those of a uniform permutation."""

    travel: float
    mix: float


def measure(order: Order, *, classes: int, batch_size: int) -> ShuffleQuality:
    """Return the quality of an order, int64 (N,), of samples that are stored sorted by class, in ``classes`` of equal
    size; a last batch that is not full is omitted.
    """
    n = len(order)
    batches = (order * classes // n)[: n // batch_size * batch_size].reshape(-1, batch_size)
    distinct = np.mean([len(np.unique(batch)) for batch in batches])
    ideal = ideal_classes(n, classes=classes, batch_size=batch_size)
    return ShuffleQuality(travel=float(np.abs(order - np.arange(n)).mean() / n), mix=float(distinct / ideal))


def ideal_classes(n: int, *, classes: int, batch_size: int) -> float:
    """Return the expected number of different classes among ``batch_size`` of n samples drawn without replacement."""
    sizes = np.bincount(np.arange(n) * classes // n)
    return float(classes - sum(math.comb(n - int(size), batch_size) / math.comb(n, batch_size) for size in sizes))


def read_with_dali(tars: list[Path]) -> Order:
    """Return the order in which DALI's own reader delivers, shuffling through its buffer."""
    from nvidia.dali import fn, pipeline_def

    @pipeline_def(batch_size=1, num_threads=1, device_id=None)  # type: ignore[untyped-decorator]
    def graph() -> object:
        paths = [str(tar) for tar in tars]
        return fn.readers.webdataset(paths=paths, ext=["txt"], random_shuffle=True, initial_fill=BUFFER, seed=0)

    pipeline = graph()
    pipeline.build()
    return np.array([int(bytes(np.asarray(pipeline.run()[0][0])).decode()) for _ in range(SAMPLES)], dtype=np.int64)


def read_with_webdataset(tars: list[Path]) -> Order:
    """Return the order in which webdataset delivers: tars shuffled, samples through its buffer."""
    import webdataset

    dataset = webdataset.WebDataset([str(tar) for tar in tars], shardshuffle=len(tars), seed=0).shuffle(BUFFER, seed=0)
    return np.array([int(sample["txt"]) for sample in dataset], dtype=np.int64)


def block_order(_: list[Path], *, window: int) -> Order:
    """Return the order of this project in which only so many tars are needed at a time."""
    starts = np.minimum(np.arange(0, SAMPLES + PER_TAR, PER_TAR), SAMPLES)
    return np.asarray(BlockOrder(0, 0, starts=starts, window=window)[np.arange(SAMPLES)])


def print_shuffle_quality() -> None:
    """Print the table."""
    import webdataset

    readers: dict[str, Callable[[list[Path]], Order]] = {
        "stored order": lambda _: np.arange(SAMPLES, dtype=np.int64),
        "petseg, global": lambda _: permutation(0, 0, SAMPLES),
        "petseg, global, by a Feistel network": lambda _: FeistelPermutation(derive(0, 0), SAMPLES)[np.arange(SAMPLES)],
        **{f"petseg, block of {window} tars": partial(block_order, window=window) for window in (1, 2, 4)},
        f"DALI readers.webdataset, initial_fill={BUFFER}": read_with_dali,
        f"webdataset, shardshuffle, shuffle({BUFFER})": read_with_webdataset,
    }
    click.echo(f"{SAMPLES} samples of {CLASSES} classes, sorted; tars of {PER_TAR}; batches of {BATCH}\n")
    click.echo(f"{'':45s}{'travel':>10s}{'mix':>10s}{'each once':>12s}")
    with tempfile.TemporaryDirectory() as folder:
        with webdataset.ShardWriter(f"{folder}/%06d.tar", maxcount=PER_TAR, verbose=0) as writer:
            for index in range(SAMPLES):
                writer.write({"__key__": f"{index:06d}", "txt": str(index)})
        tars = sorted(Path(folder).iterdir())
        for name, read in readers.items():
            order = read(tars)
            once = "yes" if len(np.unique(order)) == len(order) == SAMPLES else "no"
            quality = measure(order, classes=CLASSES, batch_size=BATCH)
            click.echo(f"{name:45s}{quality.travel:10.3f}{quality.mix:10.3f}{once:>12s}")


def test_no_shuffle_is_the_worst() -> None:
    quality = measure(np.arange(SAMPLES), classes=CLASSES, batch_size=32)
    assert quality.travel == 0
    assert quality.mix < 0.06


def test_petsegs_order_is_that_of_a_uniform_permutation() -> None:
    for epoch in range(5):
        quality = measure(permutation(0, epoch, SAMPLES), classes=CLASSES, batch_size=32)
        assert abs(quality.travel - 1 / 3) < 0.01
        assert abs(quality.mix - 1) < 0.01


def test_more_tars_in_a_block_are_mixed_better_at_any_distance() -> None:
    """Whole tars travel as far as anything; among the samples of a window a batch is as mixed as in a uniform order."""
    found = [measure(block_order([], window=window), classes=CLASSES, batch_size=32) for window in (1, 2, 4, 8)]
    assert all(0.2 < quality.travel < 0.45 for quality in found)
    mixes = [quality.mix for quality in found]
    assert mixes == sorted(mixes)
    assert mixes[0] < 0.4
    assert abs(mixes[3] - 1) < 0.01  # all tars at once


def test_a_shuffle_buffer_is_between_the_two() -> None:
    random, buffer, order = np.random.default_rng(0), [], []
    for sample in range(SAMPLES):
        buffer.append(sample)
        if len(buffer) == 500:
            order.append(buffer.pop(random.integers(500)))
    order += [buffer.pop(random.integers(len(buffer))) for _ in range(len(buffer))]
    quality = measure(np.array(order), classes=CLASSES, batch_size=32)
    assert 0.03 < quality.travel < 0.15
    assert 0.1 < quality.mix < 0.6


def test_the_ideal_is_what_many_draws_give() -> None:
    random = np.random.default_rng(1)
    labels = np.arange(1000) * 10 // 1000
    drawn = np.mean([len(np.unique(random.choice(labels, 8, replace=False))) for _ in range(5_000)])
    assert abs(drawn - ideal_classes(1000, classes=10, batch_size=8)) < 0.03


def test_the_table_has_every_reader(monkeypatch, capsys) -> None:
    for reader in ("read_with_dali", "read_with_webdataset"):
        monkeypatch.setitem(globals(), reader, lambda tars: permutation(1, 0, SAMPLES))
    print_shuffle_quality()
    rows = capsys.readouterr().out.splitlines()[3:]
    assert [row.split()[0] for row in rows] == ["stored", *["petseg,"] * 5, "DALI", "webdataset,"]
    assert all(row.endswith("yes") for row in rows)


if __name__ == "__main__":
    print_shuffle_quality()
