"""Tasks as commands: processes that are killed, what schedulers set, and the reports."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from build_processes import PROGRAM
from forked_programs import ForkedPopen
from shard_sources import tree
from waiting import PATIENCE

from shards.cli import main


def start(source: Path, out: Path, **environment: str) -> subprocess.Popen[str]:
    arguments = [
        PROGRAM,
        "build",
        source,
        out,
        "--samples-per-shard",
        "4",
        "--workers",
        "1",
        "--task",
        "auto",
        "--json",
    ]
    pipe = subprocess.PIPE
    environment = {**os.environ, **environment}
    return ForkedPopen(list(map(str, arguments)), stdout=pipe, stderr=pipe, text=True, env=environment)


def test_a_killed_task_goes_on(slow_pets: Path, undisturbed: dict[str, bytes], tmp_path: Path) -> None:
    """Two tasks at a time, as an array of Slurm; one is killed when it has finished a shard, and started again."""
    out = tmp_path / "out"
    array = {"SLURM_ARRAY_TASK_MIN": "0", "SLURM_ARRAY_TASK_COUNT": "2"}
    with start(slow_pets, out, SLURM_ARRAY_TASK_ID="0", **array) as first:
        deadline = time.monotonic() + PATIENCE
        while not list(tmp_path.glob("out.tasks/*/*.done")):
            assert time.monotonic() < deadline
            assert first.poll() is None, first.communicate()
            time.sleep(0.002)
        first.kill()
    assert first.returncode == -signal.SIGKILL
    with (
        start(slow_pets, out, SLURM_ARRAY_TASK_ID="0", **array) as again,
        start(slow_pets, out, SLURM_ARRAY_TASK_ID="1", **array) as other,
    ):
        reports = [json.loads(process.communicate(timeout=120)[0]) for process in (again, other)]
    assert [(report["task"], report["tasks"]) for report in reports] == [(0, 2), (1, 2)]
    assert reports[0]["numbers_from"] == "SLURM_ARRAY_TASK_ID and SLURM_ARRAY_TASK_COUNT"
    assert 0 < reports[0]["resumed_shards"] < reports[0]["shards"]
    assert sum(report["shards"] for report in reports) == len([name for name in undisturbed if name.endswith(".tar")])
    with pytest.raises(SystemExit) as caught:
        main.main(["join", str(out)], prog_name="petseg-shard")
    assert not caught.value.code
    assert tree(out) == undisturbed
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_reports_and_errors(
    tiny_pets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(*arguments: str | Path, code: int = 0) -> str:
        with pytest.raises(SystemExit) as caught:
            main.main([str(argument) for argument in arguments], prog_name="petseg-shard")
        captured = capsys.readouterr()
        assert caught.value.code == code, captured.err
        assert bool(captured.err) == bool(code)  # no progress, for instance
        return captured.err if code else captured.out

    out = tmp_path / "out"
    build = ("build", tiny_pets, out, "--samples-per-shard", "4", "--workers", "1")
    monkeypatch.setenv("JOB_COMPLETION_INDEX", "1")
    assert "task 1 of 2, counted from 0 (from JOB_COMPLETION_INDEX)" in run(*build, "--tasks", "2")
    assert "those of task 0 of 2, counted from 0; run it again, then join" in run("join", out, code=1)
    assert "--strict is for the whole set" in run(*build, "--task", "0", "--tasks", "2", "--strict", code=2)
    assert "is none of dask:ADDRESS" in run(*build, "--executor", "spark", code=2)
    report = json.loads(run(*build, "--task", "0", "--tasks", "2", "--json"))
    assert report["parts"] == f"{out}.tasks"
    assert report["numbers_from"] == "options"
    joined = json.loads(run("join", out, "--json"))
    assert joined["samples"] == 30
    assert joined["already_complete"] is False
    assert "is already complete" in run(*build, "--task", "0", "--tasks", "2")
    for overwrite in ([], ["--overwrite"]):
        text = run("join", out, *overwrite)
        assert "is a finished set; there are no shards of tasks to join: nothing was done" in text
        assert "--overwrite" not in text
    assert "there is nothing to join" in run("join", tmp_path / "none", code=2)


def test_from_python(tiny_pets: Path, tiny_sets: dict[str, Path], tmp_path: Path) -> None:
    from petseg.api import build_shards, copy_shards, join_shards

    for task in range(2):
        build_shards(tiny_pets, tmp_path / "out", samples_per_shard=4, task=task, tasks=2, workers=1)
    join_shards(tmp_path / "out")
    copy_shards(tmp_path / "out", tmp_path / "copy")
    assert tree(tmp_path / "copy") == tree(tiny_sets["source"])
