"""``make gpu-proof``: what it plans, that a failing part costs only itself, and what it says where there is no GPU."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from petseg.cli import train
from shards.cores import usable_cores

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "tests" / "gpu"))  # pytest's importlib mode does not

import gpu_scaling  # noqa: E402 - found there
from gpu_proof import MINUTES, ProofPart, plan_parts, run_parts  # noqa: E402
from gpu_scaling import LOADS, plan_loaders  # noqa: E402


def part(name: str, *programs: str, seconds: float = 20) -> ProofPart:
    commands = tuple((sys.executable, "-c", program) for program in programs)
    return ProofPart(name=name, proves="nothing", seconds=seconds, commands=commands, outputs=(f"{name}.json",))


def test_the_plan_fits_into_its_time_and_tests_come_first(tmp_path: Path) -> None:
    parts = plan_parts(tmp_path)
    assert parts[0].name == "tests"
    assert sum(one.seconds for one in parts) <= 60 * MINUTES
    assert len({one.name for one in parts}) == len(parts)
    known = {option for parameter in train.params for option in parameter.opts}
    for command in (command for one in parts for command in one.commands if command[0].endswith("petseg-train")):
        assert {word for word in command if word.startswith("--")} <= known


def test_a_part_that_fails_or_hangs_costs_only_itself(tmp_path: Path) -> None:
    started = time.monotonic()
    hanging = "import subprocess, time; subprocess.Popen(['sleep', '60']); time.sleep(60)"
    parts = [
        part("broken", "print('before'); raise SystemExit(3)", "print('never')"),
        part("slow", hanging, seconds=1.5),
        part("good", "print('one')", f"open({str(tmp_path / 'good.json')!r}, 'w').write('x')"),
    ]
    proof = run_parts(parts, tmp_path, seconds=60)
    assert time.monotonic() - started < 58
    assert [one.outcome for one in proof.parts] == ["failed (exit code 3)", "no result after 2 s", "passed"]
    assert proof.parts[0].output == ("before",)
    assert proof.parts[2].outputs == ("good.log", "good.json")
    written = json.loads((tmp_path / "proof.json").read_text())
    assert [one["name"] for one in written["parts"]] == ["broken", "slow", "good"]
    assert written["environment"]["versions"]["torch"]
    assert "| slow | nothing | no result after 2 s |" in (tmp_path / "proof.md").read_text()


def test_without_time_nothing_is_started(tmp_path: Path) -> None:
    proof = run_parts([part("late", "print('ran')")], tmp_path, seconds=0.5)
    assert proof.parts[0].outcome == "not started: no time left"
    assert not (tmp_path / "late.log").exists()


def test_scaling_measures_each_loader(tmp_path: Path, synthetic_set: Path) -> None:
    common = ["--shards", synthetic_set, "--out", tmp_path, "--device", "cpu", "--size", "32", "--batch-size", "16"]
    result = CliRunner().invoke(gpu_scaling.main, [str(word) for word in (*common, "--seconds", "0.05")])
    assert result.exit_code == 0, result.output
    lines = json.loads((tmp_path / "gpu-scaling.json").read_text())
    planned = plan_loaders("cpu", usable_cores())
    assert [(line["engine"], line["threads"]) for line in lines] == [(x["engine"], x["threads"]) for x in planned]
    assert all(line["rate"] > 0 for line in lines)
    assert (tmp_path / "gpu-scaling.md").read_text().count("\n") == 2 + len(lines)


def test_scaling_on_a_gpu_adds_copies_and_decoder_options() -> None:
    planned = plan_loaders("cuda", 6)
    assert [one["threads"] for one in planned if one["device"] == "cpu"] == [1, 2, 4, 6]
    assert [one["threads"] for one in planned if one["engine"] == "torch" and one["device"] == "cuda"] == [6]
    decoders = [one["decoder"].hw_decoder_load for one in planned if "decoder" in one]
    assert decoders == list(LOADS)


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a CUDA device")
def test_without_a_gpu_it_says_what_it_would_do(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "tests/gpu/gpu_proof.py", "--out", tmp_path / "proof"],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        timeout=60,
    )
    assert result.returncode == 1
    assert len(result.stderr.splitlines()) == 1
    assert result.stderr.startswith("Error: no GPU here")
    assert [line.split()[2] for line in result.stdout.splitlines()] == [one.name for one in plan_parts(tmp_path)]
    assert not (tmp_path / "proof").exists()
