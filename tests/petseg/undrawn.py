"""Training without its report, which takes longer to draw than a tiny network takes to train; for other processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest import mock

import petseg


def draw_nothing(run: Path, **arguments: Any) -> None:
    """Only create the report's file."""
    (run / "report.html").write_text("not drawn")


def train_undrawn(**arguments: Any) -> Path:
    """:func:`petseg.train`."""
    with mock.patch("petseg.training.start.draw_run", draw_nothing):
        return petseg.train(**arguments)
