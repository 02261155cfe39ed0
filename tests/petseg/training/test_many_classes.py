"""Training on 21 classes with ignored pixels, letterboxed or cropped to a size that is no square."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from labelled_sets import build_labelled, many_labels, write_untrained

import petseg
from petseg.host.stop_signals import InterruptedRunError
from petseg.inference.stored_samples import read_image, read_mask
from petseg.report.console_reporter import Reporter
from petseg.runs.checkpoint import load_checkpoint
from petseg.runs.recipe import RuntimeOptions, default_recipe
from petseg.runs.run_folder import read_metrics
from petseg.training import start_checks
from shards import PetsegError, ShardSet
from shards.format.labels import IGNORE
from shards.format.layout import MANIFEST_NAME
from shards.format.manifest import dump_manifest

pytestmark = pytest.mark.usefixtures("no_report")

CLASSES = 21
OPTIONS: dict[str, Any] = {
    "size": (96, 160),
    "progressive": True,
    "widths": (8, 16),
    "epochs": 3,
    "batch_size": 4,
    "threads": 1,
    "class_weights": "balanced",
    "label_smoothing": 0.1,
}


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set of 21 classes, some of which do not occur in training, and ignored pixels."""
    return build_labelled(tmp_path_factory.mktemp("many"), many_labels(CLASSES))


@pytest.fixture(scope="module")
def reference(many: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A letterboxed run that nothing interrupted."""
    run = tmp_path_factory.mktemp("reference") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("petseg.training.start.draw_run", lambda run, **arguments: None)
        return petseg.train(many, run=run, options={**OPTIONS, "fit": "contain"})


class NoteKeeping(Reporter):
    """Keeps the notes; asks to stop at the n-th batch."""

    def __init__(self, *, stop_at: int = 0) -> None:
        self.notes, self.left = list[str](), stop_at

    def note(self, text: str) -> None:
        self.notes.append(text)

    def batch(self, **facts: Any) -> None:
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGINT)


def assert_is_a_run(run: Path, many: Path, *, fit: str) -> None:
    labels = ShardSet.open(many).manifest.labels
    checkpoint = load_checkpoint(run / "best.pt")
    assert checkpoint.labels == labels
    assert checkpoint.config["model"]["classes"] == CLASSES
    assert (checkpoint.config["size"], checkpoint.config["fit"]) == ([96, 160], fit)
    assert checkpoint.model["head.weight"].shape[0] == 4 * CLASSES  # blocks of 2 x 2
    history = read_metrics(run)
    assert [entry["size"] for entry in history] == [[48, 80], [64, 128], [96, 160]][-len(history) :]
    for entry in history:
        for part in ("train", "val"):
            assert np.isfinite(entry[part]["loss"])
            assert len(entry[part]["iou"]) == CLASSES
            assert entry[part]["binary"] is None  # these labels name no foreground


def test_a_letterboxed_run(many: Path, reference: Path) -> None:
    assert_is_a_run(reference, many, fit="contain")
    losses = [entry["train"]["loss"] for entry in read_metrics(reference)]
    assert losses[-1] < losses[0]


def test_a_cropped_run_in_bf16(many: Path, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    options = {**OPTIONS, "fit": "cover", "precision": "bf16", "epochs": 1, "progressive": False, "tensorboard": True}
    run = petseg.train(many, run=tmp_path / "run", options={**options, "device": "cpu"})
    assert_is_a_run(run, many, fit="cover")
    events = EventAccumulator(str(run / "events"))
    events.Reload()
    curves = events.Tags()["scalars"]
    assert {"val/iou/class 5", "val/iou/class 20", "val/iou/_hidden"} <= set(curves), curves
    assert "--size 96x160 " in json.loads((run / "config.json").read_text())["command"]


@pytest.mark.parametrize("stop_at", [2, 5])
def test_resuming_ends_in_the_same_bits(many: Path, reference: Path, tmp_path: Path, stop_at: int) -> None:
    run, options = tmp_path / "run", {**OPTIONS, "fit": "contain"}
    with pytest.raises(InterruptedRunError):
        petseg.train(many, run=run, options=options, make_reporter=lambda: NoteKeeping(stop_at=stop_at))
    petseg.train(run=run, resume=True)
    ours, theirs = load_checkpoint(run / "last.pt"), load_checkpoint(reference / "last.pt")
    for part in ("model", "average"):
        for name, value in getattr(ours, part).items():
            assert torch.equal(value, getattr(theirs, part)[name]), name
    for mine, other in zip(ours.history, theirs.history, strict=True):
        assert mine["train"] == other["train"]
        assert mine["val"] == other["val"]


@pytest.mark.parametrize("at_stored_size", [False, True])
def test_every_pixel_that_is_not_ignored_is_scored_once(many: Path, reference: Path, at_stored_size: bool) -> None:
    evaluation = petseg.evaluate(reference, many, split="val", original_resolution=at_stored_size, batch_size=3)
    split = ShardSet.open(many).split("val")
    masks = [read_mask(split, index) for index in range(len(split))]
    assert evaluation.counts.shape == (len(split), 3, CLASSES)
    assert (evaluation.counts[:, 0].sum(0) == evaluation.matrix.diagonal()).all()
    assert (evaluation.counts[:, 1].sum(0) == evaluation.matrix.sum(1)).all()
    assert (evaluation.counts[:, 2].sum(0) == evaluation.matrix.sum(0)).all()
    if at_stored_size:
        kept = [mask[mask != IGNORE] for mask in masks]
        expected = [np.bincount(mask, minlength=CLASSES) for mask in kept]
        np.testing.assert_array_equal(evaluation.counts[:, 1], expected)
        found = [petseg.load(reference).predict(read_image(split, i)).index for i in range(len(split))]
        by_hand = np.zeros((CLASSES, CLASSES), np.int64)
        for mask, index in zip(masks, found, strict=True):
            np.add.at(by_hand, (mask[mask != IGNORE], index[mask != IGNORE]), 1)
        np.testing.assert_array_equal(evaluation.matrix, by_hand)
    else:  # letterboxed: less than all of 96 x 160
        assert 0 < evaluation.matrix.sum() < len(split) * 96 * 160


def test_a_run_keeps_its_labels(many: Path, tmp_path: Path) -> None:
    """The same images with other colours: what the run predicts would be drawn in two ways."""
    run, options = tmp_path / "run", {**OPTIONS, "epochs": 2}
    with pytest.raises(InterruptedRunError):
        petseg.train(many, run=run, options=options, make_reporter=lambda: NoteKeeping(stop_at=2))
    other = tmp_path / "set"
    shutil.copytree(many, other)
    manifest = ShardSet.open(other).manifest
    first, *rest = manifest.labels.classes
    classes = (msgspec.structs.replace(first, color="#123456"), *rest)
    labels = msgspec.structs.replace(manifest.labels, classes=classes)
    (other / MANIFEST_NAME).write_bytes(dump_manifest(msgspec.structs.replace(manifest, labels=labels)))
    with pytest.raises(PetsegError, match="other labels"):
        petseg.train(other, run=run, resume=True)
    petseg.train(many, run=run, resume=True)


def test_other_classes_are_not_scored(many: Path, tiny_run: Path, tmp_path: Path) -> None:
    """What differs is named, not the classes in common, of which there may be dozens."""
    difference = (
        r"3 classes, .* has 21: the run alone has animal, background, border; the set alone has .* and 16 more;"
    )
    with pytest.raises(PetsegError, match=difference):
        petseg.evaluate(tiny_run, many, split="val")
    labels = ShardSet.open(many).manifest.labels
    less = write_untrained(tmp_path / "less", msgspec.structs.replace(labels, classes=labels.classes[:-1]))
    last = re.escape(labels.names[-1])
    with pytest.raises(PetsegError, match=f"20 classes, .* has 21: the set alone has {last}; score it"):
        petseg.evaluate(less, many, split="val")


@pytest.mark.parametrize(("size", "noted"), [("48x80", False), ("48x96", True)])
def test_a_set_of_one_size_decides_the_fit_and_is_not_enlarged_silently(tmp_path: Path, size: str, noted: bool) -> None:
    out = build_labelled(tmp_path, many_labels(3), storage="raw", size="48x80", fit="contain", samples=8)
    reporter = NoteKeeping()
    options = {"size": size, "widths": (8, 16), "epochs": 1, "batch_size": 4, "threads": 1}
    run = petseg.train(out, run=tmp_path / "run", options=options, make_reporter=lambda: reporter)
    assert load_checkpoint(run / "last.pt").config["fit"] == "contain"
    assert any("size='48x96' is larger than the set's images (up to 48x80)" in note for note in reporter.notes) == noted
    run = petseg.train(out, run=tmp_path / "stretched", options={**options, "fit": "stretch"})
    assert load_checkpoint(run / "last.pt").config["fit"] == "stretch"


@pytest.mark.usefixtures("no_report")
@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"size": 32}, []),
        ({"size": (32, 512)}, ["size='32x512' is larger than the set's images (up to "]),
        ({"batch_size": 4}, ["1 of 5 training images are left out of each epoch"]),
        ({"batch_size": 4, "drop_last": False}, []),
        ({"batch_size": 8}, []),
    ],
)
def test_what_is_unusual_about_a_set_is_said(tmp_path: Path, changes: dict[str, Any], said: list[str]) -> None:
    out = build_labelled(tmp_path, many_labels(3), samples=8)
    assert ShardSet.open(out).manifest.splits["train"].samples == 5
    reporter = NoteKeeping()
    options = {"size": 32, "widths": (8, 16), "epochs": 1, "batch_size": 5, "threads": 1, **changes}
    petseg.train(out, run=tmp_path / "run", options=options, make_reporter=lambda: reporter)
    found = [note for note in reporter.notes if "larger than the set" in note or "left out" in note]
    assert len(found) == len(said)
    assert all(text in note for text, note in zip(said, found, strict=True))


@pytest.mark.parametrize(
    ("samples", "batch", "ranks", "accumulate", "advice"),
    [
        (27, 8, 1, 1, " keeps them, and batch_size=5 leaves out 2"),  # 7 leaves out 6
        (27, 11, 1, 1, " keeps them, and batch_size=9 leaves out 0"),  # 10 leaves out 7
        (30, 16, 4, 1, " keeps them, and batch_size=12 leaves out 6"),  # 15 cannot be divided among 4 processes
        (27, 8, 1, 6, " keeps them"),
        (5, 4, 1, 1, " keeps them, and batch_size=1 leaves out 0"),
    ],
)
def test_the_batch_size_that_is_advised_leaves_out_fewer(
    monkeypatch: pytest.MonkeyPatch, samples: int, batch: int, ranks: int, accumulate: int, advice: str
) -> None:
    recipe = msgspec.structs.replace(
        default_recipe("unet"), batch_size=batch, accumulate=accumulate, crop_scale=(0.5, 1.0)
    )
    manifest = SimpleNamespace(splits={"train": SimpleNamespace(samples=samples)})
    config: Any = SimpleNamespace(
        recipe=recipe,
        runtime=RuntimeOptions(shards="set"),
        data=SimpleNamespace(manifest=manifest),
        world=SimpleNamespace(size=ranks),
    )
    monkeypatch.setattr(start_checks, "note_absent_classes", lambda *_: None)
    start_checks.note_unusual(config, reporter := NoteKeeping())
    assert reporter.notes[-1].endswith(advice)


def test_a_set_of_one_size_is_trained_at_it_unless_asked_or_resumed(tmp_path: Path) -> None:
    out = build_labelled(tmp_path, many_labels(3), storage="raw", size="48x80", samples=8)
    options = {"widths": (8, 16), "epochs": 1, "batch_size": 2, "threads": 1}
    for given, expected in (({}, [48, 80]), ({"size": 32}, [32, 32])):
        run, reporter = tmp_path / f"run-{expected[0]}", NoteKeeping(stop_at=1)
        with pytest.raises(InterruptedRunError):
            petseg.train(out, run=run, options={**options, **given}, make_reporter=lambda: reporter)  # noqa: B023
        petseg.train(run=run, resume=True)
        assert load_checkpoint(run / "last.pt").config["size"] == expected
        assert not any("is larger than" in note for note in reporter.notes)


def test_a_single_class_trains_without_a_nan(tmp_path: Path) -> None:
    out = build_labelled(tmp_path, many_labels(1), samples=8)
    options = {**OPTIONS, "size": 32, "epochs": 1}
    run = petseg.train(out, run=tmp_path / "run", options=options)
    (entry,) = read_metrics(run)
    assert entry["train"]["mean_iou"] == entry["val"]["mean_iou"] == 1.0
    assert entry["train"]["loss"] == pytest.approx(0, abs=1e-6)
    weights = load_checkpoint(run / "last.pt").weights
    assert all(torch.isfinite(value).all() for value in weights.values() if value.is_floating_point())
