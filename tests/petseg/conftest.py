"""Fixtures of petseg's tests: commands called in this process, a small trained run, training without a report."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import pytest

sys.path.insert(0, str(Path(__file__).parent))  # pytest's importlib mode does not
from sample_runs import draw_nothing

# A network and a run that take seconds: what is tested is the machinery, not the recipe. It learns just enough to
# predict more than one class.
TINY = {
    "size": 32,
    "widths": (8, 16),
    "epochs": 2,
    "batch_size": 2,
    "lr": 0.01,
    "ema_decay": 0.5,
    "augment": "none",
    "threads": 1,
}


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str


@pytest.fixture
def call(capfd: pytest.CaptureFixture[str]) -> Callable[..., Result]:
    """``call(command, *arguments)``: a click command as the shell would run it, in this process."""

    def run(command: click.Command, *arguments: object) -> Result:
        capfd.readouterr()
        with pytest.raises(SystemExit) as exit_:
            command.main(args=[str(argument) for argument in arguments], prog_name="petseg")
        out, err = capfd.readouterr()
        return Result(code=int(exit_.value.code or 0), out=out, err=err)

    return run


@pytest.fixture
def no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing a run's report takes longer than a tiny training; here only the report's file is created."""

    monkeypatch.setattr("petseg.training.start.draw_run", draw_nothing)


@pytest.fixture
def blank_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are laid out but not drawn, which takes seconds: for tests of what a report says in words."""
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda self, file, **_: file.write(b"<svg></svg>"))


@pytest.fixture(scope="session")
def tiny_run(synthetic_set: Path, made_once: Callable[..., Path]) -> Path:
    """A finished run of two epochs, 24 steps, with a tiny U-Net."""
    import petseg

    return made_once("runs", lambda folder: petseg.train(synthetic_set, run=folder / "tiny", options=TINY)) / "tiny"


@pytest.fixture(scope="session")
def many_class_run(made_once: Callable[..., Path]) -> Path:
    """A finished run on a set of 21 classes with awkward names, letterboxed to 32 x 48; the set is beside it."""
    from labelled_sets import build_labelled, many_labels

    import petseg

    options = {**TINY, "size": (32, 48), "fit": "contain", "batch_size": 4}

    def make(folder: Path) -> None:
        petseg.train(build_labelled(folder, many_labels(21)), run=folder / "run", options=options)

    return made_once("many-classes", make) / "run"


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Threads that share work of microseconds wait for each other, the longer the busier the machine is."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def tiny() -> dict[str, object]:
    """The options of a training that takes seconds."""
    return dict(TINY)
