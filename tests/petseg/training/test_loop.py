"""The loop over epochs: output, validation, early stopping, checkpoints."""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import shlex
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
import torch
from labelled_sets import build_labelled, many_labels

import petseg
from petseg.cli import evaluate, train
from petseg.host.device import choose_placement
from petseg.report.artifacts import draw_run
from petseg.report.console_reporter import Reporter
from petseg.runs.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from petseg.runs.run_folder import RunFolder, read_metrics
from petseg.training import start_checks
from petseg.training.losses import balanced_class_weights
from shards import FormatError, PetsegError, ShardSet
from shards.build.build_set import build
from shards.build.options import PackOptions

pytestmark = pytest.mark.usefixtures("no_report")

TINY: dict[str, Any] = {"size": 32, "widths": (8, 16), "epochs": 2, "batch_size": 8, "threads": 1}
TINY_ARGUMENTS = ["--size", "32", "--widths", "8,16", "--epochs", "2", "--batch-size", "8", "--threads", "1"]

# Neither weights nor images change much: only the statistics of batch normalisation do.
STEADY = {"lr": 1e-30, "progressive": False, "augment": "none", "stem": "full", "join": "concat"}


def test_the_command_prints_a_line_an_epoch_or_json(call, synthetic_set: Path, tmp_path: Path) -> None:
    result = call(train, "--shards", synthetic_set, "--run", tmp_path / "a", *TINY_ARGUMENTS)
    assert result.code == 0, result.err
    lines = result.out.splitlines()
    assert [line.split()[:2] for line in lines[:2]] == [["epoch", "1/2"], ["epoch", "2/2"]]
    assert "petseg-eval" in lines[2]
    result = call(train, "--shards", synthetic_set, "--run", tmp_path / "b", *TINY_ARGUMENTS, "--json")
    document = json.loads(result.out)
    assert document["run"] == str(tmp_path / "b")
    assert document["epoch"] == 2
    # The same seed gives the same weights; another one others.
    a, b = (load_checkpoint(tmp_path / name / "last.pt").model for name in "ab")
    assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("at", ["epoch", "epoch without checkpoint", "end"])
@pytest.mark.parametrize("there", ["nothing", "finished", "trained", "an empty folder"])
def test_a_run_whose_folder_is_moved_during_the_training(
    there: str, at: str, synthetic_set: Path, tmp_path: Path
) -> None:
    """No other run that has its path by then is overwritten, and no command that needs its own one there is advised."""
    run, other, options = tmp_path / "run", tmp_path / "other", TINY
    if there in ("finished", "trained"):
        petseg.train(synthetic_set, run=other, options={**TINY, "epochs": 1})
    if "without" in at:
        options = {**TINY, "epochs": 3, "checkpoint_epochs": 3, "validate_every": 9}
    with contextlib.ExitStack() as stack:

        class Moving(Reporter):
            def end_epoch(self, entry: dict[str, Any], **_: Any) -> None:
                if run.exists() and entry["epoch"] == (2 if at == "end" else 1):
                    run.rename(tmp_path / "moved")
                    if there == "an empty folder":
                        run.mkdir()
                    elif there != "nothing":
                        other.rename(run)
                    if there == "trained":
                        stack.callback(RunFolder(run).close)

        with pytest.raises(PetsegError, match=r"was moved, removed or taken over .* its new name, from its last check"):
            petseg.train(synthetic_set, run=run, options=options, make_reporter=Moving)
    if there in ("finished", "trained"):
        assert len(load_checkpoint(run / "last.pt").history) == len(read_metrics(run)) == 1
    elif run.exists():
        assert not list(run.iterdir())
    assert "epoch" not in at or len(read_metrics(tmp_path / "moved")) == 1
    petseg.train(run=tmp_path / "moved", resume=True)
    assert len(read_metrics(tmp_path / "moved")) == options["epochs"]


def test_a_run_goes_on_without_its_owner_file(synthetic_set: Path, tmp_path: Path) -> None:
    """It may have been removed with what looks left over: it is still the same folder."""

    class Removing(Reporter):
        def end_epoch(self, *_: Any, **__: Any) -> None:
            (tmp_path / "run" / ".owner").unlink(missing_ok=True)

    petseg.train(synthetic_set, run=tmp_path / "run", options=TINY, make_reporter=Removing)
    assert len(read_metrics(tmp_path / "run")) == 2


def test_a_set_that_is_changed_during_the_training(synthetic_set: Path, tmp_path: Path) -> None:
    data = shutil.copytree(synthetic_set, tmp_path / "set")

    class Changing(Reporter):
        def start_epoch(self, **_: Any) -> None:
            shutil.copy(data / "train.samples.npy", data / "val.samples.npy")

    with pytest.raises(FormatError, match=r"val\.samples.*; then continue with: petseg-train --resume --run .*run$"):
        petseg.train(data, run=tmp_path / "run", options=TINY, make_reporter=Changing)


@pytest.mark.parametrize("harm", ["of another run", "metrics of another run", "truncated", "garbage"])
def test_no_report_shows_other_weights_as_the_best(synthetic_set: Path, tmp_path: Path, harm: str) -> None:
    """The message names a way on, and it works: nothing else ends the same error at every --resume."""
    run = petseg.train(synthetic_set, run=tmp_path / "run", options={**TINY, "epochs": 1})
    best = run / "best.pt"
    if "another" in harm:
        other = petseg.train(synthetic_set, run=tmp_path / "other", options={**TINY, "epochs": 1, "seed": 1})
        name = "best.pt" if harm == "of another run" else "metrics.jsonl"
        shutil.copy(other / name, run / name)
        message = r"best\.pt is not the checkpoint of epoch 1, the best of .*metrics\.jsonl"
    else:
        best.write_bytes(best.read_bytes()[:5000] if harm == "truncated" else b"garbage")
        message = r"best\.pt is damaged or not a checkpoint of petseg \([^)]*\); put"
    before = best.read_bytes()
    drawing = {"data": ShardSet.open(synthetic_set), "placement": choose_placement(torch.device("cpu"), "fp32")}
    with pytest.raises(PetsegError, match=rf"{message}.* or remove best\.pt: petseg-train --resume --run {run} then"):
        draw_run(run, seconds=1.0, **drawing)
    assert best.read_bytes() == before
    if harm in ("truncated", "garbage"):
        with pytest.raises(PetsegError, match=rf"damaged .*; the last epoch's weights are in {run / 'last.pt'}"):
            petseg.load(run)
        with pytest.raises(PetsegError, match=rf"damaged .*; the last epoch's weights are in {run / 'last.pt'}"):
            petseg.train(synthetic_set, run=tmp_path / "third", options={**TINY, "init_from": str(run)})


@pytest.mark.usefixtures("blank_figures")
def test_a_report_without_the_best_weights_shows_the_last_and_says_so(synthetic_set: Path, tmp_path: Path) -> None:
    run, notes = petseg.train(synthetic_set, run=tmp_path / "run", options={**TINY, "epochs": 1}), list[str]()
    (run / "best.pt").unlink()
    write_later_epoch(run)
    placement = choose_placement(torch.device("cpu"), "fp32")
    draw_run(run, data=ShardSet.open(synthetic_set), placement=placement, seconds=1.0, note=notes.append)
    assert "The weights of epoch 2 (of 2)" in (run / "report.html").read_text()
    assert notes == [f"{run / 'best.pt'}, the weights of epoch 1, is gone; the report shows those of the last epoch, 2"]


def write_later_epoch(run: Path) -> None:
    """Let last.pt be of an epoch that is not the best one."""
    checkpoint = load_checkpoint(run / "last.pt")
    history = [*checkpoint.history, {**checkpoint.history[-1], "epoch": 2, "best": False}]
    save_checkpoint(run / "last.pt", msgspec.structs.replace(checkpoint, history=history))
    (run / "metrics.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in history))


def test_the_tutorials_recipe_trains(call, synthetic_set: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    result = call(
        train, "--shards", synthetic_set, "--run", run, "--model", "tutorial", "--size", "32", "--epochs", "1"
    )
    assert result.code == 0, result.err
    recipe = json.loads((run / "config.json").read_text())["recipe"]
    assert (recipe["batch_size"], recipe["lr"], recipe["optimizer"], recipe["augment"]) == (32, 1e-3, "adam", "none")
    checkpoint = load_checkpoint(run / "best.pt")
    assert checkpoint.average is None


def test_patience_stops_early(synthetic_set: Path, tmp_path: Path) -> None:
    recording = Recording()
    options = {**TINY, **STEADY, "epochs": 9, "patience": 2}  # nothing is learnt, so nothing gets better
    run = petseg.train(synthetic_set, run=tmp_path / "run", options=options, make_reporter=lambda: recording)
    assert len(read_metrics(run)) == 3
    assert "stopping early" in recording.notes[-1]


class Recording(Reporter):
    """Counts validations and keeps notes."""

    def __init__(self) -> None:
        self.validations, self.notes = 0, list[str]()

    def start_validation(self, *, images: int) -> None:
        self.validations += 1

    def note(self, text: str) -> None:
        self.notes.append(text)


@pytest.mark.usefixtures("blank_figures")
def test_validating_less_often(synthetic_set: Path, tmp_path: Path) -> None:
    """Every second epoch and the last; the weights do not notice, and the best is one of those validated."""
    recording = Recording()
    options = {**TINY, "epochs": 5}
    often = petseg.train(synthetic_set, run=tmp_path / "often", options=options)
    rarely = petseg.train(
        synthetic_set,
        run=tmp_path / "rarely",
        options={**options, "validate_every": 2},
        make_reporter=lambda: recording,
    )
    assert recording.validations == 3
    history = read_metrics(rarely)
    assert [entry["epoch"] for entry in history if entry["val"]] == [2, 4, 5]
    for ours, theirs in zip(history, read_metrics(often), strict=True):
        assert ours["val"] in (None, theirs["val"])
        assert ours["train"] == theirs["train"]
    a, b = (load_checkpoint(run / "last.pt").model for run in (often, rarely))
    assert all(torch.equal(a[name], b[name]) for name in a)
    validated = [entry for entry in history if entry["val"]]
    best = max(validated, key=lambda entry: entry["val"]["mean_iou"])
    assert load_checkpoint(rarely / "best.pt").position["best_epoch"] == best["epoch"]
    assert [entry["epoch"] for entry in history if entry["best"]][-1] == best["epoch"]
    data, placement = ShardSet.open(synthetic_set), choose_placement(torch.device("cpu"), "fp32")
    draw_run(rarely, data=data, placement=placement, seconds=1.0)
    report = (rarely / "report.html").read_text()
    assert f"The weights of epoch {best['epoch']} (of 5)" in report
    row = report[report.index("<tr><td>1</td>") : report.index("<tr><td>2")]
    assert row.count("<td>-</td>") == 5  # what was not measured is not shown: loss, mean IoU, three classes


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a CUDA device")
def test_compiling_on_a_cpu_is_noted_but_not_refused(synthetic_set: Path, tmp_path: Path, monkeypatch) -> None:
    compiled: list[torch.nn.Module] = []
    monkeypatch.setattr(torch, "compile", lambda network: (compiled.append(network), network)[1])
    monkeypatch.setenv("CXX", "true")  # any program that is there
    recording = Recording()
    options = {**TINY, "epochs": 1, "compile": True}
    petseg.train(synthetic_set, run=tmp_path / "run", options=options, make_reporter=lambda: recording)
    assert len(compiled) == 2  # the network that is trained, and the one that is validated
    assert any("steps are no faster" in note for note in recording.notes)


def test_patience_counts_epochs_where_not_all_are_validated(synthetic_set: Path, tmp_path: Path) -> None:
    options = {**TINY, **STEADY, "epochs": 9, "patience": 3, "validate_every": 2}
    recording = Recording()
    run = petseg.train(synthetic_set, run=tmp_path / "run", options=options, make_reporter=lambda: recording)
    assert len(read_metrics(run)) == 6  # epoch 2 is the best, 4 is two epochs later, 6 is four
    assert "stopping early: no epoch after 2 was better" in recording.notes


@pytest.mark.parametrize(("options", "steps"), [({}, 2), ({"drop_last": False}, 3)], ids=str)
def test_an_incomplete_last_batch_is_left_out_or_kept(
    synthetic_set: Path, tmp_path: Path, options: dict[str, Any], steps: int
) -> None:
    """24 images in batches of 10."""
    options = {**TINY, "epochs": 1, "batch_size": 10, **options}
    run = petseg.train(synthetic_set, run=tmp_path / "run", options=options)
    assert load_checkpoint(run / "last.pt").position["step"] == steps


@pytest.mark.parametrize("options", [{"checkpoint_steps": 1}, {"checkpoint_minutes": 1e-9}], ids=str)
def test_checkpoints_within_an_epoch(synthetic_set: Path, tmp_path: Path, options: dict[str, Any]) -> None:
    steps: list[int] = []

    class Looking(Reporter):
        def batch(self, **facts: Any) -> None:
            if (tmp_path / "run" / "last.pt").exists():
                steps.append(load_checkpoint(tmp_path / "run" / "last.pt").position["step"])

    petseg.train(synthetic_set, run=tmp_path / "run", options={**TINY, **options, "epochs": 1}, make_reporter=Looking)
    assert steps == [1, 2]  # of three steps; seen at the one after


@pytest.fixture(scope="module")
def train_alone(synthetic_pets: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set with a training split only."""
    return build_with(synthetic_pets, tmp_path_factory, (1.0, 0.0, 0.0))


@pytest.fixture(scope="module")
def without_test(synthetic_pets: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set with training and validation."""
    return build_with(synthetic_pets, tmp_path_factory, (0.8, 0.2, 0.0))


def build_with(pets: Path, folders: pytest.TempPathFactory, fractions: tuple[float, float, float]) -> Path:
    out = folders.mktemp("set") / "shards"
    build(pets, out, PackOptions(split="random", fractions=fractions), workers=1)
    return out


@pytest.mark.usefixtures("blank_figures")
def test_without_a_validation_split(train_alone: Path, tmp_path: Path) -> None:
    out = train_alone
    run = petseg.train(out, run=tmp_path / "run", options={**TINY, "epochs": 1, "class_weights": "balanced"})
    assert read_metrics(run)[0]["val"] is None
    placement = choose_placement(torch.device("cpu"), "fp32")
    draw_run(run, data=ShardSet.open(out), placement=placement, seconds=1.0)
    assert "train split" in (run / "report.html").read_text()
    assert balanced_class_weights(ShardSet.open(out).manifest.splits["train"].class_pixels)[2] > 1


@pytest.mark.parametrize(("made", "split"), [("without_test", "val"), ("train_alone", "train")])
def test_the_command_to_score_a_run_works_without_a_test_split(
    call, request: pytest.FixtureRequest, tmp_path: Path, made: str, split: str
) -> None:
    out = request.getfixturevalue(made)
    arguments = [*TINY_ARGUMENTS, "--epochs", "1"]
    trained = call(train, "--shards", out, "--run", tmp_path / "run", *arguments)
    program, *words = shlex.split(trained.out.splitlines()[-1].partition("score it with: ")[2])
    assert program == "petseg-eval"
    result = call(evaluate, *words)
    assert result.code == 0, result.err
    assert f"images of {split}, at" in result.out
    result = call(evaluate, tmp_path / "run", "--shards", out)
    assert result.code == 2
    assert f"has no split 'test'; it has: train{', val' * (split == 'val')}." in result.err
    assert f"--split {split}" in result.err


@pytest.mark.parametrize(
    ("absent", "note"),
    [
        ([], None),
        ([1], "class 1 occurs in no mask of train; the network cannot learn it"),
        ([0, 2], "class 0, class 2 occur in no mask of train; the network cannot learn them"),
        (
            range(7),
            "class 0, class 1, class 2, class 3, class 4 and 2 more occur in no mask of train; the network "
            "cannot learn them",
        ),
    ],
)
def test_classes_that_no_mask_shows_are_noted(absent, note: str | None) -> None:
    recording = Recording()
    pixels = tuple(0 if n in absent else 5 for n in range(9))
    names = tuple(f"class {n}" for n in range(9))
    splits = {"train": SimpleNamespace(class_pixels=pixels), "val": SimpleNamespace(class_pixels=(0,) * 9)}
    manifest = SimpleNamespace(labels=SimpleNamespace(names=names), splits=splits)
    start_checks.note_absent_classes(SimpleNamespace(manifest=manifest), recording)
    assert recording.notes == ([] if note is None else [note])


def test_a_single_class_is_noted() -> None:
    """Every network scores 1 on it."""
    recording = Recording()
    splits = {"train": SimpleNamespace(class_pixels=(7,))}
    manifest = SimpleNamespace(labels=SimpleNamespace(names=("cat",)), splits=splits)
    start_checks.note_absent_classes(SimpleNamespace(manifest=manifest), recording)
    assert recording.notes == ["all labelled pixels of train are cat: there is nothing to tell it from"]


def test_the_note_of_absent_classes_precedes_the_training(tmp_path: Path) -> None:
    labels = many_labels(60)
    recording = Recording()
    petseg.train(
        build_labelled(tmp_path, labels, samples=4, fractions=(1.0, 0.0, 0.0)),
        run=tmp_path / "run",
        options={**TINY, "batch_size": 4, "epochs": 1},
        make_reporter=lambda: recording,
    )
    assert any("more occur in no mask of train" in note for note in recording.notes)


def test_tensorboard(synthetic_set: Path, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = petseg.train(synthetic_set, run=tmp_path / "run", options={**TINY, "tensorboard": True})
    events = EventAccumulator(str(run / "events"))
    events.Reload()
    history = read_metrics(run)
    written = [(event.step, event.value) for event in events.Scalars("val/mean_iou")]
    assert written == [(e["epoch"], pytest.approx(e["val"]["mean_iou"])) for e in history]
    written = [(event.step, event.value) for event in events.Scalars("train/iou/border")]
    assert written == [(e["epoch"], pytest.approx(e["train"]["iou"][2])) for e in history]


def test_a_disk_that_is_full_costs_one_checkpoint_only(synthetic_set: Path, tmp_path: Path, monkeypatch) -> None:
    count = iter(range(99))

    def full(path: Path, checkpoint: Checkpoint) -> None:
        if next(count) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        save_checkpoint(path, checkpoint)

    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr("petseg.training.loop.save_checkpoint", full)
        with pytest.raises(PetsegError, match=rf"No space left on device.*--resume --run {run}"):
            petseg.train(synthetic_set, run=run, options={**TINY, "checkpoint_steps": 1})
    assert load_checkpoint(run / "last.pt").position["step"] == 2
    petseg.train(run=run, resume=True)
    assert len(read_metrics(run)) == 2


def test_augmentation_changes_what_is_learnt(synthetic_set: Path, tmp_path: Path) -> None:
    options = {**TINY, "epochs": 1}
    heads = []
    for augment in ("none", "train", "strong"):
        run = petseg.train(synthetic_set, run=tmp_path / augment, options={**options, "augment": augment})
        heads.append(load_checkpoint(run / "last.pt").model["head.weight"])
    assert not any(torch.equal(a, b) for a, b in itertools.combinations(heads, 2))


def test_the_other_engine_trains(call, synthetic_set: Path, tmp_path: Path) -> None:
    arguments = ["--size", "32", "--widths", "8,16", "--epochs", "1", "--engine", "torch"]
    result = call(train, "--shards", synthetic_set, "--run", tmp_path / "run", *arguments)
    assert result.code == 0, result.err
