"""``report.html``: one self-contained page that shows a run; no script, no other file, no network."""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from petseg.display import duration
from petseg.evaluation import Evaluation
from petseg.metrics import CLASS_NAMES, score

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 1180px; margin: 2em auto; padding: 0 1em; }
h1 { font-size: 1.6em; margin-bottom: 0; } h2 { font-size: 1.2em; margin-top: 2em; border-bottom: 1px solid #ddd; }
table { border-collapse: collapse; margin: .6em 0; } th, td { padding: .25em .8em; text-align: right; }
th { font-weight: 600; background: #f4f4f4; } td:first-child, th:first-child { text-align: left; }
tr + tr { border-top: 1px solid #eee; } img { max-width: 100%; } .side { display: flex; gap: 3em; flex-wrap: wrap; }
pre, code { background: #f4f4f4; font-size: .9em; } pre { padding: .7em; white-space: pre-wrap; word-break: break-all; }
.lead { font-size: 1.1em; } .faint { color: #666; } details { margin: .5em 0; } td.text { text-align: left; }
"""


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
        curves: PNG.
        gallery: PNG of the pictures named in ``chosen``.
        chosen: (why it is shown, key, mean IoU) of each row of the gallery.
    """

    name: str
    config: Mapping[str, Any]
    history: Sequence[Mapping[str, Any]]
    evaluation: Evaluation
    split: str
    parameters: int
    seconds: float
    curves: bytes
    gallery: bytes
    chosen: Sequence[tuple[str, str, float]]


def make_report(facts: ReportFacts) -> str:
    """Return the page as HTML."""
    scores = facts.evaluation.scores
    lead = (
        f"Mean IoU <b>{scores.mean_iou:.3f}</b> on the {facts.evaluation.samples} pictures of the {facts.split} split, "
        f"pixel accuracy {scores.pixel_accuracy:.3f}; {len(facts.history)} epochs in {duration(facts.seconds)}, "
        f"{facts.parameters:,} weights."
    )
    parts = [
        f"<h1>{_text(facts.name)}</h1><p class=lead>{lead}</p>",
        "<h2>Curves</h2>" + _picture(facts.curves, "loss, IoU and learning rate over the epochs"),
        _classes(facts),
        _pictures(facts),
        _speed(facts),
        _repeat(facts.config),
    ]
    return (
        f"<!doctype html>\n<html lang=en><head><meta charset=utf-8><title>{_text(facts.name)}</title>"
        f"<style>{_STYLE}</style></head><body>\n" + "\n".join(parts) + "\n</body></html>\n"
    )


def _classes(facts: ReportFacts) -> str:
    scores, matrix = facts.evaluation.scores, facts.evaluation.matrix
    rows = [
        [name, _number(iou), _number(dice)]
        for name, iou, dice in zip(CLASS_NAMES, scores.iou, scores.dice, strict=True)
    ]
    rows.append(["mean", _number(scores.mean_iou), _number(scores.mean_dice)])
    shares = matrix / matrix.sum(axis=1, keepdims=True).clip(min=1)
    confusion = [
        [name, *(f"{share:.1%}" for share in row), f"{int(total):,}"]
        for name, row, total in zip(CLASS_NAMES, shares, matrix.sum(axis=1), strict=True)
    ]
    binary = (
        f"<p>Animal against background: IoU {_number(scores.binary.border_as_animal)} with the border counted as "
        f"animal, {_number(scores.binary.border_ignored)} with the border's pixels left out.</p>"
    )
    return (
        f"<h2>Classes</h2><p class=faint>The best epoch's weights on the {facts.split} split, at the network's size, "
        "from one confusion matrix over all its pixels.</p><div class=side>"
        f"<div>{_table(['class', 'IoU', 'Dice'], rows)}{binary}</div>"
        f"<div>{_table(['truth (rows), prediction', *CLASS_NAMES, 'pixels'], confusion)}</div></div>"
    )


def _pictures(facts: ReportFacts) -> str:
    rows = [[why, key, f"{value:.3f}"] for why, key, value in facts.chosen]
    return (
        "<h2>Best, median and worst pictures</h2><p class=faint>By the mean IoU of each picture alone, at the "
        f"network's size; drawn at their own.</p>{_table(['', 'picture', 'mean IoU'], rows)}"
        + _picture(facts.gallery, "pictures with truth, prediction and a probability map of each class")
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
            f"{rates[len(rates) // 2]:.1f} ({rates[0]:.1f}, {rates[-1]:.1f})",
        ],
        ["share of the time spent waiting for data, mean", f"{sum(waits) / len(waits):.1%}"],
    ]
    return f"<h2>Speed</h2>{_table(['', ''], rows, text=True)}"


def _repeat(config: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in config["versions"].items())
    resumed = f" Resumed {len(config['resumed'])} times." if config["resumed"] else ""
    shown = {name: config[name] for name in ("recipe", "running", "data")}
    return (
        f"<h2>To repeat it</h2><pre>{_text(config['command'])}</pre>"
        f"<p>Started {_text(config['started'])}.{resumed} {_text(versions)}. Data: fingerprint "
        f"<code>{_text(config['data']['fingerprint'][:16])}</code>.</p>"
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
    top = "" if not any(head) else "<tr>" + "".join(f"<th>{_text(cell)}</th>" for cell in head) + "</tr>"
    kind = " class=text" if text else ""
    body = "".join("<tr>" + "".join(f"<td{kind}>{_text(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table>{top}{body}</table>"


def _picture(png: bytes, description: str) -> str:
    return f'<img alt="{_text(description)}" src="data:image/png;base64,{base64.b64encode(png).decode()}">'


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _text(value: str) -> str:
    return html.escape(value)
