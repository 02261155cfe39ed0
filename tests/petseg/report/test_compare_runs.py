"""The page about several runs: what differs, every class, the same images; one file that refuses to replace another."""

from __future__ import annotations

import html
import json
import re
import shutil
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from labelled_sets import many_labels

import petseg
from petseg.cli import evaluate
from petseg.report.compare_runs import (
    ComparedRun,
    compared_classes,
    draw_compared_curves,
    recipe_differences,
)
from petseg.runs.checkpoint import load_checkpoint, save_checkpoint
from petseg.runs.run_folder import distinct_names, read_metrics
from shards.errors import UsageError
from shards.format.labels import Labels


def cells(page: str, row: str) -> list[str]:
    """The texts of the cells of the row that starts with a text."""
    found = re.search(rf"<tr[^>]*><td>(?:<i [^>]*></i>)?{re.escape(row)}</td>(.*?)</tr>", page)
    assert found, row
    return [re.sub("<.*?>", "", cell) for cell in re.findall(r"<td[^>]*>(.*?)</td>", found[1])]


@pytest.fixture
def other_run(tiny_run: Path, tmp_path: Path) -> Path:
    """The tiny run under a name that pages and formulas would misread, with other scores and options."""
    run = shutil.copytree(tiny_run, tmp_path / "$a_b$ <i>")
    config = json.loads((run / "config.json").read_text())
    config["recipe"] |= {"lr": 0.5, "size": [32, 64]}
    config["recipe"]["model"]["widths"] = [8, 24]
    (run / "config.json").write_text(json.dumps(config))
    history = read_metrics(run)
    for entry in history:
        entry["val"] |= {"mean_iou": 0.123, "iou": [0.111, 0.222, None]}
    (run / "metrics.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in history))
    return run


def test_scores_and_options_of_two_runs(call, tiny_run: Path, other_run: Path, tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    result = call(evaluate, "--compare", tiny_run, other_run, "-o", out)
    assert result.code == 0, result.err
    page = out.read_text()
    best = max(read_metrics(tiny_run), key=lambda entry: bool(entry["best"]) * entry["epoch"])["val"]
    name = html.escape("$a_b$ <i>")
    assert cells(page, name)[0] == "0.123"
    assert cells(page, "tiny")[0] == f"{best['mean_iou']:.3f}"
    assert cells(page, "lr") == ["0.01", "0.5"]
    assert cells(page, "model.widths") == ["8x16", "8x24"]
    assert cells(page, "animal")[:2] == [f"{best['iou'][0]:.3f}", "0.111"]
    assert "<th>spread (highest - lowest)</th>" in page  # of any number of runs, so it has no sign
    assert "difference" not in page
    assert cells(page, "border") == [f"{best['iou'][2]:.3f}", "-", "-"]
    assert page.index(">lr<") < page.index("options that are the same") < page.index(">epochs<")
    assert "<i>x" not in page
    assert "<script" not in page
    assert not re.search(r'(?:src|href)="(?!data:|#)', page)


def test_notes_of_scores_are_on_the_page(
    call, blank_figures: None, tiny_run: Path, other_run: Path, synthetic_set: Path, tmp_path: Path
) -> None:
    """The other run, whose name holds HTML, was trained on another set."""
    config = json.loads((other_run / "config.json").read_text())
    config["data"]["fingerprint"] = "0123456789ab" + "0" * 52
    (other_run / "config.json").write_text(json.dumps(config))
    page = tmp_path / "page.html"
    arguments = ("--shards", synthetic_set, "--split", "val", "-o", page, "--json")
    result = call(evaluate, "--compare", tiny_run, other_run, *arguments)
    assert result.code == 0, result.err
    notes = json.loads(result.out)["notes"]
    assert list(notes) == [str(tiny_run), str(other_run)]
    assert notes[str(tiny_run)] == []
    (note,) = notes[str(other_run)]
    assert "was trained on another set" in note
    assert "(fingerprint 0123456789ab, " in note
    text = page.read_text()
    assert text.count('class="note"') == 1
    assert f"<b>{html.escape('$a_b$ <i>')}:</b> {html.escape(note)}</p>" in text
    assert text.index(">mean IoU<") < text.index(html.escape(note)) < text.index("<h2>Curves")


def without_validation(run: Path) -> Path:
    lines = [json.dumps({**entry, "val": None}) + "\n" for entry in read_metrics(run)]
    (run / "metrics.jsonl").write_text("".join(lines))
    return run


def test_training_scores_are_called_so(call, tiny_run: Path, other_run: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    runs = [without_validation(shutil.copytree(tiny_run, tmp_path / name)) for name in ("first", "second")]
    assert call(evaluate, "--compare", *runs, "-o", page).code == 0
    text = page.read_text()
    assert "by its own training: no run has a validation" in text
    assert "by its own validation" not in text
    assert "Mean IoU of the training" in text
    assert "solid validation" not in text
    assert 'class="best"' in text  # of the same kind
    best = max(read_metrics(runs[0]), key=lambda entry: bool(entry["best"]) * entry["epoch"])
    assert cells(text, "first")[0] == f"{best['train']['mean_iou']:.3f}"

    assert call(evaluate, "--compare", runs[0], other_run, "-o", page, "--overwrite").code == 0
    text = page.read_text()
    assert "by its own validation, or training where it has no validation" in text
    assert "No score is marked as the highest" in text
    assert 'class="best"' not in text
    assert 'id="by-spread"' not in text
    assert cells(text, "first")[2] == "training"
    assert cells(text, html.escape("$a_b$ <i>"))[2] == "validation"
    assert cells(text, "animal")[-1] == "-"
    assert "Mean IoU of the validation or the training" in text
    assert "first (training)" in text

    assert call(evaluate, "--compare", tiny_run, other_run, "-o", page, "--overwrite").code == 0
    text = page.read_text()
    assert "by its own validation.</p>" in text
    assert "Mean IoU of the validation -->" in text
    assert "(validation)" not in text


def test_runs_without_validation_are_scored_on_a_set(
    call, blank_figures: None, tiny_run: Path, other_run: Path, synthetic_set: Path, tmp_path: Path
) -> None:
    """The scores of the page are of one split then, whatever the runs were judged by."""
    page, run = tmp_path / "page.html", without_validation(shutil.copytree(tiny_run, tmp_path / "run"))
    arguments = ("--shards", synthetic_set, "--split", "val", "-o", page)
    assert call(evaluate, "--compare", run, other_run, *arguments).code == 0
    assert 'class="best"' in page.read_text()
    assert "No score is marked" not in page.read_text()


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("config.json", lambda d: d.pop("recipe")),
        ("config.json", lambda d: d["recipe"].pop("model")),
        ("config.json", lambda d: d["recipe"].update(model=[1])),
        ("config.json", lambda d: d["recipe"]["model"].pop("name")),
        ("config.json", lambda d: d["recipe"].update(size="x")),
        ("config.json", lambda d: d.update(data=[1])),
        ("config.json", lambda d: d.update(versions="x")),
        ("metrics.jsonl", lambda d: d["val"].update(iou=[0.5])),
        ("metrics.jsonl", lambda d: d["val"].update(recall=[0.5])),
        ("metrics.jsonl", lambda d: d["train"].update(iou=[0.5] * 9, recall=[0.5] * 9)),
        ("metrics.jsonl", lambda d: d["train"].update(loss=1e308)),
        ("metrics.jsonl", lambda d: d.update(learning_rate=-1e308)),
        ("metrics.jsonl", lambda d: d.update(pictures_per_second="fast")),
    ],
)
def test_damaged_runs_are_named(
    call, blank_figures: None, tiny_run: Path, other_run: Path, tmp_path: Path, name: str, change: Any
) -> None:
    lines = [(other_run / name).read_text()] if name == "config.json" else (other_run / name).read_text().splitlines()
    document = json.loads(lines[0])
    change(document)
    (other_run / name).write_text("\n".join([json.dumps(document), *lines[1:]]))
    result = call(evaluate, "--compare", tiny_run, other_run, "-o", tmp_path / "page.html")
    assert result.code == 1, result.err
    assert len(result.err.splitlines()) == 1
    assert name in result.err
    assert "is damaged" in result.err


def test_the_same_images_side_by_side(
    call, tiny_run: Path, other_run: Path, synthetic_set: Path, tmp_path: Path
) -> None:
    """Scored on the set, not by the metrics of the runs; the order is that of the largest spread."""
    checkpoint = load_checkpoint(other_run / "best.pt")
    weights = {
        **checkpoint.model,
        "head.bias": checkpoint.model["head.bias"] + torch.tensor([0.5, 0.0, 0.0]).repeat_interleave(4),
    }
    save_checkpoint(other_run / "best.pt", msgspec.structs.replace(checkpoint, model=weights))
    out = tmp_path / "page.html"
    result = call(evaluate, "--compare", tiny_run, other_run, "--shards", synthetic_set, "--split", "val", "-o", out)
    assert result.code == 0, result.err
    page = out.read_text()
    for run, name in ((tiny_run, "tiny"), (other_run, html.escape("$a_b$ <i>"))):
        assert cells(page, name)[0] == f"{petseg.evaluate(run, synthetic_set, split='val').scores.mean_iou:.3f}"
    rows = re.findall(r"<tr><td><code>.*?</tr>", page)
    differences = list[float]()
    for row in rows:
        assert row.count("data:image/") == 4
        predictions = re.findall(r'<img[^>]*alt="prediction"[^>]*>', row)
        first, second = map(float, re.findall(r">([\d.]+)</td>", row))
        differences.append(abs(first - second))
        assert (predictions[0] == predictions[1]) == (first == second)
    assert differences == sorted(differences, reverse=True)
    assert differences[0] > differences[-1]


def test_pages_and_the_folders_of_runs_are_kept(call, tiny_run: Path, other_run: Path, tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    out.write_text("mine")
    assert "there is no folder" in call(evaluate, "--compare", tiny_run, other_run, "-o", tmp_path / "no" / "p").err
    assert "--csv is for one RUN" in call(evaluate, "--compare", tiny_run, other_run, "--csv", tmp_path / "t.csv").err
    assert "exists already" in call(evaluate, "--compare", tiny_run, other_run, "-o", out).err
    assert out.read_text() == "mine"
    again = call(evaluate, "--compare", tiny_run, other_run, "-o", out, "--overwrite", "--json")
    assert json.loads(again.out) == {
        "page": str(out),
        "runs": [str(tiny_run), str(other_run)],
        "notes": {str(tiny_run): [], str(other_run): []},
    }
    assert "keeps its folder" in call(evaluate, "--compare", tiny_run, other_run, "-o", tiny_run / "page.html").err
    assert "keeps its folder" in call(evaluate, "--compare", tiny_run, other_run, "-o", other_run / "report.html").err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--compare", "RUN"], "2 to 8 runs"),
        (["--compare", "RUN", "RUN"], "twice"),
        (["--compare", "RUN", "RUN/best.pt"], "not the folder of a run"),
        (["--compare", "RUN", "RUN", "--flip-tta"], "omit"),
        (["--compare", "RUN", "RUN", "--split", "val"], "are for --shards"),
        (["--compare", "RUN", "RUN", "--cache", "c"], "are for --shards"),
        (["--compare", "RUN", "RUN", "--fetch", "shard"], "are for --shards"),
        (["--compare", "RUN", "RUN", "--cache-bytes", "1GB"], "are for --shards"),
        (["RUN", "RUN", "--shards", "x"], "one RUN"),
        (["RUN"], "--shards"),
        (["RUN", "--shards", "x", "--overwrite"], "--overwrite is for --csv and --compare"),
        (["RUN", "--shards", "x", "-o", "page.html"], "--compare"),
    ],
)
def test_wrong_calls(call, tiny_run: Path, arguments: list[str], message: str) -> None:
    result = call(evaluate, *(each.replace("RUN", str(tiny_run)) for each in arguments))
    assert (result.code, message in result.err) == (2, True), result.err


def test_names_have_as_many_folders_as_they_need(tmp_path: Path) -> None:
    paths = [tmp_path / part for part in ("a/pets", "b/pets", "b/voc")]
    assert distinct_names(paths) == ["a/pets", "b/pets", "b/voc"]
    assert distinct_names(paths[1:]) == ["pets", "voc"]
    with pytest.raises(UsageError, match="twice"):
        distinct_names([tmp_path / "a", tmp_path / "b" / ".." / "a"])


def compared(labels: Labels, iou: list[float | None], **facts: Any) -> ComparedRun:
    entry = {
        "epoch": 1,
        "train": {"loss": 1.0, "mean_iou": 0.5},
        "val": None,
        "learning_rate": 0.1,
        "pictures_per_second": 10.0,
        "best": True,
    }
    scores = {"mean_iou": 0.5, "pixel_accuracy": 0.5, "iou": iou}
    defaults: dict[str, Any] = {"name": "run", "colour": (0, 0, 0), "config": {}, "history": [entry], "epoch": 1}
    defaults |= {"scored_on": "training", "notes": ()}
    return ComparedRun(**{**defaults, "labels": labels, "parameters": 1, "scores": scores, **facts})


def test_classes_that_only_one_run_has_and_150_of_them() -> None:
    labels, values = many_labels(150), np.random.default_rng(0).random((2, 150)).tolist()
    fewer = Labels(classes=labels.classes[148::-1])  # in another order
    rows = compared_classes([compared(labels, values[0]), compared(fewer, values[1][148::-1])])
    assert [row.name for row in rows] == list(labels.names)
    assert [row.iou for row in rows] == [*zip(*(each[:149] for each in values), strict=True), (values[0][149], None)]
    assert rows[149].spread is None
    by_spread = [row.spread for row in sorted(rows, key=lambda row: row.by_spread)]
    known = [value for value in by_spread if value is not None]
    assert by_spread == [*known, None]
    assert known == sorted(known, reverse=True)
    worst = [min(v for v in row.iou if v is not None) for row in sorted(rows, key=lambda row: row.by_worst)]
    assert worst == sorted(worst)


def test_curves_of_any_names() -> None:
    runs = [compared(many_labels(3), [0.1, 0.2, None], name=name) for name in ("_a", "$x", "日本", "b" * 300)]
    assert draw_compared_curves(runs).startswith(b"<svg")


def test_options_that_are_off_have_one_word() -> None:
    model = {"encoder": "none", "decoder_widths": []}
    recipe = {"model": model, "init_from": None, "crop_scale": None, "ema_decay": None, "encoder_lr": None}
    rows = {name: values for name, values, _ in recipe_differences([{"recipe": recipe}, {}])}
    off = ("model.encoder", "model.decoder_widths", "init_from", "crop_scale")
    assert [rows[name] for name in off] == [["none", "-"]] * 4
    assert [rows[name] for name in ("ema_decay", "encoder_lr")] == [["auto", "-"]] * 2
    assert not any("None" in value for values in rows.values() for value in values)


def test_options_that_a_run_lacks_differ() -> None:
    configs = [{"recipe": {"lr": 1, "model": {"widths": [1, 2]}}}, {"recipe": {"lr": 1, "model": {}}}]
    rows = {name: (values, differs) for name, values, differs in recipe_differences(configs)}
    assert rows["model.widths"] == (["1x2", "-"], True)
    assert rows["lr"] == (["1", "1"], False)
    assert recipe_differences(configs)[0][0] == "model.widths"
