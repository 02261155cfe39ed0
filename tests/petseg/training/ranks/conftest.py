"""What the tests with several ranks share: a path to their helpers, and the run of one process."""

from __future__ import annotations

import sys
from pathlib import Path
from unittest import mock

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # pytest's importlib mode does not
from loopback_nodes import OPTIONS


@pytest.fixture(scope="session")
def one_process(synthetic_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that those of several ranks must equal."""
    import petseg

    with mock.patch("petseg.training.start.draw_run"):
        run = tmp_path_factory.mktemp("one") / "run"
        return petseg.train(synthetic_set, run=run, options={**OPTIONS, "device": "cpu"})
