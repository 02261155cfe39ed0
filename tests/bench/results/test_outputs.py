"""Files that cannot be written: refused before anything is measured, and the results kept where it shows afterwards."""

from __future__ import annotations

import errno
import os
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
from bench_results import OTHER, OURS, build_results, environment, results, train_results, write_results
from click.testing import CliRunner
from msgspec.structs import replace

from bench.cli import main
from bench.results import outputs
from bench.results.outputs import Outputs
from bench.results.records import Results, read_results
from shards.errors import PetsegError

ROOT = Path(__file__).resolve().parents[3]
FILES = {"json_file": "run.json", "plot": "run.svg"}


@pytest.mark.parametrize("option", ["--json", "--plot"])
@pytest.mark.parametrize("subcommand", ["loader", "train", "build"])
def test_a_folder_that_takes_no_file_is_refused_at_once(subcommand: str, option: str) -> None:
    where = ("/nowhere",) if subcommand == "build" else ("--shards", "/nowhere")
    result = CliRunner().invoke(main, [subcommand, *where, option, "/proc/run.svg"])
    assert result.exit_code == 2
    assert "/proc/run.svg: the folder /proc takes no file (" in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_a_folder_in_the_place_of_a_file_is_refused_at_once(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["build", "/nowhere", "--json", str(tmp_path)])
    assert result.exit_code == 2
    assert f"{tmp_path} is a folder; choose another name" in result.stderr


def test_checking_a_folder_leaves_nothing_there(tmp_path: Path) -> None:
    Outputs(json_file=tmp_path / "run.json", plot=tmp_path / "run.svg")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("option", ["--json", "--plot"])
@pytest.mark.parametrize("subcommand", ["loader", "train", "build"])
def test_a_file_that_exists_is_replaced_only_when_asked(subcommand: str, option: str, tmp_path: Path) -> None:
    """Before anything is measured; with --overwrite the next mistake is the one that is named."""
    where = ("/nowhere",) if subcommand == "build" else ("--shards", "/nowhere")
    file = tmp_path / {"--json": "mine.json", "--plot": "mine.svg"}[option]
    file.write_text("mine")
    result = CliRunner().invoke(main, [subcommand, *where, option, str(file)])
    assert result.exit_code == 2
    assert f"Error: {file} exists already" in result.stderr
    assert "exists" not in CliRunner().invoke(main, [subcommand, *where, option, str(file), "--overwrite"]).stderr
    assert file.read_text() == "mine"


def test_a_figure_that_another_process_has_made_meanwhile_stays(tmp_path: Path) -> None:
    outputs = Outputs(plot=tmp_path / "run.svg")
    (tmp_path / "run.svg").write_text("theirs")
    assert "File exists" in outputs.write(build_results())[0]
    assert (tmp_path / "run.svg").read_text() == "theirs"
    assert not Outputs(plot=tmp_path / "run.svg", overwrite=True).write(build_results())


def refuse(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Let files of these names fail as on a full disk."""
    write = outputs.write_atomically

    def full(path: Path, data: bytes | str, *, replace: bool = True) -> None:
        if path.name in names or "all" in names:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(path, data, replace=replace)

    monkeypatch.setattr(outputs, "write_atomically", full)


def finish_in(folder: Path, run: Results) -> str:
    """Finish with all files in a folder; return the error."""
    with pytest.raises(PetsegError) as raised:
        Outputs(folder / "run.json", folder / "run.svg").finish(run)
    assert raised.value.exit_code == 1
    return str(raised.value)


@pytest.mark.parametrize("names", [("run.json",), ("run.svg",), ("all",)])
def test_a_file_that_cannot_be_written_costs_no_other_and_the_results_are_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], names: tuple[str, ...]
) -> None:
    refuse(monkeypatch, *names)
    run, lost = results(OURS, OTHER), set(FILES.values()) if names == ("all",) else set(names)
    error = finish_in(tmp_path, run)
    for name in lost:
        assert f"{tmp_path / name} could not be written: No space left on device" in error
    assert error.count("could not be written") == len(lost)
    assert {path.name for path in tmp_path.iterdir()} == set(FILES.values()) - lost
    assert "printed above as JSON" in error
    printed = capsys.readouterr().out
    assert "petseg torch" in printed
    (tmp_path / "copied.json").write_text(printed[printed.index("{\n") :])
    assert read_results(tmp_path / "copied.json") == run


@pytest.mark.parametrize("option", ["--json", "--plot"])
def test_a_full_disk_in_the_middle_of_a_file(
    option: str, tmp_path: Path, small_disk: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The older file stays, and one line says where the results are now."""
    run = results(OURS, OTHER)
    monkeypatch.setattr("bench.build_benchmark.run_build_benchmark", lambda *_, **__: run)
    with small_disk(tmp_path / "disk", "8k") as disk:
        file = disk / f"run.{'json' if option == '--json' else 'svg'}"
        file.write_text("older")
        done = CliRunner().invoke(main, ["build", str(tmp_path), option, str(file), "--overwrite"])
        assert done.exit_code == 1
        (line,) = done.stderr.splitlines()
        assert line.startswith(f"Error: {file} could not be written: No space left on device; the results are printed")
        assert "petseg torch" in done.stdout
        assert file.read_text() == "older"
        assert list(disk.iterdir()) == [file]
        (tmp_path / "copied.json").write_text(done.stdout[done.stdout.index("{\n") :])
    assert (tmp_path / "copied.json").stat().st_size > 4096
    assert read_results(tmp_path / "copied.json") == run


def test_the_figures_go_into_both_documents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What ``make gpu-figures`` runs, with made-up results and copies of the documents."""
    alone = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    command = ["make", "-n", "gpu-figures"]  # not as part of the make that runs the tests
    planned = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, env=alone)
    program, *arguments = shlex.split(planned.stdout)
    assert program.endswith("petseg-bench")
    for document in ("README.md", "docs/gpu.md"):
        assert document in arguments
        (tmp_path / document).parent.mkdir(exist_ok=True)
        (tmp_path / document).write_bytes((ROOT / document).read_bytes())
    (tmp_path / "gpu-proof").mkdir()
    card = environment(gpu=("A made-up card, 1.0, 1 MiB",))
    loader = results([1.0], [1.0], environment=card)
    write_results(loader, tmp_path / "gpu-proof" / "gpu-loader.json")
    write_results(replace(train_results(), environment=card), tmp_path / "gpu-proof" / "gpu-train.json")
    monkeypatch.chdir(tmp_path)
    assert CliRunner().invoke(main, arguments, catch_exceptions=False).exit_code == 0
    for document in ("README.md", "docs/gpu.md"):
        text = (tmp_path / document).read_text()
        assert text.count("A made-up card") == (1 if document == "README.md" else 2)
        assert "No figures yet" not in text
