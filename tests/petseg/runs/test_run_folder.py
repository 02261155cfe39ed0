"""What a run writes into its folder, and how folders are named."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from PIL import Image

import petseg
from petseg.cli import train
from petseg.report.console_reporter import Reporter
from petseg.runs.checkpoint import load_checkpoint
from petseg.runs.run_folder import BEST, LAST, METRICS, RunFolder, create_run, read_metrics
from shards import ShardSet
from shards.errors import UsageError
from shards.format.labels import Labels

TINY: dict[str, Any] = {"size": 32, "widths": (8, 16), "epochs": 2, "batch_size": 8, "threads": 1}
TINY_ARGUMENTS = ["--size", "32", "--widths", "8,16", "--epochs", "2", "--batch-size", "8", "--threads", "1"]


def test_a_run_says_what_it_was(tiny_run: Path, synthetic_set: Path) -> None:
    config = json.loads((tiny_run / "config.json").read_text())
    assert config["recipe"]["size"] == [32, 32]
    assert config["recipe"]["model"]["classes"] == 3
    assert msgspec.convert(config["data"]["labels"], Labels) == ShardSet.open(synthetic_set).manifest.labels
    assert config["data"]["fingerprint"] == ShardSet.open(synthetic_set).manifest.fingerprint
    assert {"torch", "petseg", "python", "nvidia-dali-cuda120"} <= set(config["versions"])
    assert config["precision"] == ("fp32" if not torch.cuda.is_available() else config["precision"])
    history = read_metrics(tiny_run)
    assert [entry["epoch"] for entry in history] == [1, 2]
    for entry in history:
        for part in ("train", "val"):
            assert 0 <= entry[part]["mean_iou"] <= 1
            assert entry[part]["loss"] > 0
            assert len(entry[part]["iou"]) == len(entry[part]["dice"]) == 3
    best = max(history, key=lambda entry: entry["val"]["mean_iou"])
    assert load_checkpoint(tiny_run / "best.pt").position["best_epoch"] == best["epoch"]
    for name in ("curves.png", "gallery.png"):
        with Image.open(tiny_run / name) as image:
            assert min(image.size) > 300
            assert len(image.convert("RGB").getcolors(1 << 24) or []) > 50


@pytest.mark.usefixtures("no_report")
def test_runs_get_the_next_free_name(call, synthetic_set: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    for number in (1, 2):
        result = call(train, "--shards", synthetic_set, *TINY_ARGUMENTS[:-6], "--epochs", "1")
        assert result.code == 0, result.err
        assert (tmp_path / "runs" / f"unet-00{number}" / "best.pt").is_file()


@pytest.mark.parametrize("content", ['{"model_type": "segformer"}', "", '{"recipe": {}, "running": {}}'])
@pytest.mark.parametrize("more", [(), ("config.toml",), ("events", "config.toml")])
def test_another_program_s_configuration_is_no_run_that_begins(
    tmp_path: Path, content: str, more: tuple[str, ...]
) -> None:
    (tmp_path / "config.json").write_text(content)
    for name in more:
        (tmp_path / name).write_text("mine")
    before = {path.name: path.read_text() for path in tmp_path.iterdir()}
    with pytest.raises(UsageError, match="is not empty; choose another"):
        create_run(tmp_path, model="unet")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == before


def test_a_run_without_a_checkpoint_is_begun_again(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{\n  "format": "petseg-run",\n  "version": 2\n}\n')
    (tmp_path / "config.toml").write_text("seed = 1\n")
    with contextlib.closing(create_run(tmp_path, model="unet")):
        assert not list(tmp_path.glob("config*"))


def test_a_lock_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    """A run's folder may be anybody's."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic link"):
        RunFolder(tmp_path / "run")
    assert not (tmp_path / "elsewhere").exists()


def test_the_command_that_repeats_a_run(tiny_run: Path, synthetic_set: Path) -> None:
    import shlex

    from petseg.host.distributed import World
    from petseg.runs.command_line import with_torchrun

    command = json.loads((tiny_run / "config.json").read_text())["command"]
    words = shlex.split(command)
    assert words[0] == "petseg-train"
    context = train.make_context("petseg-train", words[1:])  # it is one that the shell's command takes
    assert context.params["shards"] == synthetic_set
    assert context.params["widths"] == (8, 16)
    assert context.params["lr"] == 0.01
    four = with_torchrun(command, World(rank=0, size=4, local_rank=0, local_size=2))
    place = "--nnodes 2 --rdzv-backend c10d --rdzv-endpoint HOST:29500 --nproc-per-node 2"
    assert four == f"torchrun {place} --no-python -- {command}"


@pytest.mark.usefixtures("no_report")
@pytest.mark.parametrize("resume", [True, "auto"])
@pytest.mark.parametrize("begun", ["an epoch", "nothing"])
def test_work_of_a_process_that_has_ended_is_not_trained_over(
    synthetic_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, begun: str, resume: Any
) -> None:
    """Two processes resume a run; one trains and ends after the other has read last.pt, before that locks the run."""
    run, opened = tmp_path / "run", petseg.training.start.open_set

    class Stopping(Reporter):
        def end_epoch(self, entry: dict[str, Any], **_: Any) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        petseg.train(synthetic_set, run=run, options=TINY, make_reporter=Stopping)
    if begun == "nothing":
        for name in (LAST, BEST, METRICS):
            (run / name).unlink()

    def another_trains(*given: Any, **named: Any) -> ShardSet:
        monkeypatch.undo()
        petseg.train(run=run, resume=True)
        return opened(*given, **named)

    monkeypatch.setattr("petseg.training.start.open_set", another_trains)
    with pytest.raises(UsageError, match="trained by another process while this one started; run the same command ag"):
        petseg.train(run=run, resume=resume)
    trained = (run / LAST).read_bytes()
    assert len(read_metrics(run)) == TINY["epochs"]
    petseg.train(run=run, resume=resume)
    assert (run / LAST).read_bytes() == trained
