"""``petseg-bench`` as a user runs it, on synthetic images; each option seen in what it finds."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from bench_results import OTHER, OURS, results, write_results
from class_sets import make_class_set
from click.testing import CliRunner

from bench.cli import main
from bench.results.records import Results, read_results

Command = Callable[..., "subprocess.CompletedProcess[str]"]
QUICK = ("--repeats", "1", "--seconds", "0.02")


def bench(*arguments: object) -> str:
    """Run the command in this process; the subjects have their own in any case. Return what it prints."""
    result = CliRunner().invoke(main, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def measured(json_file: Path, *arguments: object) -> Results:
    bench(*arguments, "--json", json_file)
    return read_results(json_file)


def test_help_answers_and_names_the_commands(command: Command) -> None:
    shown = command("petseg-bench", "--help").stdout
    for name in ("loader", "train", "build", "compare", "show", "figures"):
        assert name in shown
    assert "..." not in shown.partition("Commands:")[2], "a summary is cut"


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("a/run", "b/run"), "two of the files have the same name"),
        (("a/run", "a/run-full"), "would be the place of run-full and of all tables of run"),
        (("a/x-->y",), "results named 'x-->y' have no place"),
        (("a/x\ny",), "cannot hold > or what is not printable"),
    ],
)
def test_figures_of_names_that_no_marker_can_tell_apart_are_refused(
    tmp_path: Path, names: tuple[str, ...], message: str
) -> None:
    files = [f"{name}.json" for name in names]
    result = CliRunner().invoke(main, ["figures", *files, "--into", str(tmp_path / "doc.md")])
    assert result.exit_code == 2
    assert message in result.stderr


@pytest.mark.parametrize("name", ["b_loader", "Loader", "v1.2", "two words", "a--b", "run-full", "größe", "$(x)"])
def test_figures_of_every_other_name_find_their_markers(tmp_path: Path, name: str) -> None:
    write_results(results(OURS, OTHER), tmp_path / f"{name}.json")
    document = tmp_path / "doc.md"
    markers = "<!-- figures: {} -->\n<!-- end of figures -->\n"
    document.write_text("".join(map(markers.format, ("other", name, f"{name}-full"))), encoding="utf-8")
    said = CliRunner().invoke(main, ["figures", str(tmp_path / f"{name}.json"), "--into", str(document)])
    assert said.output == f"{document}: {name}, {name}-full\n"
    other, short, full = document.read_text(encoding="utf-8").split("<!-- end of figures -->\n")[:3]
    assert other == "<!-- figures: other -->\n"
    assert "what is possible" not in short
    assert "what is possible" in full


@pytest.mark.slow
def test_a_run_and_what_is_made_of_it(tmp_path: Path) -> None:
    """With processes of their own, as always outside tests."""
    _, shards = make_class_set(tmp_path / "set", classes=21)
    files = {"--json": tmp_path / "run.json", "--plot": tmp_path / "run.svg"}
    written = [part for pair in files.items() for part in pair]
    bench("loader", "--shards", shards, *QUICK, "--size", "24", "--augment", "none", "--workers", "1", "--storages",
          "source", "--mask", "onehot", "--peers", "tutorial", *written)  # fmt: skip
    assert all(path.stat().st_size > 1000 for path in files.values())
    run = read_results(tmp_path / "run.json")
    (line,) = run.lines
    assert line.peak_memory_bytes > 1 << 24
    assert {limit.name for limit in run.limits} == {"copy", "read", "decode", "decode, scaled"}
    compared = json.loads(bench("compare", *[tmp_path / "run.json"] * 2, "--json"))
    assert compared["changed"] == 0
    assert {line["undecidable"] for line in compared["lines"]} == {True}  # of one process each
    document = tmp_path / "doc.md"
    document.write_text("<!-- figures: run-full -->\n<!-- end of figures -->\n")
    bench("figures", tmp_path / "run.json", "--into", document, "--plot", tmp_path / "figure.svg")
    assert "](figure.svg)" in document.read_text()
    assert "tutorial" in bench("show", tmp_path / "run.json")


@pytest.mark.usefixtures("in_this_process")
def test_file_loaders_in_every_pass(tmp_path: Path) -> None:
    source, shards = make_class_set(tmp_path / "set", classes=21)
    run = measured(tmp_path / "run.json", "loader", "--shards", shards, *QUICK, "--size", "24x40", "--fit", "contain",
                   "--augment", "both", "--cache", "both", "--workers", "1", "--storages", "source", "--peers",
                   "tutorial", "--source", source)  # fmt: skip
    assert {line.name for line in run.lines} == {
        "tutorial source",
        "tutorial source augmented",
        "tutorial source cold",
    }
    assert (run.data.classes, run.settings["size"], run.settings["fit"]) == (21, "24x40", "contain")
    for line in run.lines:
        assert line.check.missing == line.check.repeated == 0
        assert line.check.compared == run.data.samples
        assert line.rates[0] > 0
        assert not line.caveats


@pytest.mark.usefixtures("in_this_process")
@pytest.mark.parametrize(
    "options",
    [("loader", "--storages", "source", "--peers", "petseg"), ("train", "--models", "unet")],
)
def test_a_damaged_sample_is_named_without_options_that_it_lacks(
    synthetic_set: Path, tmp_path: Path, options: tuple[str, ...]
) -> None:
    damaged = shutil.copytree(synthetic_set, tmp_path / "set")
    tar = max(damaged.glob("train-*.tar"))
    data = bytearray(tar.read_bytes())
    data[700] ^= 1
    tar.write_bytes(data)
    arguments = [*options, "--shards", damaged, *QUICK, "--size", "32", "--split", "train", "--device", "cpu"]
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code
    assert re.search("run petseg-shard verify$|; build the set again$", result.output.strip()), result.output
    assert "replace" not in result.output


@pytest.mark.usefixtures("in_this_process")
def test_loaders_of_shards(synthetic_set: Path, tmp_path: Path) -> None:
    run = measured(tmp_path / "run.json", "loader", "--shards", synthetic_set, *QUICK, "--size", "32", "--augment",
                   "none", "--storages", "raw", "--mask", "onehot", "--peers", "webdataset,dali-reader,ffcv",
                   "--split", "val", "--workers", "1")  # fmt: skip
    skipped = {one.name: one.reason for one in run.skipped}
    assert {"webdataset raw", "dali-reader raw"} <= {line.name for line in run.lines}, skipped
    assert {bool(line.caveats) for line in run.lines} == {True}
    assert ("ffcv raw" in skipped) == (importlib.util.find_spec("ffcv") is None)


@pytest.mark.usefixtures("in_this_process", "forked_workers")
def test_options_of_loader(synthetic_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "work"))
    (tmp_path / "work").mkdir()
    run = measured(tmp_path / "run.json", "loader", "--shards", synthetic_set, "--size", "16x24", "--seconds", "0.02",
                   "--repeats", "2", "--batch-size", "8", "--augment", "none", "--storages", "raw", "--peers", "petseg",
                   "--mask", "index", "--seed", "5", "--device", "cpu", "--split", "val",
                   "--handicap", "0.5")  # fmt: skip
    assert {line.name for line in run.lines} == {f"petseg raw {engine} index" for engine in ("torch", "processes")}
    for line in run.lines:
        assert line.work.mask == "index"
        assert [repeat.process for repeat in line.repeats] == [0, 1]
        assert (line.workers > 0) == (line.work.engine == "processes")
        assert line.caveats == ("slowed on purpose by 50% (--handicap)",)
    assert run.settings["seed"] == 5
    left = [path.name for path in (tmp_path / "work").iterdir()]
    assert not [name for name in left if not name.startswith("pymp-")]  # multiprocessing keeps its folder until the end
    assert {"lay out", "start", "open", "limits", "turns"} <= run.parts.keys()
    assert sum(run.parts.values()) <= run.environment.seconds + 0.1
    if not run.environment.gpu:
        assert "no GPU" in {one.name: one.reason for one in run.skipped}["petseg raw dali gpu index"]


@pytest.mark.usefixtures("in_this_process")
def test_training(tmp_path: Path) -> None:
    _, shards = make_class_set(tmp_path / "set", classes=7)
    run = measured(tmp_path / "train.json", "train", "--shards", shards, "--models", "unet", *QUICK, "--size", "32x64",
                   "--fit", "cover", "--batch-size", "2", "--device", "cpu", "--precisions", "bf16", "--engine",
                   "torch", "--seed", "3")  # fmt: skip
    (line,) = run.train
    assert line.name == "unet bf16 32x64 px cpu torch"
    assert run.settings["seed"] == 3
    assert {"open", "turns"} < run.parts.keys()
    assert line.compute[0].rate > 0
    assert 0 <= line.repeats[0].wait_seconds <= line.repeats[0].seconds


@pytest.mark.usefixtures("in_this_process")
def test_packing(synthetic_pets: Path, tmp_path: Path) -> None:
    run = measured(tmp_path / "build.json", "build", synthetic_pets, "--repeats", "1", "--workers", "1", "--storages",
                   "raw", "--size", "32x24")  # fmt: skip
    assert {line.name for line in run.build} == {"petseg raw, 1 worker"}
    assert run.skipped == ()
    assert run.data.classes == 3
    assert all(line.bytes > 100_000 for line in run.build)
    assert all(line.peak_memory_bytes > 0 for line in run.build)


@pytest.mark.slow
@pytest.mark.faults
def test_a_planted_handicap_is_found(synthetic_set: Path, tmp_path: Path, campaign: Callable[[int, int], int]) -> None:
    """Ten of ten times a fifth is found, and no change between two runs of the same thing."""
    tries = campaign(0, 10)
    if not tries:
        pytest.skip("differences of a fifth show on a quiet machine only: --campaign (make bench-compare)")

    def run(name: str, *options: str) -> Path:
        bench("loader", "--shards", synthetic_set, "--size", "64", "--storages", "source", "--peers",
              "tuned", "--workers", "1", "--augment", "none", "--mask", "onehot", "--repeats", "9", "--seconds",
              "0.7", *options, "--json", tmp_path / name)  # fmt: skip
        return tmp_path / name

    def compared(a: Path, b: Path) -> tuple[bool, float]:
        (line,) = json.loads(bench("compare", a, b, "--json"))["lines"]
        return line["changed"], line["ratio"]

    for number in range(tries):
        first, slow = run(f"a{number}"), run(f"c{number}", "--handicap", "0.2")
        assert "slowed on purpose by 20%" in read_results(slow).lines[0].caveats[-1]
        changed, ratio = compared(first, slow)
        assert changed
        assert ratio < 0.9
        assert not compared(first, run(f"b{number}"))[0]


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (("loader", "--shards", "NOWHERE"), 1, "no such folder"),
        (("loader", "--shards", "SET", "--split", "nope"), 2, "no split 'nope'"),
        (("loader", "--shards", "SET", "--peers", "nope"), 2, "'nope' is not known; there are:"),
        (("loader", "--shards", "SET", "--storages", "nope"), 2, "'nope' is not one of"),
        (("loader", "--shards", "SET", "--size", "0"), 2, "Error: --size 0: give N or HxW"),
        (("loader", "--shards", "SET", "--size", "9x8x7"), 2, "Error: --size 9x8x7: give N or HxW"),
        (("loader", "--shards", "SET", "--fit", "nope"), 2, "'--fit': 'nope'"),
        (("loader", "--shards", "SET", "--repeats", "0"), 2, "'--repeats': 0"),
        (("loader", "--shards", "SET", "--handicap", "1"), 2, "'--handicap': 1"),
        (("loader", "--shards", "SET", "--json", "NOWHERE/x.json"), 2, "there is no folder"),
        (("loader", "--shards", "SET", "--plot", "x.gif"), 2, ".svg or .png"),
        (("loader", "--shards", "SET", "--source", "NOWHERE"), 1, "NOWHERE"),
        (("train", "--shards", "SET", "--models", "nope"), 2, "'nope' is not one of"),
        (("train", "--shards", "SET", "--precisions", "fp64"), 2, "'fp64' is not one of 'auto', 'fp32'"),
        (("loader", "--shards", "SET", "--seed", "-1"), 2, "'--seed': -1"),
        (("remote", "SET", "--delay", "-1"), 2, "'--delay': -1"),
        (("remote", "SET", "--time-limit", "0"), 2, "'--time-limit': 0"),
        (("remote", "NOWHERE"), 1, "no such folder"),
        (("build", "NOWHERE"), 1, "NOWHERE"),
        (("build", "SET", "--workers", "two"), 2, "'--workers': 'two'"),
        (("build", "PETS", "--labels", "nope"), 2, "nope"),
        (("compare", "NOWHERE/a.json", "NOWHERE/b.json"), 1, "NOWHERE/a.json"),
    ],
)
def test_wrong_input_gives_one_clear_line(
    synthetic_set: Path, synthetic_pets: Path, tmp_path: Path, options: tuple[str, ...], code: int, message: str
) -> None:
    (tmp_path / "file").touch()
    places = {"SET": synthetic_set, "PETS": synthetic_pets, "FILE": tmp_path / "file", "NOWHERE": tmp_path / "nowhere"}

    def named(text: str) -> str:
        first, slash, rest = text.partition("/")
        return f"{places.get(first, first)}{slash}{rest}"

    result = CliRunner().invoke(main, list(map(named, options)))
    assert (result.exit_code, named(message) in result.stderr) == (code, True), result.output
    assert "Traceback" not in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_cuda_without_cuda_is_refused(synthetic_set: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("a GPU is here")
    result = CliRunner().invoke(main, ["loader", "--shards", str(synthetic_set), "--device", "cuda"])
    assert result.exit_code == 2
    assert "--device cuda: no GPU here" in result.stderr
