"""A small dataset, a set and a run; commands called in this process; an operating system that refuses things."""

from __future__ import annotations

import importlib.util
import logging
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from shards.store import refusals

HOOK = Path(__file__).parent / "odd_system" / "sitecustomize.py"
sys.path.insert(0, str(Path(__file__).parent))  # pytest's importlib mode does not

spec = importlib.util.spec_from_file_location("odd_system", HOOK)
assert spec is not None
assert spec.loader is not None
odd_system = importlib.util.module_from_spec(spec)
spec.loader.exec_module(odd_system)


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The only line of stderr."""
        lines = self.err.splitlines()
        assert len(lines) == 1, self.err
        return lines[0]


Call = Callable[..., Outcome]


@pytest.fixture
def call(capfd: pytest.CaptureFixture[str]) -> Call:
    """``call("petseg-shard", "info", ...)``: a command as the shell would run it, in this process."""

    def run(program: str, *arguments: object) -> Outcome:
        from bench.cli import main as bench
        from petseg.cli import evaluate, export, predict, train
        from shards.cli import main as shard

        commands: dict[str, Any] = {"shard": shard, "train": train, "eval": evaluate, "predict": predict}
        commands |= {"export": export, "bench": bench}
        capfd.readouterr()
        with pytest.raises(SystemExit) as exit_:
            commands[program.removeprefix("petseg-")].main([str(each) for each in arguments], prog_name=program)
        out, err = capfd.readouterr()
        return Outcome(int(exit_.value.code or 0), out, err)

    return run


@pytest.fixture
def refuse(caplog: pytest.LogCaptureFixture) -> Iterator[Callable[..., None]]:
    """``refuse(fchmod="EPERM")``: from here on, to the end of the test, these functions fail; see odd_system."""
    undo: list[Callable[[], None]] = []
    refusals._said.clear()
    caplog.set_level(logging.WARNING, "petseg")

    def install(**failures: str) -> None:
        undo.append(odd_system.install({"fail": failures}))

    yield install
    for each in reversed(undo):
        each()
    refusals._said.clear()


@pytest.fixture(scope="session")
def few_pets(made_once: Callable[..., Path]) -> Path:
    """Twelve synthetic images, in the official layout."""
    from shards.sources.synthetic.generate import make_pets

    return made_once("few", lambda folder: make_pets(folder / "pets", count=12, seed=3)) / "pets"


@pytest.fixture(scope="session")
def few_shards(few_pets: Path, made_once: Callable[..., Path]) -> Path:
    """A set of them, with train, val and test."""
    from shards.build.build_set import build
    from shards.build.options import PackOptions

    options = PackOptions(split="random", fractions=(0.5, 0.25, 0.25), samples_per_shard=4)
    return made_once("few-set", lambda folder: build(few_pets, folder / "shards", options, workers=1)) / "shards"


TINY = ("--size", 32, "--widths", "8,16", "--epochs", 1, "--batch-size", 2, "--augment", "none", "--threads", 1)


@pytest.fixture(scope="session")
def small_run(few_shards: Path, made_once: Callable[..., Path]) -> Path:
    """A finished run of one epoch, with its report."""
    import petseg

    options = {"size": 32, "widths": (8, 16), "epochs": 1, "batch_size": 2, "augment": "none", "threads": 1}
    return made_once("small", lambda folder: petseg.train(few_shards, run=folder / "run", options=options)) / "run"
