"""``petseg-bench`` as a user runs it, on made-up pictures."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.peers import PEERS
from bench.results import read_results

Command = Callable[..., "subprocess.CompletedProcess[str]"]
QUICK = ("--size", "32", "--repeats", "1", "--seconds", "0.05")
ALONE = ("--starts", "0", "--soak", "0")


def test_help_answers_and_names_the_commands(command: Command) -> None:
    shown = command("petseg-bench", "--help").stdout
    for name in ("loader", "train", "build", "compare", "show", "figures"):
        assert name in shown


@pytest.mark.slow
def test_file_loaders_in_every_pass(command: Command, made_up_set: Path, tmp_path: Path) -> None:
    files = {"--json": tmp_path / "run.json", "--page": tmp_path / "run.html", "--plot": tmp_path / "run.svg"}
    written = [part for pair in files.items() for part in pair]
    command("petseg-bench", "loader", "--shards", made_up_set, *QUICK, "--augment", "both", "--cache", "both",
            "--workers", "1", "--storages", "source", "--peers", "tutorial,tuned", *written)  # fmt: skip
    assert all(path.stat().st_size > 1000 for path in files.values())
    run = read_results(tmp_path / "run.json")
    kinds = ("source", "source augmented", "source cold")
    assert {line.name for line in run.lines} == {f"{peer} {kind}" for peer in ("tutorial", "tuned") for kind in kinds}
    for line in run.lines:
        assert line.check.missing == line.check.repeated == 0
        assert line.check.compared == run.data.samples
        assert line.rates[0] > 0
        assert line.peak_memory_bytes > 1 << 24
        assert bool(line.marks) == (line.peer == "tuned")
        assert (line.resident_before is None) or line.cache == "cold"
    assert {limit.name for limit in run.limits} == {"copy", "read", "decode", "decode, scaled"}
    compared = command("petseg-bench", "compare", tmp_path / "run.json", tmp_path / "run.json", "--json").stdout
    assert json.loads(compared)["changed"] == 0
    document = tmp_path / "doc.md"
    document.write_text("<!-- figures: run-full -->\n<!-- end of figures -->\n")
    command("petseg-bench", "figures", tmp_path / "run.json", "--into", document, "--plot", tmp_path / "figure.svg")
    assert "](figure.svg)" in document.read_text()
    assert "tutorial" in command("petseg-bench", "show", tmp_path / "run.json").stdout


@pytest.mark.slow
def test_loaders_of_shards(command: Command, made_up_set: Path, tmp_path: Path) -> None:
    command("petseg-bench", "loader", "--shards", made_up_set, *QUICK, *ALONE, "--augment", "none", "--storages", "raw",
            "--peers", "petseg,webdataset,dali-reader,ffcv", "--json", tmp_path / "run.json")  # fmt: skip
    run = read_results(tmp_path / "run.json")
    left = {one.name: one.reason for one in run.left}
    ours = {f"petseg raw {engine}" for engine in ("dali", "torch", "processes")}
    assert ours | {"webdataset raw", "dali-reader raw"} <= {line.name for line in run.lines}, left
    assert {line.workers > 0 for line in run.lines if line.engine == "processes"} == {True}
    assert {line.peer: bool(line.marks) for line in run.lines if line.peer != "ffcv"} == {
        "petseg": False, "webdataset": True, "dali-reader": True,
    }  # fmt: skip
    assert ("ffcv raw" in left) != any(line.peer == "ffcv" for line in run.lines)
    if not run.environment.gpu:
        assert "no GPU" in left["petseg raw dali gpu"]


@pytest.mark.slow
def test_training_and_consumer(command: Command, made_up_set: Path, tmp_path: Path) -> None:
    command("petseg-bench", "train", "--shards", made_up_set, "--models", "unet", *QUICK, "--batch-size", "2",
            "--device", "cpu", "--json", tmp_path / "train.json")  # fmt: skip
    (line,) = read_results(tmp_path / "train.json").train
    assert line.memory_rates[0] > 0
    assert 0 <= line.wait_share[0] <= 1
    command("petseg-bench", "train", "--shards", made_up_set, *QUICK, "--consumer-rate", "40", "--peers", "petseg",
            "--storages", "source", "--json", tmp_path / "consumer.json")  # fmt: skip
    lines = read_results(tmp_path / "consumer.json").train
    assert len(lines) == 3
    for one in lines:
        assert one.real_rates[0] <= 40.0
        assert one.memory_rates == (40.0,)


@pytest.mark.slow
def test_packing(command: Command, made_up_pets: Path, tmp_path: Path) -> None:
    command("petseg-bench", "build", made_up_pets, "--repeats", "1", "--workers", "1", "--storages", "source",
            "--json", tmp_path / "build.json")  # fmt: skip
    run = read_results(tmp_path / "build.json")
    assert {line.name for line in run.build} >= {"petseg source, 1 workers", "tar cf", "webdataset TarWriter"}
    assert all(line.bytes > 100_000 for line in run.build)


@pytest.mark.slow
@pytest.mark.faults
def test_a_planted_handicap_is_found(
    command: Command, made_up_set: Path, tmp_path: Path, campaign: Callable[[int, int], int]
) -> None:
    """A campaign makes ten tries of each, which wants a quiet machine; by default nothing is decided."""
    tries = campaign(0, 10)

    def run(name: str, *options: str) -> Path:
        command("petseg-bench", "loader", "--shards", made_up_set, "--size", "64", "--storages", "source", "--peers",
                "tuned", "--workers", "1", "--augment", "none", "--repeats", "9" if tries else "1",
                "--seconds", "0.7" if tries else "0.1", *options, "--json", tmp_path / name)  # fmt: skip
        return tmp_path / name

    def changed(a: Path, b: Path) -> list[tuple[bool, float]]:
        lines = json.loads(command("petseg-bench", "compare", a, b, "--json").stdout)["lines"]
        return [(line["changed"], line["ratio"]) for line in lines]

    for number in range(max(1, tries)):
        first, again, slow = run(f"a{number}"), run(f"b{number}"), run(f"c{number}", "--handicap", "0.2")
        assert "slowed on purpose by 20%" in read_results(slow).lines[0].marks[-1]
        if tries:
            assert [found for found, _ in changed(first, again)] == [False]
            assert changed(first, slow)[0][0]
            assert changed(first, slow)[0][1] < 0.9


@pytest.mark.parametrize(
    ("options", "code", "told"),
    [
        (("loader", "--shards", "/nowhere"), 1, "no such folder"),
        (("loader", "--shards", "SET", "--split", "nope"), 2, "no split 'nope'"),
        (("loader", "--shards", "SET", "--peers", "nope"), 2, "'nope' is not known; there are:"),
        (("loader", "--shards", "SET", "--storages", "nope"), 2, "'nope' is not known"),
        (("loader", "--shards", "SET", "--size", "0"), 2, "--size 0"),
        (("loader", "--shards", "SET", "--repeats", "0"), 2, "--repeats 0"),
        (("loader", "--shards", "SET", "--handicap", "1"), 2, "--handicap 1"),
        (("loader", "--shards", "SET", "--json", "/nowhere/x.json"), 2, "does not exist"),
        (("loader", "--shards", "SET", "--plot", "x.gif"), 2, ".svg or .png"),
        (("loader", "--shards", "SET", "--source", "/nowhere", "--storages", "source"), 2, "--source"),
        (("train", "--shards", "SET", "--models", "nope"), 2, "'nope' is not known"),
        (("train", "--shards", "SET", "--peers", "tutorial"), 2, "--consumer-rate"),
        (("train", "--shards", "SET", "--consumer-rate", "0"), 2, "--consumer-rate 0"),
        (("build", "/nowhere"), 1, "/nowhere"),
        (("build", "SET", "--workers", "two"), 2, "--workers 'two'"),
        (("compare", "/nowhere/a.json", "/nowhere/b.json"), 1, "/nowhere/a.json"),
    ],
)
def test_wrong_input_gives_one_clear_line(
    command: Command, made_up_set: Path, options: tuple[str, ...], code: int, told: str
) -> None:
    arguments = [str(made_up_set) if option == "SET" else option for option in options]
    result = command("petseg-bench", *arguments, check=False)
    assert (result.returncode, told in result.stderr) == (code, True), result.stderr
    assert "Traceback" not in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_cuda_without_cuda_is_refused(command: Command, made_up_set: Path) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("CUDA is here")
    result = command("petseg-bench", "loader", "--shards", made_up_set, "--device", "cuda", check=False)
    assert result.returncode == 2
    assert "--device cuda: no GPU here" in result.stderr


def test_every_peer_has_a_module_and_a_title() -> None:
    import bench.peers as package

    folder = Path(package.__file__).parent
    for spec in PEERS:
        assert (folder / f"{spec.module}.py").is_file()
        assert spec.title
    assert len({spec.name for spec in PEERS}) == len(PEERS)
