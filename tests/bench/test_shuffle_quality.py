"""The figures of shuffle quality: what they are for orders that are known, and that petseg's is as good as chance."""

from __future__ import annotations

import numpy as np
from shuffle_quality import CLASSES, SAMPLES, ideal_classes, measure, print_shuffle_quality

from pipeline.order.permutation import permutation


def test_no_shuffle_is_the_worst() -> None:
    quality = measure(np.arange(SAMPLES), classes=CLASSES, batch_size=32)
    assert quality.travel == 0
    assert quality.mix < 0.06


def test_petsegs_order_is_that_of_a_uniform_permutation() -> None:
    for epoch in range(5):
        quality = measure(permutation(0, epoch, SAMPLES), classes=CLASSES, batch_size=32)
        assert abs(quality.travel - 1 / 3) < 0.01
        assert abs(quality.mix - 1) < 0.01


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
        monkeypatch.setattr(f"shuffle_quality.{reader}", lambda tars: permutation(1, 0, SAMPLES))
    print_shuffle_quality()
    rows = capsys.readouterr().out.splitlines()[3:]
    assert [row.split()[0] for row in rows] == ["stored", "petseg", "DALI", "webdataset,"]
    assert all(row.endswith("yes") for row in rows)
