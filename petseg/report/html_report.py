"""``report.html``: one self-contained page about a run; no script, no other file, no network."""

import json
from dataclasses import dataclass
from pathlib import Path

import msgspec

from petseg.inference.evaluation import Evaluation
from petseg.inference.trained_network import Predictor
from petseg.nets.factory import count_parameters
from petseg.report.confusion_map import confusion_table, draw_confusion, frequent_mistakes
from petseg.report.curves import draw_curves
from petseg.report.figures import MANY, Rgb, extremes, line_colour, map_colour, ranks
from petseg.report.page_templates import page_template
from petseg.report.sample_predictions import choose_images, class_legend, predict_sample
from petseg.report.thumbnails import difference_legend, panels
from petseg.runs.history import History, judged_part, occurring
from petseg.runs.run_folder import read_config
from shards import SplitReader

_TABLE = 12  # a confusion matrix of more classes is a picture


@dataclass(frozen=True)
class ClassRow:
    """A class in the table of the page: its scores (None: it has none), and its place in each order, from 0."""

    name: str
    colour: Rgb  # in colour maps
    bar: Rgb  # of its bar, visible on white
    iou: float | None
    dice: float | None
    recall: float | None
    share: float  # of the labelled pixels of the truth
    by_name: int
    by_iou: int  # the worst first
    by_share: int  # the most frequent first


def render_report(
    run: Path, *, history: History, predictor: Predictor, split: SplitReader, evaluation: Evaluation, seconds: float
) -> str:
    """Return the page as HTML, about a checkpoint's weights (``predictor``) and their evaluation.

    ``split`` is ``val``, or ``train`` where the set has none; ``seconds`` is the wall time of the whole run.
    """
    config, labels = read_config(run), predictor.labels
    samples = [(rank, value, predict_sample(predictor, split, i)) for rank, i, value in choose_images(evaluation)]
    legend, more = class_legend([sample for _, _, sample in samples], labels)
    as_table = len(labels) <= _TABLE
    best, worst = extremes(occurring(msgspec.to_builtins(evaluation.scores)), 1)
    labelled, without_class = sum(split.entry.class_pixels), split.entry.ignored_pixels
    return page_template("report.html.jinja").render(
        name=run.name,
        config=config,
        configuration=json.dumps(
            {name: config[name] for name in ("recipe", "running", "data")}, indent=2, ensure_ascii=False
        ),
        history=history,
        epoch=len(predictor.history),
        part=judged_part(history)[0],
        nothing={"loss": None, "mean_iou": None, "iou": [None] * len(labels)},
        parameters=count_parameters(predictor.model),
        size=predictor.size,
        fit=predictor.recipe.fit,
        seconds=seconds,
        place=_place(evaluation),
        split=split.name,
        images=evaluation.samples,
        scores=evaluation.scores,
        curves=draw_curves(history, labels=labels, kind="svg").decode(),
        classes=_class_rows(evaluation),
        few=len(labels) <= MANY,
        extremes=[("best", best), ("worst", worst)],
        ignored_share=without_class / max(labelled + without_class, 1),
        confusion=confusion_table(evaluation.matrix) if as_table else None,
        confusion_picture=None if as_table else draw_confusion(evaluation.matrix, labels).decode(),
        mistakes=[] if len(labels) <= MANY else frequent_mistakes(evaluation.matrix, labels),
        foreground=labels.foreground,
        boundary=labels.boundary,
        legend=legend,
        more=more,
        differences=difference_legend(labels),
        samples=[(rank, value, sample.key, panels(sample, labels)) for rank, value, sample in samples],
        rates=sorted(entry["pictures_per_second"] for entry in history),
        waits=[entry["wait_share"] for entry in history],
    )


def _place(evaluation: Evaluation) -> str:
    """Return where predictions were compared with masks: runs on crops are evaluated in windows."""
    if not evaluation.original_resolution:
        return "at the network's size"
    return f"at the images' stored size{evaluation.options.text(evaluation.window)}"


def _class_rows(evaluation: Evaluation) -> list[ClassRow]:
    labels, scores = evaluation.labels, evaluation.scores
    pixels = evaluation.matrix.sum(axis=1).tolist()
    total = max(sum(pixels), 1)
    by_name = ranks(len(labels), lambda i: labels.names[i].casefold())
    by_iou = ranks(len(labels), lambda i: (scores.iou[i] is None, scores.iou[i] or 0.0))
    by_share = ranks(len(labels), lambda i: -pixels[i])
    return [
        ClassRow(
            name=labels.names[i],
            colour=map_colour(labels, i),
            bar=line_colour(labels, i),
            iou=scores.iou[i],
            dice=scores.dice[i],
            recall=scores.recall[i],
            share=pixels[i] / total,
            by_name=by_name[i],
            by_iou=by_iou[i],
            by_share=by_share[i],
        )
        for i in range(len(labels))
    ]
