"""What the tests with several ranks share: a path to their helpers, and the run of one process."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # pytest's importlib mode does not
from loopback_nodes import OPTIONS


@pytest.fixture(scope="session")
def one_process(synthetic_set: Path, made_once: Callable[..., Path]) -> Path:
    """The run that those of several ranks must equal."""
    import petseg

    with mock.patch("petseg.training.start.draw_run"):
        options = {**OPTIONS, "device": "cpu"}
        return made_once("one", lambda folder: petseg.train(synthetic_set, run=folder / "run", options=options)) / "run"
