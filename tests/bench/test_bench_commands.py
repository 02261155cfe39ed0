"""``petseg-bench`` as a user runs it, on synthetic images; each option seen in what it finds."""

from __future__ import annotations

import importlib.util
import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from bench.cli import main
from bench.peers import PEERS
from bench.results.records import read_results

Command = Callable[..., "subprocess.CompletedProcess[str]"]
QUICK = ("--size", "32", "--repeats", "1", "--seconds", "0.05")


def test_help_answers_and_names_the_commands(command: Command) -> None:
    shown = command("petseg-bench", "--help").stdout
    for name in ("loader", "train", "build", "compare", "show", "figures", "shuffle"):
        assert name in shown


@pytest.mark.slow
def test_file_loaders_in_every_pass(command: Command, synthetic_set: Path, tmp_path: Path) -> None:
    files = {"--json": tmp_path / "run.json", "--page": tmp_path / "run.html", "--plot": tmp_path / "run.svg"}
    written = [part for pair in files.items() for part in pair]
    command("petseg-bench", "loader", "--shards", synthetic_set, *QUICK, "--augment", "both", "--cache", "both",
            "--workers", "1", "--storages", "source", "--split", "val", "--peers", "tutorial,tuned",
            *written)  # fmt: skip
    assert all(path.stat().st_size > 1000 for path in files.values())
    run = read_results(tmp_path / "run.json")
    kinds = ("source", "source augmented", "source cold")
    assert {line.name for line in run.lines} == {f"{peer} {kind}" for peer in ("tutorial", "tuned") for kind in kinds}
    for line in run.lines:
        assert line.check.missing == line.check.repeated == 0
        assert line.check.compared == run.data.samples
        assert line.rates[0] > 0
        assert line.peak_memory_bytes > 1 << 24
        assert bool(line.caveats) == (line.work.peer == "tuned")
    assert {limit.name for limit in run.limits} == {"copy", "read", "decode", "decode, scaled"}
    result = CliRunner().invoke(main, ["compare", *[str(tmp_path / "run.json")] * 2, "--json"])
    assert json.loads(result.stdout)["changed"] == 0
    assert {line["undecidable"] for line in json.loads(result.stdout)["lines"]} == {True}  # of one process each
    document = tmp_path / "doc.md"
    document.write_text("<!-- figures: run-full -->\n<!-- end of figures -->\n")
    command("petseg-bench", "figures", tmp_path / "run.json", "--into", document, "--plot", tmp_path / "figure.svg")
    assert "](figure.svg)" in document.read_text()
    assert "tutorial" in command("petseg-bench", "show", tmp_path / "run.json").stdout


@pytest.mark.slow
def test_loaders_of_shards(command: Command, synthetic_set: Path, tmp_path: Path) -> None:
    command("petseg-bench", "loader", "--shards", synthetic_set, *QUICK, "--augment", "none", "--storages", "raw",
            "--mask", "onehot", "--peers", "webdataset,dali-reader,ffcv", "--json", tmp_path / "run.json")  # fmt: skip
    run = read_results(tmp_path / "run.json")
    skipped = {one.name: one.reason for one in run.skipped}
    assert {"webdataset raw", "dali-reader raw"} <= {line.name for line in run.lines}, skipped
    assert {bool(line.caveats) for line in run.lines} == {True}
    assert ("ffcv raw" in skipped) == (importlib.util.find_spec("ffcv") is None)


@pytest.mark.slow
def test_options_of_loader(command: Command, synthetic_set: Path, tmp_path: Path) -> None:
    work = tmp_path / "work"
    command("petseg-bench", "loader", "--shards", synthetic_set, "--size", "32", "--seconds", "0.05", "--repeats", "2",
            "--batch-size", "8", "--augment", "none", "--storages", "raw", "--peers", "petseg", "--mask", "index",
            "--seed", "5", "--work", work, "--device", "cpu",
            "--json", tmp_path / "run.json")  # fmt: skip
    run = read_results(tmp_path / "run.json")
    assert {line.name for line in run.lines} == {f"petseg raw {engine} index" for engine in ("torch", "processes")}
    for line in run.lines:
        assert line.work.mask == "index"
        assert [repeat.process for repeat in line.repeats] == [0, 1]
        assert (line.workers > 0) == (line.work.engine == "processes")
        assert not line.caveats
    assert (run.settings["seed"], run.settings["work"]) == (5, str(work))
    assert not list(work.iterdir())
    assert {"lay out", "open", "limits", "turns"} <= run.parts.keys()
    assert sum(run.parts.values()) <= run.environment.seconds + 0.1
    if not run.environment.gpu:
        assert "no GPU" in {one.name: one.reason for one in run.skipped}["petseg raw dali gpu index"]


@pytest.mark.slow
def test_training_and_consumer(command: Command, synthetic_set: Path, tmp_path: Path) -> None:
    command("petseg-bench", "train", "--shards", synthetic_set, "--models", "unet", *QUICK, "--batch-size", "2",
            "--device", "cpu", "--precisions", "fp32,bf16", "--engine", "torch", "--seed", "3",
            "--json", tmp_path / "train.json")  # fmt: skip
    run = read_results(tmp_path / "train.json")
    assert {line.name for line in run.train} == {f"unet {precision} 32 px cpu torch" for precision in ("fp32", "bf16")}
    assert run.settings["seed"] == 3
    assert {"open", "turns"} < run.parts.keys()
    for line in run.train:
        assert line.compute[0].rate > 0
        assert 0 <= line.repeats[0].wait_seconds <= line.repeats[0].seconds
    command("petseg-bench", "train", "--shards", synthetic_set, *QUICK, "--consumer-rate", "80", "--peers", "petseg",
            "--storages", "source", "--json", tmp_path / "consumer.json")  # fmt: skip
    lines = read_results(tmp_path / "consumer.json").train
    assert len(lines) == 2
    for one in lines:
        assert one.rates[0] <= 80.0
        assert [repeat.rate for repeat in one.compute] == [80.0]


@pytest.mark.slow
def test_packing(command: Command, synthetic_pets: Path, tmp_path: Path) -> None:
    command("petseg-bench", "build", synthetic_pets, "--repeats", "1", "--workers", "1", "--storages", "source",
            "--size", "32", "--work", tmp_path / "work", "--json", tmp_path / "build.json")  # fmt: skip
    run = read_results(tmp_path / "build.json")
    decoding = "webdataset TarWriter, decoding each with Pillow first"
    assert {line.name for line in run.build} == {"petseg source, 1 worker", "tar cf", decoding}
    assert run.skipped == ()
    assert all(line.bytes > 100_000 for line in run.build)
    assert all(line.peak_memory_bytes > 0 for line in run.build)
    assert not list((tmp_path / "work").iterdir())


@pytest.mark.slow
@pytest.mark.faults
def test_a_planted_handicap_is_found(
    command: Command, synthetic_set: Path, tmp_path: Path, campaign: Callable[[int, int], int]
) -> None:
    """One try, of nine tenths of the speed, which shows on a busy machine, too; a campaign makes ten, of a fifth, and
    compares two runs of the same thing as well.
    """
    tries = campaign(1, 10)
    handicap, repeats, seconds = ("0.2", "9", "0.7") if tries > 1 else ("0.9", "1", "0.1")

    def run(name: str, *options: str) -> Path:
        split = "val" if tries == 1 else "train"
        command("petseg-bench", "loader", "--shards", synthetic_set, "--split", split, "--size", "64", "--storages",
                "source", "--peers", "tuned", "--workers", "1", "--augment", "none", "--mask", "onehot", "--repeats",
                repeats, "--seconds", seconds, *options, "--json", tmp_path / name)  # fmt: skip
        return tmp_path / name

    def compared(a: Path, b: Path) -> tuple[bool, float]:
        (line,) = json.loads(command("petseg-bench", "compare", a, b, "--json").stdout)["lines"]
        return line["changed"], line["ratio"]

    for number in range(tries):
        first, slow = run(f"a{number}"), run(f"c{number}", "--handicap", handicap)
        assert f"slowed on purpose by {float(handicap):.0%}" in read_results(slow).lines[0].caveats[-1]
        changed, ratio = compared(first, slow)
        assert ratio < (0.9 if tries > 1 else 0.4)
        if tries > 1:
            assert changed
            assert not compared(first, run(f"b{number}"))[0]


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (("loader", "--shards", "/nowhere"), 1, "no such folder"),
        (("loader", "--shards", "SET", "--split", "nope"), 2, "no split 'nope'"),
        (("loader", "--shards", "SET", "--peers", "nope"), 2, "'nope' is not known; there are:"),
        (("loader", "--shards", "SET", "--storages", "nope"), 2, "'nope' is not known"),
        (("loader", "--shards", "SET", "--size", "0"), 2, "'--size': 0"),
        (("loader", "--shards", "SET", "--repeats", "0"), 2, "'--repeats': 0"),
        (("loader", "--shards", "SET", "--handicap", "1"), 2, "'--handicap': 1"),
        (("loader", "--shards", "SET", "--json", "/nowhere/x.json"), 2, "does not exist"),
        (("loader", "--shards", "SET", "--plot", "x.gif"), 2, ".svg or .png"),
        (("loader", "--shards", "SET", "--source", "/nowhere", "--storages", "source"), 2, "--source"),
        (("loader", "--shards", "SET", "--work", "FILE"), 1, "FILE"),
        (("train", "--shards", "SET", "--models", "nope"), 2, "'nope' is not known"),
        (("train", "--shards", "SET", "--peers", "tutorial"), 2, "--consumer-rate"),
        (("train", "--shards", "SET", "--storages", "raw"), 2, "--consumer-rate"),
        (("train", "--shards", "SET", "--consumer-rate", "0"), 2, "'--consumer-rate': 0"),
        (("build", "/nowhere"), 1, "/nowhere"),
        (("build", "SET", "--workers", "two"), 2, "'--workers': 'two'"),
        (("build", "PETS", "--work", "FILE"), 1, "FILE"),
        (("compare", "/nowhere/a.json", "/nowhere/b.json"), 1, "/nowhere/a.json"),
    ],
)
def test_wrong_input_gives_one_clear_line(
    synthetic_set: Path, synthetic_pets: Path, tmp_path: Path, options: tuple[str, ...], code: int, message: str
) -> None:
    (tmp_path / "file").touch()
    names = {"SET": str(synthetic_set), "PETS": str(synthetic_pets), "FILE": str(tmp_path / "file")}
    result = CliRunner().invoke(main, [names.get(option, option) for option in options])
    assert (result.exit_code, names.get(message, message) in result.stderr) == (code, True), result.output
    assert "Traceback" not in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_cuda_without_cuda_is_refused(synthetic_set: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("CUDA is here")
    result = CliRunner().invoke(main, ["loader", "--shards", str(synthetic_set), "--device", "cuda"])
    assert result.exit_code == 2
    assert "--device cuda: no GPU here" in result.stderr


def test_every_peer_has_a_module_and_a_name() -> None:
    for spec in PEERS:
        module, _, name = spec.path.partition(":")
        source = importlib.util.find_spec(f"bench.peers.{module}")
        assert source is not None
        assert f"class {name}(" in Path(str(source.origin)).read_text()
    assert len({spec.name for spec in PEERS}) == len(PEERS)
