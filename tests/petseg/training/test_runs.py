"""A run from beginning to end: what it writes, when it stops, what its commands print."""

from __future__ import annotations

import base64
import csv
import html.parser
import io
import json
import re
import time
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file
from sklearn.metrics import confusion_matrix

import petseg
from petseg.cli import evaluate, export, train
from petseg.host.stop_signals import DivergedError
from petseg.inference.stored_samples import read_image, read_mask
from petseg.nets.model_config import ModelConfig
from petseg.report.artifacts import read_history
from petseg.report.console_reporter import ConsoleReporter, Reporter, duration, epoch_line
from petseg.report.html_report import choose_images
from petseg.runs.checkpoint import load_checkpoint
from petseg.training.losses import balanced_class_weights
from shards import ShardSet

TINY: dict[str, Any] = {"size": 32, "widths": (8, 16), "epochs": 2, "batch_size": 8, "threads": 1}
TINY_ARGUMENTS = ["--size", "32", "--widths", "8,16", "--epochs", "2", "--batch-size", "8", "--threads", "1"]


def test_a_run_says_what_it_was(tiny_run: Path, made_up_set: Path) -> None:
    config = json.loads((tiny_run / "config.json").read_text())
    assert config["recipe"]["size"] == 32
    assert config["data"]["fingerprint"] == ShardSet.open(made_up_set).manifest.fingerprint
    assert {"torch", "petseg", "python", "nvidia-dali-cuda120"} <= set(config["versions"])
    assert config["precision"] == ("fp32" if not torch.cuda.is_available() else config["precision"])
    history = read_history(tiny_run)
    assert [entry["epoch"] for entry in history] == [1, 2]
    for entry in history:
        for part in ("train", "val"):
            assert 0 <= entry[part]["mean_iou"] <= 1
            assert entry[part]["loss"] > 0
            assert len(entry[part]["iou"]) == len(entry[part]["dice"]) == 3
    best = max(history, key=lambda entry: entry["val"]["mean_iou"])
    assert load_checkpoint(tiny_run / "best.pt").position["best_epoch"] == best["epoch"]
    for name in ("curves.png", "gallery.png"):
        with Image.open(tiny_run / name) as picture:
            assert min(picture.size) > 300
            assert len(picture.convert("RGB").getcolors(1 << 24) or []) > 50


def test_the_command_prints_a_line_an_epoch_or_json(call, made_up_set: Path, tmp_path: Path) -> None:
    result = call(train, "--shards", made_up_set, "--run", tmp_path / "a", *TINY_ARGUMENTS)
    assert result.code == 0, result.err
    lines = result.out.splitlines()
    assert [line.split()[:2] for line in lines[:2]] == [["epoch", "1/2"], ["epoch", "2/2"]]
    assert "petseg-eval" in lines[2]
    result = call(train, "--shards", made_up_set, "--run", tmp_path / "b", *TINY_ARGUMENTS, "--json")
    document = json.loads(result.out)
    assert document["run"] == str(tmp_path / "b")
    assert document["epoch"] == 2
    # The same seed gives the same weights; another one others.
    a, b = (load_checkpoint(tmp_path / name / "last.pt").model for name in "ab")
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_runs_get_the_next_free_name(call, made_up_set: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    for number in (1, 2):
        result = call(train, "--shards", made_up_set, *TINY_ARGUMENTS[:-6], "--epochs", "1")
        assert result.code == 0, result.err
        assert (tmp_path / "runs" / f"unet-00{number}" / "best.pt").is_file()


def test_the_tutorials_recipe_trains(call, made_up_set: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    result = call(train, "--shards", made_up_set, "--run", run, "--model", "tutorial", "--size", "32", "--epochs", "1")
    assert result.code == 0, result.err
    recipe = json.loads((run / "config.json").read_text())["recipe"]
    assert (recipe["batch_size"], recipe["lr"], recipe["optimizer"], recipe["augment"]) == (32, 1e-3, "adam", "none")
    checkpoint = load_checkpoint(run / "best.pt")
    assert checkpoint.average is None


def test_scores_are_those_of_an_independent_count(call, tiny_run: Path, made_up_set: Path, tmp_path: Path) -> None:
    """Predict every picture at its own size with the Python API and count with scikit-learn."""
    table = tmp_path / "table.csv"
    result = call(evaluate, tiny_run, "--shards", made_up_set, "--own-size", "--json", "--csv", table)
    document = json.loads(result.out)
    network = petseg.load(tiny_run)
    split = ShardSet.open(made_up_set).split("test")
    counts = np.zeros((3, 3), np.int64)
    for index in range(len(split)):
        mask = network.predict(read_image(split, index)).mask - 1
        counts += confusion_matrix(read_mask(split, index).ravel(), mask.ravel(), labels=[0, 1, 2])
    assert document["samples"] == len(split)
    assert document["compared_at"] == "original resolution"
    # Pillow and the loader resize a few pixels differently by a level or two.
    np.testing.assert_allclose(np.array(document["confusion"]), counts, atol=0.005 * counts.sum())
    assert np.array(document["confusion"]).sum() == counts.sum()
    rows = list(csv.DictReader(table.open()))
    assert [row["key"] for row in rows] == [split.key(index) for index in range(len(split))]
    assert all(0 <= float(row["mean_iou"]) <= 1 for row in rows)


def test_evaluation_options(call, tiny_run: Path, made_up_set: Path) -> None:
    def scores(*arguments: object) -> dict[str, Any]:
        result = call(evaluate, tiny_run, "--shards", made_up_set, "--json", *arguments)
        assert result.code == 0, result.err
        document: dict[str, Any] = json.loads(result.out)
        return document

    plain = scores()
    assert {"mean_iou", "iou", "pixel_accuracy", "samples"} <= set(plain)
    assert len(plain["iou"]) == 3
    assert scores("--batch-size", 7)["confusion"] == plain["confusion"]
    exact = scores("--device", "cpu", "--precision", "fp32")["confusion"]
    assert exact == plain["confusion"] or torch.cuda.is_available()
    assert scores("--device", "cpu", "--precision", "bf16")["confusion"] != exact
    assert scores("--mirror")["confusion"] != plain["confusion"]
    assert sum(map(sum, scores("--size", 48)["confusion"])) == plain["samples"] * 48 * 48
    val = scores("--split", "val")
    best = max(read_history(tiny_run), key=lambda entry: entry["val"]["mean_iou"])
    assert val["mean_iou"] == pytest.approx(best["val"]["mean_iou"], abs=1e-3)
    text = call(evaluate, tiny_run, "--shards", made_up_set).out
    assert "with the border counted as animal" in text


def test_a_diverging_run_says_what_where_and_what_is_left(made_up_set: Path, tmp_path: Path) -> None:
    options = {**TINY, "lr": 1e30, "schedule": "constant", "clip_norm": 0.0, "checkpoint_steps": 1}
    with pytest.raises(DivergedError) as error:
        petseg.train(made_up_set, run=tmp_path / "run", options=options)
    message = str(error.value)
    split = ShardSet.open(made_up_set).split("train")
    keys = {split.key(index) for index in range(len(split))}
    named = message.split("pictures ")[1].split(";", maxsplit=1)[0].split(", ")
    assert set(named) <= keys
    assert len(named) == 8
    # The first update spoils the weights, which is seen before they are kept.
    assert "step 1 (epoch 1, batch 1)" in message
    assert "no checkpoint was written before it" in message
    assert "smaller --lr" in message
    assert not (tmp_path / "run" / "last.pt").exists()


def test_the_last_checkpoint_of_a_diverging_run_is_a_good_one(made_up_set: Path, tmp_path: Path, monkeypatch) -> None:
    from petseg.training import step as learner

    real = learner.learning_rate
    monkeypatch.setattr(learner, "learning_rate", lambda step, **more: real(step, **more) * (1e30 if step == 4 else 1))
    options = {**TINY, "clip_norm": 0.0, "checkpoint_steps": 1, "epochs": 3}
    with pytest.raises(DivergedError, match=r"right after the update at step 5 \(epoch 2, batch 2\)") as error:
        petseg.train(made_up_set, run=tmp_path / "run", options=options)
    assert f"the last good checkpoint is {tmp_path / 'run' / 'last.pt'} (step 4)" in str(error.value)
    monkeypatch.undo()
    petseg.train(run=tmp_path / "run", resume=True)  # which proves that it was
    assert len(read_history(tmp_path / "run")) == 3


def test_weights_that_only_validation_finds_spoilt(made_up_set: Path, tmp_path: Path, monkeypatch) -> None:
    from petseg.training.step import TrainStep

    nothing = torch.tensor(float("nan"))
    monkeypatch.setattr(TrainStep, "validation_loss", lambda self, logits, batch: nothing)
    monkeypatch.setattr("petseg.training.guard.trial_loss", lambda *given, **more: torch.tensor(1.0))
    with pytest.raises(DivergedError, match="the validation loss became nan in epoch 1"):
        petseg.train(made_up_set, run=tmp_path / "run", options=TINY)


def test_trying_weights_out_leaves_no_trace(made_up_set: Path, tmp_path: Path) -> None:
    """Neither in the network nor in the run: see also test_resume, whose runs save at every step or at none."""
    from msgspec.structs import replace

    from petseg.host.device import choose_placement
    from petseg.runs.recipe import default_recipe
    from petseg.training.step import TrainStep
    from petseg.training.trial import trial_loss
    from pipeline import Loader

    recipe = replace(default_recipe("unet"), model=ModelConfig(widths=(8, 16)), batch_size=8)
    learner = TrainStep(recipe, total_steps=9, placement=choose_placement(torch.device("cpu"), "fp32"))
    with Loader(made_up_set, split="train", batch_size=8, size=32, mask="index", device="cpu") as loader:
        batch = next(iter(loader))
    before = {name: value.clone() for name, value in learner.model.state_dict().items()}
    loss = trial_loss(learner, batch, global_valid=8)
    assert all(torch.equal(value, before[name]) for name, value in learner.model.state_dict().items())
    assert learner.step(batch, global_valid=8, step=0).loss == pytest.approx(float(loss), rel=1e-5)


# Neither weights nor pictures change much: only the statistics of batch normalisation do.
STEADY = {"lr": 1e-30, "progressive": False, "augment": "none", "stem": "full", "join": "concat"}


def test_patience_stops_early(made_up_set: Path, tmp_path: Path) -> None:
    notes: list[str] = []

    class Listening(Reporter):
        def note(self, text: str) -> None:
            notes.append(text)

    options = {**TINY, **STEADY, "epochs": 9, "patience": 2}  # nothing is learnt, so nothing gets better
    run = petseg.train(made_up_set, run=tmp_path / "run", options=options, make_reporter=Listening)
    assert len(read_history(run)) == 3
    assert "stopping early" in notes[-1]


class Counting(Reporter):
    """Counts validations and keeps notes."""

    def __init__(self) -> None:
        self.validations, self.notes = 0, list[str]()

    def start_validation(self, *, images: int) -> None:
        self.validations += 1

    def note(self, text: str) -> None:
        self.notes.append(text)


def test_validating_less_often(made_up_set: Path, tmp_path: Path) -> None:
    """Every second epoch and the last; the weights do not notice, and the best is one of those validated."""
    counted = Counting()
    options = {**TINY, "epochs": 5}
    often = petseg.train(made_up_set, run=tmp_path / "often", options=options)
    rarely = petseg.train(
        made_up_set, run=tmp_path / "rarely", options={**options, "validate_every": 2}, make_reporter=lambda: counted
    )
    assert counted.validations == 3
    history = read_history(rarely)
    assert [entry["epoch"] for entry in history if entry["val"]] == [2, 4, 5]
    for ours, theirs in zip(history, read_history(often), strict=True):
        assert ours["val"] in (None, theirs["val"])
        assert ours["train"] == theirs["train"]
    a, b = (load_checkpoint(run / "last.pt").model for run in (often, rarely))
    assert all(torch.equal(a[name], b[name]) for name in a)
    validated = [entry for entry in history if entry["val"]]
    best = max(validated, key=lambda entry: entry["val"]["mean_iou"])
    assert load_checkpoint(rarely / "best.pt").position["best_epoch"] == best["epoch"]
    assert [entry["epoch"] for entry in history if entry["best"]][-1] == best["epoch"]
    report = (rarely / "report.html").read_text()
    assert f"The weights of epoch {best['epoch']} (of 5)" in report
    row = report[report.index("<td>1</td>") : report.index("<td>2")]
    assert row.count("<td>-</td>") == 5  # what was not measured is not shown: loss, mean IoU, three classes


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a CUDA device")
def test_compiling_on_a_cpu_is_told_not_refused(made_up_set: Path, tmp_path: Path, monkeypatch) -> None:
    compiled: list[torch.nn.Module] = []
    monkeypatch.setattr(torch, "compile", lambda network: (compiled.append(network), network)[1])
    monkeypatch.setenv("CXX", "true")  # any program that is there
    counted = Counting()
    options = {**TINY, "epochs": 1, "compile": True}
    petseg.train(made_up_set, run=tmp_path / "run", options=options, make_reporter=lambda: counted)
    assert len(compiled) == 1
    assert "made steps no faster" in counted.notes[0]


def test_patience_counts_epochs_where_not_all_are_validated(made_up_set: Path, tmp_path: Path) -> None:
    options = {**TINY, **STEADY, "epochs": 9, "patience": 3, "validate_every": 2}
    counted = Counting()
    run = petseg.train(made_up_set, run=tmp_path / "run", options=options, make_reporter=lambda: counted)
    assert len(read_history(run)) == 6  # epoch 2 is the best, 4 is two epochs later, 6 is four
    assert "no better epoch than 2 in 3: stopping early" in counted.notes


@pytest.mark.parametrize("options", [{"checkpoint_steps": 1}, {"checkpoint_minutes": 1e-9}], ids=str)
def test_checkpoints_within_an_epoch(made_up_set: Path, tmp_path: Path, options: dict[str, Any]) -> None:
    steps: list[int] = []

    class Looking(Reporter):
        def batch(self, **facts: Any) -> None:
            if (tmp_path / "run" / "last.pt").exists():
                steps.append(load_checkpoint(tmp_path / "run" / "last.pt").position["step"])

    petseg.train(made_up_set, run=tmp_path / "run", options={**TINY, **options, "epochs": 1}, make_reporter=Looking)
    assert steps == [1, 2]  # of three steps; seen at the one after


def test_without_a_validation_split(made_up_pets: Path, tmp_path: Path, command) -> None:
    out = tmp_path / "set"
    command("petseg-shard", "build", made_up_pets, out, "--split", "random", "--fractions", "1,0,0")
    run = petseg.train(out, run=tmp_path / "run", options={**TINY, "epochs": 1, "class_weights": "balanced"})
    assert read_history(run)[0]["val"] is None
    assert "train split" in (run / "report.html").read_text()
    assert balanced_class_weights(ShardSet.open(out).manifest.splits["train"].class_pixels)[2] > 1


def test_tensorboard(made_up_set: Path, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = petseg.train(made_up_set, run=tmp_path / "run", options={**TINY, "tensorboard": True})
    events = EventAccumulator(str(run / "events"))
    events.Reload()
    written = [(event.step, event.value) for event in events.Scalars("mean_iou/val")]
    assert written == [(e["epoch"], pytest.approx(e["val"]["mean_iou"])) for e in read_history(run)]


class _Page(html.parser.HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in ("img", "meta", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.links += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_report_stands_alone(tiny_run: Path) -> None:
    text = (tiny_run / "report.html").read_text()
    page = _Page()
    page.feed(text)
    assert page.open == []
    pictures = [link for link in page.links if not link.startswith("#")]  # within the curves, SVG refers to itself
    assert len(pictures) == 4 * text.count("<figcaption>") == 4 * 6
    assert all(link.startswith(("data:image/png;base64,", "data:image/jpeg;base64,")) for link in pictures)
    for link in pictures:
        with Image.open(io.BytesIO(base64.b64decode(link.split(",")[1]))) as shown:
            assert max(shown.size) <= 300
    for part in ("Mean IoU", "Confusion", "worst", "median", "best", "accuracy", "fingerprint", "waiting", "stall"):
        assert part.lower() in text.lower()
    assert "<script" not in text
    assert not re.search(r"(?:src|href)=.?https?:|url\(https?:|@import", text)


def test_the_report_shows_where_prediction_and_truth_differ() -> None:
    from petseg.report.thumbnails import BORDER_ONLY, INVENTED, MISSED, differences

    truth = np.array([[0, 0, 0, 1, 1, 1, 2, 2]], np.uint8)
    seen = np.array([[0, 1, 2, 0, 1, 2, 0, 2]], np.uint8)
    white = (255, 255, 255)
    expected = [white, MISSED, BORDER_ONLY, INVENTED, white, BORDER_ONLY, BORDER_ONLY, white]
    assert [tuple(pixel) for pixel in differences(truth, seen)[0].tolist()] == expected


def test_best_median_and_worst() -> None:
    from petseg.inference.evaluation import Evaluation

    matrices = np.array([np.diag([9, 9, 9]) + bad for bad in (5, 0, 3, 1, 2)])
    chosen = choose_images(Evaluation(matrices=matrices, loss=None), each=1)
    assert [(why, index) for why, index, _ in chosen] == [("best", 1), ("median", 4), ("worst", 0)]
    assert len(choose_images(Evaluation(matrices=matrices[:2], loss=None))) == 2


def test_weights_and_their_card(call, tiny_run: Path, tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    assert call(export, tiny_run, path).code == 0
    with safe_open(path, "pt") as file:
        architecture = json.loads(file.metadata()["architecture"])
    network = petseg.build_model(msgspec.convert(architecture, ModelConfig), load_pretrained=False)
    network.load_state_dict(load_file(path))
    image = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    with torch.inference_mode():
        torch.testing.assert_close(network.eval()(image), petseg.load(tiny_run, device="cpu").model(image))
    card = (tmp_path / "net.md").read_text()
    assert "Limits" in card
    assert "mean IoU" in card
    assert json.loads(call(export, tiny_run, path, "--json").out)["bytes"] == path.stat().st_size


def test_the_live_line(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tiny_run: Path) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("FORCE_COLOR", "1")
    reporter = ConsoleReporter()
    reporter.start_epoch(epoch=0, done=0, images=100)
    time.sleep(0.01)
    reporter.batch(images=40, loss=1.25, confusion=torch.eye(3, dtype=torch.int64), wait=0.25, remaining=60)
    time.sleep(0.3)
    reporter.start_validation(images=10)
    reporter.validated(10)
    reporter.end_epoch(read_history(tiny_run)[0], epochs=2)
    reporter.close()
    out, err = capfd.readouterr()
    assert "epoch 1/2" in out
    for part in ("loss 1.250", "IoU 1.000", "images/s", "wait 25%", "left"):
        assert part in err


def test_words_for_people(tiny_run: Path) -> None:
    assert [duration(s) for s in (5, 600, 12_000)] == ["5 s", "10 min", "3 h 20 min"]
    line = epoch_line({**read_history(tiny_run)[0], "best": True}, epochs=120)
    assert line.startswith("epoch   1/120")
    assert line.endswith("best")


def test_a_disk_that_is_full_costs_one_checkpoint_only(made_up_set: Path, tmp_path: Path, monkeypatch) -> None:
    import errno

    from petseg.training import loop as trainer
    from shards import PetsegError

    real, count = trainer.save_checkpoint, iter(range(99))

    def full(path: Path, checkpoint: Any) -> None:
        if next(count) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(path, checkpoint)

    monkeypatch.setattr(trainer, "save_checkpoint", full)
    run = tmp_path / "run"
    with pytest.raises(PetsegError, match=rf"No space left on device.*--resume --run {run}"):
        petseg.train(made_up_set, run=run, options={**TINY, "checkpoint_steps": 1})
    assert load_checkpoint(run / "last.pt").position["step"] == 2
    monkeypatch.undo()
    petseg.train(run=run, resume=True)
    assert len(read_history(run)) == 2


def test_the_command_that_repeats_a_run(tiny_run: Path, made_up_set: Path) -> None:
    import shlex

    from petseg.host.distributed import World
    from petseg.runs.command_line import with_torchrun

    command = json.loads((tiny_run / "config.json").read_text())["command"]
    words = shlex.split(command)
    assert words[0] == "petseg-train"
    context = train.make_context("petseg-train", words[1:])  # it is one that the shell's command takes
    assert context.params["shards"] == made_up_set
    assert context.params["widths"] == (8, 16)
    assert context.params["lr"] == 0.01
    four = with_torchrun(command, World(rank=0, size=4, local_rank=0, local_size=2))
    place = "--nnodes 2 --rdzv-backend c10d --rdzv-endpoint HOST:29500 --nproc-per-node 2"
    assert four == f"torchrun {place} --no-python -- {command}"
