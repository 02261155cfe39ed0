"""SIGTERM and SIGHUP, of schedulers and closed terminals: what is half done is removed, what is kept is said."""

from __future__ import annotations

import contextlib
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from shards.console import raise_stop_signals, say

NUMBERS = (signal.SIGTERM, signal.SIGHUP)
STOPPED = """
import sys

class Interrupt:
    def find_spec(self, name, *_):
        if name == {module!r}:
            raise {error}

sys.meta_path.insert(0, Interrupt())
import {commands}
"""


@pytest.fixture
def stop_at(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """``stop_at("build_command", done, number)``: a command that has done so much gets this signal."""

    def install(module: str, at: int, number: signal.Signals) -> None:
        def progress(done: int, _: int) -> None:
            if done >= at:
                signal.raise_signal(number)

        @contextlib.contextmanager
        def bar(_: str) -> Iterator[Callable[[int, int], None]]:
            yield progress

        monkeypatch.setattr(f"shards.cli.{module}.progress_bar", bar)

    return install


@pytest.mark.parametrize("number", NUMBERS)
def test_a_build_says_what_is_kept_and_goes_on(
    stop_at: Any, call: Any, few_pets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    arguments = ("build", few_pets, tmp_path / "set", "--split", "random", "--samples-per-shard", 3, "--workers", 1)
    stop_at("build_command", 3, number)
    done = call("petseg-shard", *arguments)
    assert done.code == 128 + number
    kept = f"1 finished shard is kept in {tmp_path}/set.building; run the same command again to resume"
    assert done.error == f"Error: stopped by {number.name}; {kept}"
    monkeypatch.undo()
    assert "resumed with 1 shard that was already finished" in call("petseg-shard", *arguments).out
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_a_drawing_of_a_dataset_leaves_nothing(stop_at: Any, call: Any, tmp_path: Path) -> None:
    stop_at("source_commands", 2, signal.SIGTERM)
    done = call("petseg-shard", "sample", tmp_path / "pets", "--count", 4)
    assert (done.code, done.error) == (143, "Error: stopped by SIGTERM")
    assert not list(tmp_path.iterdir())


def test_a_page_leaves_nothing(stop_at: Any, call: Any, few_shards: Path, tmp_path: Path) -> None:
    stop_at("set_commands", 2, signal.SIGTERM)
    done = call("petseg-shard", "preview", few_shards, tmp_path / "page.html")
    assert (done.code, done.error) == (143, "Error: stopped by SIGTERM")
    assert not list(tmp_path.iterdir())


def test_a_copy_leaves_what_is_whole_and_goes_on(
    stop_at: Any, call: Any, few_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_at("publish_commands", 2, signal.SIGTERM)
    done = call("petseg-shard", "copy", few_shards, tmp_path / "copy")
    assert done.code == 143
    assert done.error.startswith(
        "Error: stopped by SIGTERM; files that are complete are kept; run the same command again"
    )
    monkeypatch.undo()
    assert "were there already" in call("petseg-shard", "copy", few_shards, tmp_path / "copy").out
    assert [path.name for path in tmp_path.iterdir()] == ["copy"]


@pytest.mark.parametrize("number", [signal.SIGINT, *NUMBERS])
def test_a_repeated_signal_interrupts_neither_the_clean_up_nor_the_message(
    stop_at: Any, call: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    """A shell signals a process and its group, ``timeout`` both, and an impatient user presses Ctrl-C twice."""

    def again(act: Callable[..., object]) -> Callable[..., object]:
        def signalled(*values: Any, **options: Any) -> object:
            signal.raise_signal(number)
            return act(*values, **options)

        return signalled

    stop_at("source_commands", 2, number)
    monkeypatch.setattr(shutil, "rmtree", again(shutil.rmtree))
    monkeypatch.setattr("shards.console.say", again(say))
    done = call("petseg-shard", "sample", tmp_path / "pets", "--count", 4)
    text = "interrupted" if number == signal.SIGINT else f"stopped by {number.name}"
    assert (done.code, done.err.strip()) == (128 + number, f"Error: {text}")
    assert not list(tmp_path.iterdir())


def test_a_later_signal_interrupts_also_the_clean_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shards.console.REPEAT_SECONDS", 0.0)

    def work() -> None:
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            time.sleep(0.001)
            signal.raise_signal(signal.SIGINT)

    with raise_stop_signals(), pytest.raises(KeyboardInterrupt):
        work()


@pytest.mark.parametrize(
    ("commands", "module"),
    [
        ("shards.cli", "inspect"),
        ("shards.cli", "numpy"),
        ("shards.cli", "shards.audit"),
        ("petseg.cli", "click"),
        ("bench.cli", "bench.settings"),
    ],
)
def test_ctrl_c_while_a_command_is_imported(commands: str, module: str) -> None:
    program = STOPPED.format(commands=commands, module=module, error="KeyboardInterrupt")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "Error: interrupted\n")


@pytest.mark.parametrize(
    ("error", "text"),
    [
        ("MemoryError", "out of memory"),
        ("ImportError('a.so: failed to map segment from shared object')", "a library cannot be loaded, for lack of"),
    ],
)
@pytest.mark.parametrize(("commands", "module"), [("shards.cli", "numpy"), ("petseg.cli", "click")])
def test_a_lack_of_memory_while_a_command_is_imported(commands: str, module: str, error: str, text: str) -> None:
    program = STOPPED.format(commands=commands, module=module, error=error)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (1, "", 1)
    assert done.stderr.startswith(f"Error: {text}")
