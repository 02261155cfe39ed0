"""``report.html``: one self-contained page that shows a run; no script, no other file, no network."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from petseg.inference.evaluation import Evaluation
from petseg.inference.image_files import COLOURS
from petseg.inference.metrics import CLASS_NAMES, score
from petseg.report.console_reporter import duration
from petseg.report.gallery import Exhibit
from petseg.report.style import STYLE
from petseg.report.thumbnails import BORDER_ONLY, INVENTED, MISSED, panels
from petseg.runs.history import History, judged_part


@dataclass(frozen=True)
class Shown:
    """A picture of the report: why it is shown, and its mean IoU at the network's size."""

    why: str
    mean_iou: float
    exhibit: Exhibit


@dataclass(frozen=True)
class ReportFacts:
    """What a report shows.

    Attributes:
        name: of the run.
        config: config.json.
        history: metrics.jsonl.
        evaluation: of the best weights on ``split``, at the network's size.
        split: ``val``, or ``train`` where the set has no validation split.
        parameters: trainable weights of the network.
        seconds: wall time of the whole run.
        curves: SVG.
        shown: the best, the median and the worst pictures.
    """

    name: str
    config: Mapping[str, Any]
    history: History
    evaluation: Evaluation
    split: str
    parameters: int
    seconds: float
    curves: str
    shown: Sequence[Shown]


def make_report(facts: ReportFacts) -> str:
    """Return the page as HTML."""
    parts = [
        _head(facts),
        f"<h2>Curves</h2><figure class=curves>{facts.curves}</figure>",
        _classes(facts),
        _pictures(facts),
        _speed(facts),
        _epochs(facts.history),
        _repeat(facts.config),
    ]
    return (
        "<!doctype html>\n<html lang=en><head><meta charset=utf-8>"
        "<meta name=viewport content='width=device-width, initial-scale=1'>"
        f"<title>{_text(facts.name)}: mean IoU {facts.evaluation.scores.mean_iou:.3f}</title>"
        f"<style>{STYLE}</style></head><body>\n" + "\n".join(parts) + "\n</body></html>\n"
    )


def _head(facts: ReportFacts) -> str:
    scores = facts.evaluation.scores
    recipe = facts.config["recipe"]
    cards = [
        ("mean IoU", f"{scores.mean_iou:.3f}"),
        *((f"IoU {name}", _number(iou)) for name, iou in zip(CLASS_NAMES, scores.iou, strict=True)),
        ("pixel accuracy", f"{scores.pixel_accuracy:.3f}"),
        ("wall time", duration(facts.seconds)),
    ]
    best = max(facts.history, key=lambda entry: bool(entry["best"]) * entry["epoch"])
    lead = (
        f"The weights of epoch {best['epoch']} (of {len(facts.history)}) on the {facts.evaluation.samples} pictures of "
        f"the {facts.split} split. Model {recipe['model']['name']}, {facts.parameters:,} weights, pictures of "
        f"{recipe['size']} x {recipe['size']}, batches of {recipe['batch_size']}."
    )
    boxes = "".join(f"<div><b>{value}</b><span>{_text(label)}</span></div>" for label, value in cards)
    return f"<h1>{_text(facts.name)}</h1><p class=faint>{lead}</p><div class=cards>{boxes}</div>"


def _classes(facts: ReportFacts) -> str:
    scores = facts.evaluation.scores
    rows = [
        [_swatch(colour) + name, _bar(iou, colour), _number(iou), _number(dice), _number(accuracy)]
        for name, colour, iou, dice, accuracy in zip(
            CLASS_NAMES, COLOURS, scores.iou, scores.dice, scores.accuracy, strict=True
        )
    ]
    mean = [_number(scores.mean_iou), _number(scores.mean_dice), f"{_number(scores.pixel_accuracy)} of all pixels"]
    rows.append(["mean", _bar(scores.mean_iou, (90, 90, 90)), *mean])
    binary = (
        f"<p>Animal against background: IoU <b>{_number(scores.binary.border_as_animal)}</b> with the border counted "
        f"as animal, <b>{_number(scores.binary.border_ignored)}</b> with the border's pixels left out.</p>"
    )
    return (
        f"<h2>Classes</h2><p class=faint>{facts.split} split, at the network's size, from one confusion matrix over "
        "all its pixels. A class's accuracy is the share of its true pixels that were found.</p><div class=side>"
        f"<div>{_table(['class', '', 'IoU', 'Dice', 'accuracy'], rows)}</div>"
        f"<div>{_confusion(facts)}</div></div>{binary}"
    )


def _confusion(facts: ReportFacts) -> str:
    matrix = facts.evaluation.matrix
    shares = matrix / matrix.sum(axis=1, keepdims=True).clip(min=1)
    head = "".join(f"<th>{name}</th>" for name in CLASS_NAMES)
    rows = ""
    for number, name in enumerate(CLASS_NAMES):
        cells = "".join(
            f"<td style='background: rgb({_shade(float(share), own=number == other)})'>"
            f"<b>{share:.1%}</b><small>{int(count):,}</small></td>"
            for other, (share, count) in enumerate(zip(shares[number], matrix[number], strict=True))
        )
        rows += f"<tr><th>{name}</th>{cells}</tr>"
    return (
        "<table class=confusion><caption>Confusion matrix: rows are the truth, columns the prediction; shares of the "
        f"row, and pixels</caption><tr><th></th>{head}</tr>{rows}</table>"
    )


def _shade(share: float, *, own: bool) -> str:
    """Return the colour of a cell: towards blue for pixels that were found, towards orange for those that were not."""
    full = (120, 180, 230) if own else (240, 160, 110)
    return ", ".join(str(round(255 + share * (value - 255))) for value in full)


def _pictures(facts: ReportFacts) -> str:
    rows = ""
    for shown in facts.shown:
        images = "".join(f"<img alt='{name}' src='{url}'>" for name, url in panels(shown.exhibit))
        rows += (
            f"<figure><figcaption><b class={shown.why}>{shown.why}</b> mean IoU <b>{shown.mean_iou:.3f}</b>"
            f"<code>{_text(shown.exhibit.key)}</code></figcaption>{images}</figure>"
        )
    classes = "".join(f"<span>{_swatch(c)}{name}</span>" for c, name in zip(COLOURS, CLASS_NAMES, strict=True))
    errors = "".join(
        f"<span>{_swatch(colour)}{_text(name)}</span>"
        for colour, name in [
            (MISSED, "animal taken for background"),
            (INVENTED, "background taken for animal"),
            (BORDER_ONLY, "differences at the border"),
        ]
    )
    return (
        "<h2>Best, median and worst pictures</h2><p class=faint>By the mean IoU of each picture alone, at the "
        "network's size; drawn at their own. From left to right: picture, truth, prediction, differences.</p>"
        f"<p class=legend>{classes}{errors}</p><div class=pictures>{rows}</div>"
    )


def _speed(facts: ReportFacts) -> str:
    rates = sorted(entry["pictures_per_second"] for entry in facts.history)
    waits = [entry["wait_share"] for entry in facts.history]
    rows = [
        ["device", _text(str(facts.config["device"]))],
        ["precision", _text(str(facts.config["precision"]))],
        ["processes", str(facts.config["world_size"])],
        [
            "training pictures/s, median (slowest, fastest epoch)",
            f"{rates[len(rates) // 2]:,.1f} ({rates[0]:,.1f}, {rates[-1]:,.1f})",
        ],
        ["stall: share of the training time spent waiting for data, mean (most)", _percents(waits)],
    ]
    return f"<h2>Throughput and stall</h2>{_table([], rows, text=True)}"


def _percents(shares: Sequence[float]) -> str:
    return f"{sum(shares) / len(shares):.1%} ({max(shares):.1%})"


def _epochs(history: History) -> str:
    name, _ = judged_part(history)
    head = ["epoch", "size", "learning rate", "training loss", f"{name} loss", f"{name} mean IoU"]
    head += [*CLASS_NAMES, "pictures/s", "wait"]
    rows = []
    for entry in history:
        part = entry[name] or {"loss": None, "mean_iou": None, "iou": [None] * len(CLASS_NAMES)}
        rows.append(
            [
                f"{entry['epoch']}{' *' if entry['best'] else ''}",
                str(entry["size"]),
                f"{entry['learning_rate']:.2g}",
                f"{entry['train']['loss']:.3f}",
                *map(_number, [part["loss"], part["mean_iou"], *part["iou"]]),
                f"{entry['pictures_per_second']:.1f}",
                f"{entry['wait_share']:.1%}",
            ]
        )
    return f"<details><summary>Every epoch (* the best so far)</summary>{_table(head, rows)}</details>"


def _repeat(config: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in config["versions"].items())
    times = len(config["resumed"])
    resumed = f" Resumed {'once' if times == 1 else f'{times} times'}." if times else ""
    data = config["data"]
    samples = ", ".join(f"{count} {name}" for name, count in data["samples"].items())
    shown = {name: config[name] for name in ("recipe", "running", "data")}
    return (
        f"<h2>To repeat it</h2><pre>{_text(config['command'])}</pre>"
        f"<p>Started {_text(config['started'])}.{resumed} Data: {_text(samples)}, fingerprint "
        f"<code>{_text(data['fingerprint'][:16])}</code>.<br>Versions: {_text(versions)}.</p>"
        f"<details><summary>Configuration</summary><pre>{_text(json.dumps(shown, indent=2))}</pre></details>"
    )


def choose_pictures(evaluation: Evaluation, *, each: int = 2) -> list[tuple[str, int, float]]:
    """Return (why, index, mean IoU) of the best, the median and the worst pictures, without repeats."""
    values = [score(matrix).mean_iou for matrix in evaluation.matrices]
    order = sorted(range(len(values)), key=lambda index: (-values[index], index))
    middle = max(0, len(order) // 2 - each // 2)
    chosen = [("best", i) for i in order[:each]]
    chosen += [("median", i) for i in order[middle : middle + each]]
    chosen += [("worst", i) for i in order[-each:]]
    seen: dict[int, str] = {}
    for why, index in chosen:
        seen.setdefault(index, why)
    return [(why, index, values[index]) for index, why in seen.items()]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], *, text: bool = False) -> str:
    """Return a table; its cells are HTML already."""
    top = "<tr>" + "".join(f"<th>{cell}</th>" for cell in head) + "</tr>" if head else ""
    kind = " class=text" if text else ""
    body = "".join("<tr>" + "".join(f"<td{kind}>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table>{top}{body}</table>"


def _swatch(colour: tuple[int, int, int]) -> str:
    return f"<i class=swatch style='background: rgb{colour}'></i>"


def _bar(value: float | None, colour: tuple[int, int, int]) -> str:
    line = colour if min(colour) < 200 else (150, 150, 150)  # the border's white would not show on white
    return f"<i class=bar><i style='width: {100 * (value or 0):.1f}%; background: rgb{line}'></i></i>"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _text(value: str) -> str:
    return html.escape(value)
