"""``petseg-train`` without its report, whose drawing takes longer than a tiny training.

$PETSEG_TEST_PAUSE: seconds to wait before each step, so that a test can act in the middle.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from unittest import mock

sys.path.insert(0, str(Path(__file__).parents[2]))
from sample_runs import draw_nothing

from petseg.cli import train
from petseg.training.step import TrainStep

PAUSE = float(os.environ.get("PETSEG_TEST_PAUSE", "0"))
run_step = TrainStep.run


def slow_step(self, *arguments, **options):
    time.sleep(PAUSE)
    return run_step(self, *arguments, **options)


if __name__ == "__main__":
    with (
        mock.patch("petseg.training.start.draw_run", draw_nothing),
        mock.patch.object(TrainStep, "run", slow_step),
    ):
        train.main(prog_name="petseg-train")
