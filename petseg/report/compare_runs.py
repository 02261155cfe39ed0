"""One self-contained page about several runs: curves, recipes, classes, and the same images' predictions."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure
from PIL import ImageColor

from petseg.host.device import Precision
from petseg.inference.evaluation import Evaluation
from petseg.inference.scoring import evaluate_predictor
from petseg.inference.trained_network import Predictor, load
from petseg.nets.factory import count_parameters
from petseg.report.figures import Rgb, picture_bytes, plain_text, ranks, shown_name, unit
from petseg.report.page_templates import page_template
from petseg.report.sample_predictions import class_legend, image_scores, predict_sample
from petseg.report.thumbnails import map_url, photo_url
from petseg.runs.history import History, judged_part
from petseg.runs.option_fields import AUTO, shown_value, takes_auto
from petseg.runs.recipe import Recipe
from petseg.runs.run_folder import distinct_names, read_comparable
from shards import ShardSet
from shards.errors import UsageError, option
from shards.format.labels import Labels
from shards.format.overlays import colour_map
from shards.format.readers.output_places import expect_ending, expect_free
from shards.store.atomic import write_atomically

MOST_RUNS = 8
_IMAGES = 8
# Okabe and Ito's colours, distinguishable with any colour vision.
_COLOURS: tuple[Rgb, ...] = tuple(
    ImageColor.getrgb(code)[:3]
    for code in ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#5a5a5a", "#8c564b")
)
_PARTS = {"val": "validation", "train": "training"}
_CHOSEN = [name for name in Recipe.__struct_fields__ if takes_auto(Recipe, name)]


@dataclass(frozen=True, kw_only=True)
class ComparedRun:
    """A run on the page: its name there, its options, its epochs, and the scores that stand in the tables."""

    name: str
    colour: Rgb
    config: Mapping[str, Any]
    history: History
    labels: Labels
    parameters: int
    scores: Mapping[str, Any]  # mean_iou, pixel_accuracy and, by class, iou
    epoch: int  # whose weights have these scores
    scored_on: str  # "validation" or "training", its own, or the split of the set that all are scored on
    notes: tuple[str, ...]  # what is to be known of the scores


@dataclass(frozen=True, kw_only=True)
class ComparedClass:
    """A class in the table: its IoU in each run (None: none, or no such class), and its place in each order, from 0."""

    name: str
    iou: tuple[float | None, ...]
    spread: float | None  # highest minus lowest
    by_name: int
    by_worst: int
    by_spread: int


def expect_comparable(runs: Sequence[Path], out: Path, *, overwrite: bool) -> None:
    """Raise ``UsageError`` for too few or too many runs, or a page that must not be written."""
    if not 2 <= len(runs) <= MOST_RUNS:
        raise UsageError(f"{option('compare')} takes 2 to {MOST_RUNS} runs, not {len(runs)}")
    for run in runs:
        if not run.is_dir():
            raise UsageError(
                f"{run} is not the folder of a run, which {option('compare')} needs: its options and metrics"
            )
    expect_free(out, overwrite=overwrite, advice="choose another name with -o")
    expect_ending(out, ".html")


def compare_runs(
    runs: Sequence[Path],
    out: Path,
    *,
    shards: str | Path | ShardSet | None = None,
    split: str = "test",
    batch_size: int = 32,
    device: str = "auto",
    precision: Precision = "auto",
    overwrite: bool = False,
    after_batch: Callable[[int], None] = lambda images: None,
) -> list[tuple[str, ...]]:
    """Write the page ``out`` about two or more runs; return each run's notes, as in its :class:`petseg.Evaluation`.

    Args:
        runs: their folders.
        out: the page.
        shards: a set on whose ``split`` all are scored; None: the scores are those of their own validations, or of the
            trainings of those that have none.
        split: of that set.
        batch_size: of images that are scored together.
        device, precision: see :func:`petseg.load`.
        overwrite: replace an existing page.
        after_batch: called with the number of images that were scored.

    Raises:
        PetsegError: see :func:`expect_comparable`; a run has no finished epoch; a set does not fit a run.
    """
    expect_comparable(runs, out, overwrite=overwrite)
    predictors = [load(run, device=device, precision=precision) for run in runs]
    data = shards if isinstance(shards, ShardSet) or shards is None else ShardSet.open(shards)
    evaluations = [
        evaluate_predictor(predictor, data, split=split, batch_size=batch_size, after_batch=after_batch)
        for predictor in predictors
        if data is not None
    ]
    compared = [
        _compared(run, name, number, predictors[number], evaluations[number] if evaluations else None, split=split)
        for number, (run, name) in enumerate(zip(runs, distinct_names(runs), strict=True))
    ]
    mixed = _mixed(compared)
    images: list[Any] = []
    legend: list[tuple[str, Rgb]] = []
    if data is not None:
        images, legend = _images(predictors, evaluations, data, split)
    fingerprints = {str(run.config.get("data", {}).get("fingerprint")) for run in compared}
    page = page_template("compare.html.jinja").render(
        runs=compared,
        curves=draw_compared_curves(compared).decode(),
        mixed=mixed,
        options=recipe_differences([run.config for run in compared]),
        classes=compared_classes(compared),
        split=split if shards is not None else None,
        set_name=None if data is None else data.store.name,
        other_data=shards is None and len(fingerprints) > 1,
        images=images,
        legend=legend,
    )
    write_atomically(out, page, replace=overwrite)
    return [run.notes for run in compared]


def recipe_differences(configs: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[str], bool]]:
    """Return each option of the recipes with its value in each run (``-``: none), and whether these differ.

    Those that differ come first; what decides the weights beside the recipe is among them.
    """
    flat = [_flat(config) for config in configs]
    names = list(dict.fromkeys(name for values in flat for name in values))
    rows = [(name, [values.get(name, "-") for values in flat]) for name in names]
    marked = [(name, values, len(set(values)) > 1) for name, values in rows]
    return sorted(marked, key=lambda row: not row[2])


def compared_classes(runs: Sequence[ComparedRun]) -> list[ComparedClass]:
    """Return the classes of all runs, in the order of the first one's labels.

    No spread lies between scores of a validation and of a training.
    """
    names = list(dict.fromkeys(name for run in runs for name in run.labels.names))
    by_run = [dict(zip(run.labels.names, run.scores["iou"], strict=True)) for run in runs]
    iou = [tuple(values.get(name) for values in by_run) for name in names]
    present = [[value for value in values if value is not None] for values in iou]
    mixed = _mixed(runs)
    spread = [max(values) - min(values) if len(values) > 1 and not mixed else None for values in present]
    by_name = ranks(len(names), lambda i: names[i].casefold())
    by_worst = ranks(len(names), lambda i: min(present[i], default=2.0))
    by_spread = ranks(len(names), lambda i: -1.0 if spread[i] is None else spread[i])
    return [
        ComparedClass(
            name=names[i],
            iou=iou[i],
            spread=spread[i],
            by_name=by_name[i],
            by_worst=by_worst[i],
            by_spread=len(names) - 1 - by_spread[i],
        )
        for i in range(len(names))
    ]


def draw_compared_curves(runs: Sequence[ComparedRun]) -> bytes:
    """Return an SVG of the runs' curves, one colour each: losses, mean IoU, learning rate."""
    parts = [judged_part(run.history)[0] for run in runs]
    with plain_text():
        figure = Figure(figsize=(13, 4.2), layout="constrained")
        loss, iou, rate = figure.subplots(1, 3)
        for run in runs:
            part, judged = judged_part(run.history)
            colour, epochs = unit(run.colour), [entry["epoch"] for entry in run.history]
            style: dict[str, Any] = {"color": colour, "marker": "o" if len(epochs) < 40 else "", "markersize": 3}
            loss.plot(epochs, [entry["train"]["loss"] for entry in run.history], linestyle=":", **style)
            judged_epochs = [entry["epoch"] for entry in judged]
            if part == "val":
                loss.plot(judged_epochs, [entry["val"]["loss"] for entry in judged], **style)
            scores = [entry[part]["mean_iou"] for entry in judged]
            of = f" ({_PARTS[part]})" if len(set(parts)) > 1 else ""
            iou.plot(judged_epochs, scores, label=f"{shown_name(run.name, 40)}{of}", **style)
            rate.plot(epochs, [entry["learning_rate"] for entry in run.history], **style)
        loss.set(title=f"Loss: dotted training{', solid validation' if 'val' in parts else ''}", ylim=(0, None))
        whose = " or ".join(f"the {word}" for part, word in _PARTS.items() if part in parts)
        iou.set(title=f"Mean IoU of {whose}", ylim=(0, None))
        rate.set(title="Learning rate at the epoch's end", ylim=(0, None))
        for axes in (loss, iou, rate):
            axes.set_xlabel("epoch")
            axes.spines[["top", "right"]].set_visible(False)
            axes.grid(alpha=0.25)
            axes.set_xlim(0.5, max(2, *(run.history[-1]["epoch"] for run in runs)) + 0.5)
            axes.xaxis.get_major_locator().set_params(integer=True)
        figure.legend(loc="outside lower center", ncols=min(len(runs), 4), frameon=False)
        return picture_bytes(figure, "svg")


def _mixed(runs: Sequence[ComparedRun]) -> bool:
    """Whether some scores are of a validation and others of a training, so that no order of them means anything."""
    return len({run.scored_on for run in runs}) > 1


def _compared(
    run: Path, name: str, number: int, predictor: Predictor, evaluation: Evaluation | None, *, split: str
) -> ComparedRun:
    history, config = read_comparable(run, classes=len(predictor.labels))
    part, judged = judged_part(history)
    if not judged:
        raise UsageError(f"{run} has no finished epoch to compare")
    best = max(judged, key=lambda entry: (bool(entry["best"]), entry["epoch"]))
    scores: Mapping[str, Any] = best[part]
    if evaluation is not None:
        found = evaluation.scores
        scores = {"mean_iou": found.mean_iou, "iou": list(found.iou), "pixel_accuracy": found.pixel_accuracy}
    return ComparedRun(
        name=name,
        colour=_COLOURS[number],
        config=config,
        history=history,
        labels=predictor.labels,
        parameters=count_parameters(predictor.model),
        scores=scores,
        epoch=best["epoch"],
        scored_on=_PARTS[part] if evaluation is None else split,
        notes=() if evaluation is None else evaluation.notes,
    )


def _images(
    predictors: Sequence[Predictor], evaluations: Sequence[Evaluation], data: ShardSet, split: str
) -> tuple[list[Any], list[tuple[str, Rgb]]]:
    """Return the images on which the runs differ most, with all predictions, and the legend of their colours."""
    reader, labels = data.split(split), predictors[0].labels
    values = np.stack([image_scores(evaluation) for evaluation in evaluations])
    scored: npt.NDArray[np.bool_] = np.asarray(~np.isnan(values).any(axis=0))
    spread = np.where(scored, values.max(axis=0) - values.min(axis=0), -1.0)
    chosen = [index for index in np.argsort(-spread, kind="stable").tolist() if scored[index]][:_IMAGES]
    rows, samples = [], []
    for index in chosen:
        each = [predict_sample(predictor, reader, index) for predictor in predictors]
        samples += each
        first = each[0]
        panels = [
            (float(value), map_url(colour_map(sample.prediction.index, labels)))
            for value, sample in zip(values[:, index], each, strict=True)
        ]
        rows.append((first.key, photo_url(first.image), map_url(colour_map(first.truth, labels)), panels))
    return rows, class_legend(samples, labels)[0] if samples else []


def _flat(config: Mapping[str, Any]) -> dict[str, str]:
    """Return a run's options as texts: those of the model and the recipe, its data, device and precision."""
    recipe = dict(config.get("recipe", {}))
    model = recipe.pop("model", {})
    data = config.get("data", {})
    values = {**{f"model.{name}": shown_value(name, value) for name, value in model.items()}, **recipe}
    values |= {
        "shard set": Path(str(data.get("path", "-"))).name,
        "its fingerprint": str(data.get("fingerprint", "-"))[:12],
    }
    values |= {"processes": config.get("world_size", "-"), "device": config.get("device", "-")}
    values |= {"precision used": config.get("precision", "-")}
    values |= {f"version of {name}": version for name, version in config.get("versions", {}).items()}
    return {name: _text(name, value) for name, value in values.items()}


def _text(name: str, value: Any) -> str:
    """Return an option's value as it is typed: None is ``auto`` where the training chooses, else ``none``."""
    if value is None:
        return AUTO if name in _CHOSEN else "none"
    return "x".join(map(str, value)) or "none" if isinstance(value, list) else str(value)
