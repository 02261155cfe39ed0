"""Draws a finished run into its folder: curves, gallery and report."""

from pathlib import Path

from petseg.host.device import Placement
from petseg.inference.scoring import evaluate_predictor
from petseg.inference.trained_network import load
from petseg.runs.checkpoint import CheckpointError
from petseg.runs.run_folder import BEST, CURVES, GALLERY, METRICS, REPORT, read_metrics
from shards import ShardSet
from shards.errors import printable
from shards.store.atomic import write_atomically

_GALLERY_ROWS = 6


def draw_run(run: Path, *, data: ShardSet, placement: Placement, seconds: float) -> None:
    """Draw a finished run with its best weights; ``seconds`` is its wall time.

    Raises ``CheckpointError`` if these are not there any more, or are another run's: the pages would show those.
    """
    # These import matplotlib, which a training needs at its end only.
    from petseg.report.curves import draw_curves
    from petseg.report.gallery import draw_gallery
    from petseg.report.html_report import render_report
    from petseg.report.sample_predictions import predict_sample, spread_indices

    history = read_metrics(run)
    split = data.split("val" if "val" in data.manifest.splits else "train")
    predictor = load(run, device=str(placement.device), precision=placement.precision)
    best = max((entry["epoch"] for entry in history if entry["best"]), default=len(history))
    if list(predictor.history) != history[:best]:
        raise CheckpointError(
            f"{run / BEST} is not the checkpoint of epoch {best}, the best of {run / METRICS}: one of the two was "
            "replaced or removed; put it back, then draw the report with petseg-train --resume"
        )
    write_atomically(run / CURVES, draw_curves(history, labels=predictor.labels))
    samples = [predict_sample(predictor, split, index) for index in spread_indices(_GALLERY_ROWS, len(split))]
    title = f"{printable(run.name)}: images of the {split.name} split, the best epoch's weights\n"
    title += "mean IoU: of each image alone, at its stored size"
    write_atomically(run / GALLERY, draw_gallery(samples, labels=predictor.labels, title=title))
    evaluation = evaluate_predictor(predictor, data, split=split.name)
    page = render_report(run, history=history, predictor=predictor, split=split, evaluation=evaluation, seconds=seconds)
    write_atomically(run / REPORT, page)
