"""What is drawn into a run's folder once it is trained: curves, gallery and report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from petseg.host.device import Placement
from petseg.inference.predictor import load
from petseg.inference.score_run import score_run
from petseg.nets.factory import count_parameters
from petseg.runs.run_folder import CURVES, GALLERY, METRICS, REPORT, read_config
from shards import ShardSet
from shards.store.atomic import write_atomically

_GALLERY_ROWS = 6


def draw_run(run: Path, *, data: ShardSet, placement: Placement, seconds: float) -> None:
    """Draw a finished run, with its best weights; ``seconds`` is its wall time."""
    from petseg.report.curves import draw_curves
    from petseg.report.gallery import draw_gallery, make_exhibit, spread_indices
    from petseg.report.html_report import ReportFacts, Shown, choose_pictures, make_report

    history = read_history(run)
    name = "val" if "val" in data.manifest.splits else "train"
    split = data.split(name)
    predictor = load(run, device=str(placement.device), precision=placement.precision)
    write_atomically(run / CURVES, draw_curves(history))
    exhibits = [make_exhibit(predictor, split, index) for index in spread_indices(_GALLERY_ROWS, len(split))]
    title = f"{run.name}: pictures of the {name} split, the best epoch's weights"
    write_atomically(run / GALLERY, draw_gallery(exhibits, title=title))

    evaluation = score_run(run, data.path, split=name, device=str(placement.device), precision=placement.precision)
    facts = ReportFacts(
        name=run.name,
        config=read_config(run),
        history=history,
        evaluation=evaluation,
        split=name,
        parameters=count_parameters(predictor.model),
        seconds=seconds,
        curves=draw_curves(history, kind="svg").decode(),
        shown=[
            Shown(why=why, mean_iou=value, exhibit=make_exhibit(predictor, split, index))
            for why, index, value in choose_pictures(evaluation)
        ],
    )
    write_atomically(run / REPORT, make_report(facts))


def read_history(run: Path) -> list[dict[str, Any]]:
    """Read metrics.jsonl."""
    return [json.loads(line) for line in (run / METRICS).read_text().splitlines()]
