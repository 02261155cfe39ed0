"""Several machines train as one process does, whichever of them are there."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from loopback_nodes import ARGUMENTS, COMMAND, OPTIONS, LoopbackNodes, NamespaceNodes, descendants

import petseg
from petseg.runs.checkpoint import load_checkpoint

A, B = "127.0.0.1", "127.0.0.2"

pytestmark = pytest.mark.slow


@pytest.fixture
def launch(synthetic_set: Path, tmp_path: Path) -> Iterator[Callable[..., LoopbackNodes]]:
    started = list[LoopbackNodes]()

    def start(
        *arguments: str, run: Path, nodes: str = "1:2", kind: type[LoopbackNodes] = LoopbackNodes
    ) -> LoopbackNodes:
        command = ["--shards", str(synthetic_set), "--run", str(run), *ARGUMENTS, "--resume", "auto"]
        command += ["--checkpoint-steps", "1", *arguments]
        started.append(kind(tmp_path, nodes=nodes, arguments=command, options=("--max-restarts", "3")))
        return started[-1]

    yield start
    for nodes in started:
        nodes.close()


def step_of(run: Path) -> int:
    return load_checkpoint(run / "last.pt").position["step"] if (run / "last.pt").exists() else 0


def assert_same(run: Path, reference: Path) -> None:
    """Equal up to rounding: the same sums, in another order."""
    ours, theirs = load_checkpoint(run / "last.pt"), load_checkpoint(reference / "last.pt")
    assert ours.position["step"] == theirs.position["step"] == 21
    for part in ("model", "average"):
        for name, value in getattr(theirs, part).items():
            torch.testing.assert_close(
                getattr(ours, part)[name], value, rtol=2e-3, atol=2e-4, msg=lambda m, n=name: f"{n}: {m}"
            )
    for mine, other in zip(ours.history, theirs.history, strict=True):
        assert mine["train"]["loss"] == pytest.approx(other["train"]["loss"], rel=1e-4)
        assert mine["val"]["loss"] == pytest.approx(other["val"]["loss"], rel=1e-4)


@pytest.mark.faults
def test_a_machine_dies_and_the_other_goes_on(
    launch, one_process: Path, tmp_path: Path, campaign: Callable[[int, int], int], monkeypatch
) -> None:
    """Two machines, then one of them, whichever it is: with the weights of one process that nothing interrupted."""
    monkeypatch.setenv("PETSEG_TEST_PAUSE", "0.05")  # else the run may have ended before this process sees that it runs
    draw = random.Random(0)
    for number in range(campaign(1, 12)):
        least, which = draw.randint(1, 15), draw.randrange(2)
        for attempt in range(5):
            run = tmp_path / f"run-{number}-{attempt}"
            nodes = launch(run=run)
            pair = [nodes.start(A), nodes.start(B)]
            nodes.wait_for(lambda run=run, least=least: step_of(run) >= least)
            config = json.loads((run / "config.json").read_text())
            if (config["world_size"], config["resumed"]) == (2, []):
                break
            nodes.close()  # one came late, or was silent for so long that it counted as gone: this computer is busy
        nodes.kill(pair.pop(which))
        assert nodes.wait(pair[0]) == 0, nodes.output(pair[0])
        config = json.loads((run / "config.json").read_text())
        assert (config["world_size"], len(config["resumed"])) == (1, 1)
        assert_same(run, one_process)


@pytest.mark.faults
@pytest.mark.parametrize("victim", [0, 1])
def test_a_machine_that_comes_back_joins_again(
    launch, one_process: Path, tmp_path: Path, campaign: Callable[[int, int], int], monkeypatch, victim: int
) -> None:
    """torchrun then starts all ranks anew, without counting it as a restart, and may hand them a used store."""
    if campaign(0, 1) == 0:
        pytest.skip("takes a minute: only with --campaign")
    monkeypatch.setenv("PETSEG_TEST_PAUSE", "1.5")
    run, resumed = tmp_path / "run", lambda: json.loads((run / "config.json").read_text())["resumed"]
    nodes = launch(run=run)
    pair = {A: nodes.start(A), B: nodes.start(B)}
    nodes.wait_for(lambda: step_of(run) >= 2)
    address = (A, B)[victim]
    nodes.kill(pair[address])
    nodes.wait_for(lambda: len(resumed()) == 1)
    pair[address] = nodes.start(address)
    nodes.wait_for(lambda: len(resumed()) == 2)
    assert '"world_size": 2' in (run / "config.json").read_text()
    for process in pair.values():
        assert nodes.wait(process) == 0, nodes.output(process)
    assert_same(run, one_process)


@pytest.mark.faults
def test_a_machine_without_a_network_is_noticed(
    launch, one_process: Path, tmp_path: Path, campaign: Callable[[int, int], int], monkeypatch
) -> None:
    """Nothing closes its connections, as after a power cut: its silence says it, after --rank-timeout."""
    if campaign(0, 1) == 0:
        pytest.skip("takes a minute: only with --campaign")
    monkeypatch.setenv("PETSEG_TEST_PAUSE", "0.3")
    run = tmp_path / "run"
    nodes = launch("--rank-timeout", "0.15", run=run, kind=NamespaceNodes)
    first, second = (nodes.start(address) for address in NamespaceNodes.addresses)
    nodes.wait_for(lambda: step_of(run) >= 3)
    nodes.cut()
    assert nodes.wait(first) == 0, nodes.output(first)
    for process in (first, second):  # the second's torchrun goes on looking for the store for minutes
        assert "has lost another process" in nodes.output(process)
    assert json.loads((run / "config.json").read_text())["world_size"] == 1
    assert_same(run, one_process)


@pytest.mark.faults
def test_a_run_s_folder_that_is_not_shared(launch, tmp_path: Path, campaign: Callable[[int, int], int]) -> None:
    """Relative to another folder on each machine: with --resume nobody starts, and rank 0 says who does not see it."""
    if campaign(0, 1) == 0:
        pytest.skip("takes half a minute: only with --campaign")
    nodes = launch(run=Path("run"), nodes="2")
    for address, name in ((A, "a"), (B, "b")):
        (tmp_path / name).mkdir()
        nodes.start(address, cwd=tmp_path / name)
    first, second = nodes.processes
    assert nodes.wait(first) != 0
    assert nodes.wait(second) != 0
    text = nodes.output(first)
    assert "rank 1 on " in text
    assert "does not see run, which rank 0 on " in text
    assert not (tmp_path / "b" / "run").exists()
    assert not (tmp_path / "a" / "run" / "last.pt").exists()


SRUN = """#!/bin/bash
while [[ $1 == --* ]]; do shift; done
for ((task = 0; task < SLURM_NTASKS; task++)); do
    SLURM_PROCID=$task SLURM_LOCALID=$task "$@" & tasks+=($!)
done
for task in "${tasks[@]}"; do wait "$task"; code=$?; ((code > largest)) && largest=$code; done
exit $((largest))
"""
SCONTROL = """#!/bin/bash
case $1 in show) echo 127.0.0.1;; requeue) echo "$2" >> requeued;; esac
"""
DOCUMENT = Path(petseg.__file__).parent.parent / "docs" / "cluster.md"


def scripts() -> list[str]:
    return re.findall(r"^```bash\n(.*?)^```", DOCUMENT.read_text(), re.DOTALL | re.MULTILINE)


def test_the_scripts_of_the_document_are_bash() -> None:
    assert len(scripts()) > 5
    for script in scripts():
        result = subprocess.run(["bash", "-n"], input=script, capture_output=True, text=True, check=False)
        assert (result.returncode, result.stderr) == (0, ""), script


@pytest.mark.faults
def test_the_slurm_script_requeues_until_the_run_is_finished(
    one_process: Path, synthetic_set: Path, tmp_path: Path, campaign: Callable[[int, int], int]
) -> None:
    """With programs that stand in for srun and scontrol."""
    if campaign(0, 1) == 0:
        pytest.skip("takes a minute: only with --campaign")
    run = tmp_path / "runs" / "street"
    (script,) = [one for one in scripts() if "SBATCH" in one and "petseg-train" in one]
    (tmp_path / "job.sh").write_text(script.replace("/shared/runs/street", str(run)))
    options = [f"{name.replace('_', '-')} = {json.dumps(value)}" for name, value in OPTIONS.items()]
    (tmp_path / "street.toml").write_text("\n".join([*options, f'shards = "{synthetic_set}"', 'device = "cpu"']))
    start = f'#!/bin/bash\nexec {sys.executable} {COMMAND} "$@"\n'
    for name, text in {"srun": SRUN, "scontrol": SCONTROL, "petseg-train": start}.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    environment |= {"SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2", "SLURM_JOB_ID": str(os.getpid())}
    environment |= {"SLURM_JOB_NODELIST": "node[1-2]", "PETSEG_TEST_PAUSE": "0.1", "GLOO_SOCKET_IFNAME": "lo"}
    start_job = lambda: subprocess.Popen(["bash", "job.sh"], cwd=tmp_path, env=environment)  # noqa: E731
    job = start_job()
    deadline = time.monotonic() + 120
    while not (run / "metrics.jsonl").exists():
        assert job.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    for pid in descendants(job.pid):  # as Slurm does: to all processes of the step
        if f"{COMMAND}" in Path(f"/proc/{pid}/cmdline").read_text():
            os.kill(pid, signal.SIGUSR1)
    assert job.wait(timeout=60) == 75
    assert (tmp_path / "requeued").read_text().split() == [environment["SLURM_JOB_ID"]]
    assert not load_checkpoint(run / "last.pt").position["finished"]
    assert start_job().wait(timeout=120) == 0
    assert len((tmp_path / "requeued").read_text().split()) == 1
    assert_same(run, one_process)
