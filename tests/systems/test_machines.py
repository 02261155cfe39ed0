"""Machines with something missing: streams, folders, /proc, /dev/shm, HOME, a locale, a terminal, a steady clock.

The quota of a container is in tests/shards/test_cores.py.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from forked_programs import ForkedPopen

Command = Callable[..., dict[str, Any]]
SERVER = str(Path(__file__).parent / "command_server.py")
TINY = ("--size", 32, "--widths", "8,16", "--epochs", 1, "--batch-size", 2, "--augment", "none", "--threads", 1)
# What most commands import; not what may not be imported before a fork.
TORCH = ("torch._dynamo", "shards.cli", "petseg.cli.train_command", "petseg.report.artifacts", "petseg.report.curves",
         "petseg.report.gallery", "petseg.report.html_report", "petseg.report.sample_predictions")  # fmt: skip
LOCALE_C: dict[str, str | None] = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
# As root of a user namespace: what is mounted is seen by this one process and those that it starts.
MOUNTED = ("unshare", "--user", "--map-root-user", "--mount", "sh", "-ec")


def serving(*modules: str, mounts: str = "", env: dict[str, str | None] | None = None) -> Iterator[Command]:
    """Yield a function that runs a command, given its arguments and what command_server.py offers."""
    program = [sys.executable, SERVER, *modules]
    if mounts:
        program = [*MOUNTED, f'{mounts}\nexec "$@"', "sh", *program]
    kind = subprocess.Popen if mounts or env else ForkedPopen
    variables = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)} | (env or {})
    environment = {name: value for name, value in variables.items() if value is not None}
    with kind(
        program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, encoding="utf-8"
    ) as server:
        assert server.stdin is not None
        assert server.stdout is not None

        def command(*arguments: object, **wanted: object) -> dict[str, Any]:
            assert server.stdin is not None
            assert server.stdout is not None
            server.stdin.write(json.dumps({"argv": [str(each) for each in arguments], **wanted}) + "\n")
            server.stdin.flush()
            answer: dict[str, Any] = json.loads(server.stdout.readline())
            assert "Traceback" not in answer["err"] + answer["out"], answer["err"] + answer["out"]
            assert "Exception ignored" not in answer["err"], answer["err"]
            return answer

        yield command
        server.stdin.close()


def can_mount() -> bool:
    if shutil.which("unshare") is None:
        return False
    return subprocess.run([*MOUNTED, "mount -t tmpfs none /mnt"], capture_output=True, check=False).returncode == 0


@pytest.fixture(scope="module")
def command() -> Iterator[Command]:
    yield from serving(*TORCH)


@pytest.fixture(scope="module")
def bare_machine() -> Iterator[Command]:
    """Without /proc, and with a /dev/shm that cannot be written."""
    if not can_mount():
        pytest.skip("nothing can be mounted here (unshare --user --mount is refused)")
    yield from serving("shards.cli", mounts="mount -t tmpfs -o ro none /dev/shm; mount -t tmpfs none /proc")


@pytest.fixture(scope="module")
def small_machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Command, Path]]:
    """Locale C, a /dev/shm of 64 kB, a read-only folder to work in, no folder that is HOME."""
    if not can_mount():
        pytest.skip("nothing can be mounted here (unshare --user --mount is refused)")
    if not sys.executable.isascii():
        pytest.skip("locale C: torch cannot be imported from a folder with such a name")
    folder = tmp_path_factory.mktemp("read-only")
    mounts = f"mount -t tmpfs -o size=64k none /dev/shm; mount -t tmpfs -o ro none '{folder}'"
    for command in serving(
        "torch._dynamo",
        "shards.cli",
        "petseg.cli.train_command",
        mounts=mounts,
        env=LOCALE_C | {"HOME": "/nonexistent/home"},
    ):
        yield command, folder


def lines_of(answer: dict[str, Any]) -> list[str]:
    return [line for line in answer["err"].splitlines() if not line.startswith(("training ", "skipped: "))]


@pytest.fixture
def programs(few_pets: Path, few_shards: Path, small_run: Path, tmp_path: Path) -> dict[str, tuple[object, ...]]:
    """Every command that prints and needs no network and no minutes, with its arguments."""
    image, cpu = next((few_pets / "images").iterdir()), ("--device", "cpu")
    other = shutil.copytree(small_run, tmp_path / "other")
    return {
        "sample": ("petseg-shard", "sample", tmp_path / "sample", "--count", 2),
        "build": ("petseg-shard", "build", few_pets, tmp_path / "set", "--workers", 1),
        "info": ("petseg-shard", "info", few_shards),
        "info as JSON": ("petseg-shard", "info", few_shards, "--json"),
        "verify": ("petseg-shard", "verify", few_shards),
        "copy": ("petseg-shard", "copy", few_shards, tmp_path / "copy"),
        "labels": ("petseg-shard", "labels", few_pets),
        "preview": ("petseg-shard", "preview", few_shards, tmp_path / "page.html"),
        "train": ("petseg-train", "--shards", few_shards, "--run", tmp_path / "run", *TINY),
        "eval": ("petseg-eval", small_run, "--shards", few_shards, *cpu),
        "compare": ("petseg-eval", "--compare", small_run, other, "-o", tmp_path / "compare.html"),
        "predict": ("petseg-predict", small_run, image, "-o", tmp_path / "masks", *cpu),
        "export": ("petseg-export", small_run, tmp_path / "net.safetensors"),
        "bench": ("petseg-bench", "--help"),
        "help": ("petseg-train", "--help"),
    }


# What each leaves behind.
LEFT = {"sample": "sample/images", "build": "set/manifest.json", "copy": "copy/manifest.json", "preview": "page.html",
        "compare": "compare.html", "predict": "masks", "export": "net.safetensors"}  # fmt: skip
NAMES = ("sample", "build", "info", "info as JSON", "verify", "copy", "labels", "preview", "eval", "compare", "predict",
         "export", "bench", "help")  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_output_that_nobody_reads(
    name: str, command: Command, programs: dict[str, tuple[object, ...]], tmp_path: Path
) -> None:
    """The work is done; there is nobody to tell. A training goes on: see tests/petseg/training/test_starting.py."""
    answer = command(*programs[name], unread=True)
    assert answer["code"] == 1
    assert len(lines_of(answer)) <= 1
    if name in LEFT:
        assert (tmp_path / LEFT[name]).exists()


@pytest.mark.parametrize(
    ("name", "closed"),
    [
        *(("build", closed) for closed in ((0,), (1,), (2,), (0, 1, 2))),
        *(("predict", closed) for closed in ((2,), (0, 1, 2))),
        ("preview", (0, 1, 2)),
    ],
)
def test_closed_streams(
    name: str, closed: tuple[int, ...], command: Command, programs: dict[str, tuple[object, ...]], tmp_path: Path
) -> None:
    """What is printed does not get into the first file that is opened."""
    answer = command(*programs[name], closed=closed)
    assert answer["code"] == 0, answer
    assert not lines_of(answer)
    assert (answer["out"] == "") == (1 in closed)
    if name == "build":
        assert command("petseg-shard", "verify", tmp_path / "set")["code"] == 0


def test_training_without_streams_and_with_a_clock_that_jumps(
    command: Command, programs: dict[str, tuple[object, ...]], tmp_path: Path
) -> None:
    assert command(*programs["train"], closed=(0, 1, 2), clock=True) == {"code": 0, "out": "", "err": ""}
    for line in map(json.loads, (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()):
        assert 0.1 < line["pictures_per_second"] < 1e6
        assert 0 <= line["wait_share"] <= 1
    assert command("petseg-export", tmp_path / "run", tmp_path / "net.safetensors")["code"] == 0


@pytest.mark.parametrize("name", ["info", "build", "train", "eval", "predict", "export"])
def test_a_folder_that_was_removed(name: str, command: Command, programs: dict[str, tuple[object, ...]]) -> None:
    answer = command(*programs[name], cwd=None)
    assert answer["code"] == 1
    assert lines_of(answer) == [
        "Error: the current folder is not there any more (No such file or directory); change to another one"
    ]


@pytest.mark.parametrize("name", ["build", "verify", "preview", "eval"])
def test_a_clock_that_jumps(name: str, command: Command, programs: dict[str, tuple[object, ...]]) -> None:
    """Nothing takes a negative time, or years."""
    answer = command(*programs[name], clock=True)
    assert answer["code"] == 0, answer
    for number in re.findall(r"(-?[\d.,]+) (?:s|seconds|minutes|hours|days)\b", answer["out"] + answer["err"]):
        assert 0 <= float(number.replace(",", "")) < 600, answer["out"]


@pytest.mark.parametrize(
    ("name", "terminal"),
    [
        ("build", {"TERM": "dumb"}),
        ("build", {"TERM": "unknown"}),
        ("build", {"TERM": "xterm", "NO_COLOR": "1"}),
        ("predict", {"TERM": "dumb"}),
        ("predict", {"TERM": "xterm", "NO_COLOR": "1"}),
    ],
)
def test_terminals(
    name: str, terminal: dict[str, str], command: Command, programs: dict[str, tuple[object, ...]]
) -> None:
    """A dumb one is sent no escapes, and NO_COLOR (https://no-color.org) no colours."""
    answer = command(*programs[name], terminal=True, env={"COLORTERM": None, "NO_COLOR": None} | terminal)
    assert answer["code"] == 0
    coloured = re.findall(r"\x1b\[[0-9;]*[3-4][0-9]m", answer["out"])
    assert not coloured
    if "NO_COLOR" not in terminal:
        assert "\x1b" not in answer["out"]


def test_without_proc_and_shared_memory(
    bare_machine: Command, few_pets: Path, few_shards: Path, tmp_path: Path
) -> None:
    """A set is packed in one process, which is said; a network cannot be computed, which is said, too."""
    done = bare_machine("petseg-shard", "build", few_pets, tmp_path / "out", "--workers", 2)
    assert done["code"] == 0, done
    assert any("packing in one process" in line for line in lines_of(done))
    assert bare_machine("petseg-shard", "verify", tmp_path / "out")["code"] == 0
    assert "train" in bare_machine("petseg-shard", "info", tmp_path / "out")["out"]
    refused = bare_machine("petseg-train", "--shards", few_shards, "--run", tmp_path / "run", *TINY)
    assert refused["code"] == 1
    assert len(lines_of(refused)) == 1
    assert "/proc" in refused["err"]


def test_a_small_machine(small_machine: tuple[Command, Path], few_pets: Path, tmp_path: Path) -> None:
    """From images to predictions, by names with umlauts."""
    command, folder = small_machine
    source, out, run = tmp_path / "Bärenhunde", tmp_path / "Sätze", tmp_path / "Läufe"
    shutil.copytree(few_pets, source)
    first = min((source / "images").iterdir())
    os.rename(first, first.with_name("Müsli_1.jpg"))  # noqa: PTH104
    os.rename(source / "annotations/trimaps" / f"{first.stem}.png", source / "annotations/trimaps/Müsli_1.png")  # noqa: PTH104
    split = ("--split", "random", "--fractions", "0.5,0.25,0.25")
    steps: tuple[tuple[object, ...], ...] = (
        ("petseg-shard", "build", source, out, "--workers", 2, *split),
        ("petseg-shard", "verify", out),
        ("petseg-shard", "preview", out, tmp_path / "Seite.png"),
        ("petseg-train", "--shards", out, "--run", run, *TINY, "--no-drop-last"),  # five images, batches of two
        ("petseg-predict", run, source / "images" / "Müsli_1.jpg", "-o", tmp_path / "Masken", "--device", "cpu"),
    )
    for step in steps:
        done = command(*step, cwd=str(folder))
        assert done["code"] == 0, done
        assert not lines_of(done), done["err"]
        assert "?" not in done["out"] + done["err"]
        assert "\\" not in done["out"] + done["err"]
        if step[1] == "verify":
            assert f"{out}: " in done["out"]
        if step[0] == "petseg-train":
            assert f"run in {run}" in done["err"]
    assert sorted(path.name for path in (tmp_path / "Masken").iterdir()) == ["Müsli_1.overlay.png", "Müsli_1.png"]
    assert "Läufe" in (run / "report.html").read_text("utf-8")
    for step in (("petseg-shard", "build", source, "out"), ("petseg-train", "--shards", out, *TINY)):
        refused = command(*step, cwd=str(folder))
        assert refused["code"] == 1
        assert "the file system is read-only; choose a folder that you may write to" in "".join(lines_of(refused))
