"""What Weights & Biases gets, read back from its own files, offline."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from histories import entry
from optional_packages import needs
from wandb_files import read_offline

from petseg.loggers.logged_ids import read_id
from petseg.loggers.metrics_logger import LoggedRun
from petseg.loggers.wandb_runs import WandbLogger

pytestmark = needs("wandb", extra="wandb")
CLASSES = ("cat", "$x_1$ & co.", "a/b", "never there")


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_PROJECT", "tests")


def test_a_resumed_run_continues_without_repeats(tmp_path: Path) -> None:
    run = LoggedRun(folder=tmp_path, classes=CLASSES, parameters={"model.widths": "8,16", "lr": "0.01"})
    first = WandbLogger(run)
    first.open([])
    first.log(entry(1, 4))
    first.log(entry(2, 4, validated=False))
    first.close(finished=False)
    second = WandbLogger(run)  # the third epoch was finished, but not logged any more
    second.open([entry(1, 4), entry(2, 4, validated=False), entry(3, 4)])
    second.log(entry(4, 4))
    (tmp_path / "report.html").write_text("seen")
    second.add_files([tmp_path / "report.html"])
    second.close(finished=True)
    found = read_offline(tmp_path)
    for _ in range(300):  # wandb's own process may still be writing when it says that it has finished
        if len(found["exits"]) == 2:
            break
        time.sleep(0.1)
        found = read_offline(tmp_path)
    kept = read_id(tmp_path, "wandb")
    assert kept is not None
    assert (found["ids"], kept.epoch) == ({kept.id}, 4)
    assert found["names"] == {("tests", tmp_path.name)}
    assert found["config"].items() >= {"model.widths": "8,16", "lr": "0.01"}.items()
    assert [(row["epoch"], row["_step"]) for row in found["rows"]] == [(n, n) for n in (1, 2, 3, 4)]
    assert found["rows"][3]["val/iou/cat"] == pytest.approx(entry(4, 4)["val"]["iou"][0])
    assert found["rows"][3]["train/recall/$x_1$ & co."] == pytest.approx(entry(4, 4)["train"]["recall"][1])
    assert "val/mean_iou" not in found["rows"][1]
    assert "val/iou/never there" not in found["rows"][0]
    assert "report.html" in found["files"]
    assert found["exits"] == [1, 0]
