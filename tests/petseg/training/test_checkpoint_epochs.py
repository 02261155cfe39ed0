"""``--checkpoint-epochs``: which epochs end with a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

import petseg
from petseg.report.console_reporter import Reporter
from petseg.runs.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from petseg.runs.run_folder import read_metrics

TINY: dict[str, Any] = {"size": 32, "widths": (8, 16), "batch_size": 8, "threads": 1}


@pytest.mark.usefixtures("no_report")
def test_checkpoints_of_some_epochs(synthetic_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the first, every third, and the last; a run that is killed between two of them repeats what is lost."""
    written = list[tuple[str, int]]()

    def save(place: Path, checkpoint: Checkpoint) -> None:
        written.append((place.name, len(checkpoint.history)))
        save_checkpoint(place, checkpoint)

    class Killed(Reporter):
        def end_epoch(self, entry: Mapping[str, Any], **_: Any) -> None:
            if entry["epoch"] == 5:
                raise KeyboardInterrupt

    monkeypatch.setattr("petseg.training.loop.save_checkpoint", save)
    options = {**TINY, "epochs": 8, "checkpoint_epochs": 3, "validate_every": 7}
    with pytest.raises(KeyboardInterrupt):
        petseg.train(synthetic_set, run=tmp_path / "run", options=options, make_reporter=Killed)
    assert written == [("last.pt", 1), ("last.pt", 3)]
    assert len(read_metrics(tmp_path / "run")) == 5
    petseg.train(run=tmp_path / "run", resume=True)
    assert [epoch for name, epoch in written if name == "last.pt"] == [1, 3, 6, 7, 8], "the seventh is the best"
    monkeypatch.undo()
    petseg.train(synthetic_set, run=tmp_path / "whole", options=options)
    last = [load_checkpoint(tmp_path / name / "last.pt") for name in ("run", "whole")]
    assert all(torch.equal(last[0].weights[name], last[1].weights[name]) for name in last[0].weights)
    assert [len(checkpoint.history) for checkpoint in last] == [8, 8]
