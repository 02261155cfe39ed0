"""Draws a finished run into its folder: curves, gallery and report."""

import shlex
from collections.abc import Callable
from pathlib import Path

from petseg.host.device import Placement
from petseg.inference.scoring import evaluate_predictor
from petseg.inference.trained_network import Predictor, load
from petseg.runs.checkpoint import CheckpointError
from petseg.runs.history import History
from petseg.runs.run_folder import BEST, CURVES, GALLERY, LAST, METRICS, REPORT, read_metrics
from shards import ShardSet
from shards.errors import printable
from shards.store.atomic import write_atomically

_GALLERY_ROWS = 6


def draw_run(
    run: Path, *, data: ShardSet, placement: Placement, seconds: float, note: Callable[[str], None] = lambda text: None
) -> None:
    """Draw a finished run with its best weights, or, where there are none, with those of the last epoch.

    ``seconds`` is the run's wall time; ``note`` is told of the last epoch's weights. Raises ``CheckpointError`` if the
    best weights cannot be read, or are another run's: the pages would show those.
    """
    # These import matplotlib, which a training needs at its end only.
    from petseg.report.curves import draw_curves
    from petseg.report.gallery import draw_gallery
    from petseg.report.html_report import render_report
    from petseg.report.sample_predictions import predict_sample, spread_indices

    history = read_metrics(run)
    split = data.split("val" if "val" in data.manifest.splits else "train")
    predictor, best = _network_to_draw(run, history, placement)
    epoch = len(predictor.history)
    if epoch != best:
        note(f"{run / BEST}, the weights of epoch {best}, is gone; the report shows those of the last epoch, {epoch}")
    write_atomically(run / CURVES, draw_curves(history, labels=predictor.labels))
    samples = [predict_sample(predictor, split, index) for index in spread_indices(_GALLERY_ROWS, len(split))]
    title = f"{printable(run.name)}: images of the {split.name} split, "
    title += (
        f"the {'best' if epoch == best else 'last'} epoch's weights\nmean IoU: of each image alone, at its stored size"
    )
    write_atomically(run / GALLERY, draw_gallery(samples, labels=predictor.labels, title=title))
    evaluation = evaluate_predictor(predictor, data, split=split.name)
    page = render_report(run, history=history, predictor=predictor, split=split, evaluation=evaluation, seconds=seconds)
    write_atomically(run / REPORT, page)


def _network_to_draw(run: Path, history: History, placement: Placement) -> tuple[Predictor, int]:
    """Return the network to draw, and which epoch of the run is the best."""
    best = max((entry["epoch"] for entry in history if entry["best"]), default=len(history))
    exists = (run / BEST).exists()
    again = f"petseg-train --resume --run {shlex.quote(str(run))}"
    advice = f"put the right one back, or remove {BEST}: {again} then draws the report with the weights of {LAST}"
    try:
        predictor = load(run / (BEST if exists else LAST), device=str(placement.device), precision=placement.precision)
    except CheckpointError as error:
        raise CheckpointError(f"{error}; {advice}") if exists else error from None
    if list(predictor.history) != history[: best if exists else None]:
        raise CheckpointError(
            f"{run / BEST} is not the checkpoint of epoch {best}, the best of {run / METRICS}: one of the two was "
            f"replaced; {advice}"
        )
    return predictor, best
