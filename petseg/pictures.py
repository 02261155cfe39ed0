"""What is drawn into a run's folder once it is trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from petseg.device import Placement
from petseg.predictor import load
from petseg.runfolder import CURVES, GALLERY, METRICS
from shards import ShardSet
from shards.files import write_atomically

_GALLERY_ROWS = 6


def draw_run(run: Path, *, data: ShardSet, placement: Placement) -> None:
    """Draw the curves and the gallery of a run, with its best weights."""
    from petseg.curves import draw_curves
    from petseg.gallery import draw_gallery, make_exhibit, spread_indices

    history = read_history(run)
    write_atomically(run / CURVES, draw_curves(history))
    name = "val" if "val" in data.manifest.splits else "train"
    split = data.split(name)
    predictor = load(run, device=str(placement.device), precision=placement.precision)
    exhibits = [make_exhibit(predictor, split, index) for index in spread_indices(_GALLERY_ROWS, len(split))]
    title = f"{run.name}: pictures of the {name} split, the best epoch's weights"
    write_atomically(run / GALLERY, draw_gallery(exhibits, title=title))


def read_history(run: Path) -> list[dict[str, Any]]:
    """Read metrics.jsonl."""
    return [json.loads(line) for line in (run / METRICS).read_text().splitlines()]
