"""Options that change what ``petseg-bench`` does, each seen in what it finds."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from bench_results import OTHER, OURS, results

from bench.loader_settings import LoaderSettings, passes
from bench.results import read_results, write_results

Command = Callable[..., "subprocess.CompletedProcess[str]"]
QUICK = ("--size", "32", "--repeats", "1", "--seconds", "0.05")


@pytest.mark.slow
def test_options_of_loader(command: Command, made_up_set: Path, tmp_path: Path) -> None:
    work = tmp_path / "work"
    command("petseg-bench", "loader", "--shards", made_up_set, *QUICK, "--augment", "none", "--storages", "raw",
            "--peers", "petseg", "--mask", "index", "--seed", "5", "--starts", "1", "--soak", "2", "--work", work,
            "--json", tmp_path / "run.json")  # fmt: skip
    run = read_results(tmp_path / "run.json")
    engines = ("dali", "torch", "processes")
    assert {line.name for line in run.lines} == {f"petseg raw {engine} index" for engine in engines}
    assert {line.mask for line in run.lines} == {"index"}
    assert [len(line.seconds) for line in run.starts] == [1, 1, 1]
    assert [line.epochs for line in run.soak] == [2]
    assert (run.settings["seed"], run.settings["work"]) == (5, str(work))
    assert work.is_dir()
    assert not list(work.iterdir())
    assert {"lay out", "open", "limits", "turns", "memory", "starts"} <= run.parts.keys()
    assert run.parts["starts"] > 0.5
    assert sum(run.parts.values()) <= run.environment.seconds + 0.1
    for line in run.lines:
        assert {"start", "prepare", "check", "warm_up", "turn"} == line.spent.keys()


@pytest.mark.slow
@pytest.mark.parametrize("subcommand", ["loader", "build"])
def test_temporary_folders_are_made_where_they_are_asked_for(
    command: Command, made_up_set: Path, made_up_pets: Path, tmp_path: Path, subcommand: str
) -> None:
    """Where no folder can be made nothing is measured, so it is there that they would have been."""
    (tmp_path / "file").touch()
    arguments = ("loader", "--shards", made_up_set) if subcommand == "loader" else ("build", made_up_pets)
    result = command("petseg-bench", *arguments, "--work", tmp_path / "file", check=False)
    assert result.returncode == 1
    assert str(tmp_path / "file") in result.stderr
    assert len(result.stderr.splitlines()) == 1
    if subcommand == "build":
        command("petseg-bench", "build", made_up_pets, "--work", tmp_path / "work", "--repeats", "1", "--workers", "1",
                "--storages", "source")  # fmt: skip
        assert not list((tmp_path / "work").iterdir())


def test_masks_choose_passes() -> None:
    def chosen(mask: str) -> list[tuple[bool, str, str]]:
        settings = LoaderSettings(shards=Path("x"), mask=mask)
        return [(one.augment, one.mask, one.only) for one in passes(settings)]

    assert chosen("both") == [(False, "onehot", ""), (False, "index", "raw"), (True, "onehot", "")]
    assert chosen("onehot") == [(False, "onehot", ""), (True, "onehot", "")]
    assert chosen("index") == [(False, "index", ""), (True, "index", "")]


@pytest.mark.slow
def test_options_of_train(command: Command, made_up_set: Path, tmp_path: Path) -> None:
    command("petseg-bench", "train", "--shards", made_up_set, "--models", "unet", *QUICK, "--batch-size", "2",
            "--device", "cpu", "--precisions", "fp32,bf16", "--engine", "torch", "--seed", "3",
            "--json", tmp_path / "run.json")  # fmt: skip
    run = read_results(tmp_path / "run.json")
    assert {line.name for line in run.train} == {f"unet {precision} 32 px cpu torch" for precision in ("fp32", "bf16")}
    assert run.settings["seed"] == 3
    assert {"open", "turns"} == run.parts.keys()


@pytest.mark.parametrize(
    ("factor", "fails"),
    [(0.8, True), (1.0, False), (0.99, False), (1.3, False)],
    ids=["slower", "same", "noise", "faster"],
)
def test_compare_fails_only_where_something_became_slower(
    command: Command, tmp_path: Path, factor: float, fails: bool
) -> None:
    write_results(results(OURS, OTHER), tmp_path / "a.json")
    write_results(results([rate * factor for rate in OURS], OTHER), tmp_path / "b.json")
    files = (tmp_path / "a.json", tmp_path / "b.json")
    assert command("petseg-bench", "compare", *files, "--fail", check=False).returncode == int(fails)
    assert command("petseg-bench", "compare", *files).returncode == 0
