"""The options of petseg-eval and petseg-predict, and the scores."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from labelled_sets import build_labelled, many_labels, write_untrained
from PIL import Image
from sample_runs import damaged_copy

import petseg
from petseg.cli import evaluate, predict
from petseg.inference import scoring
from petseg.inference.stored_samples import read_image, read_mask
from petseg.runs.run_folder import read_metrics
from shards import SampleError, ShardSet

TINY: dict[str, Any] = {"size": 32, "widths": (8, 16), "epochs": 2, "batch_size": 8, "threads": 1}
TINY_ARGUMENTS = ["--size", "32", "--widths", "8,16", "--epochs", "2", "--batch-size", "8", "--threads", "1"]


def test_scores_are_those_of_an_independent_count(call, tiny_run: Path, synthetic_set: Path, tmp_path: Path) -> None:
    """Predict every image at its original resolution with the Python API and count with scikit-learn."""
    from sklearn.metrics import confusion_matrix

    table = tmp_path / "table.csv"
    # Single images, as below: of a batch, another kernel may add up, and decide pixels whose classes are level.
    options = ("--own-size", "--json", "--csv", table, "--batch-size", 1)
    result = call(evaluate, tiny_run, "--shards", synthetic_set, *options)
    document = json.loads(result.out)
    network = petseg.load(tiny_run)
    split = ShardSet.open(synthetic_set).split("test")
    counts = np.zeros((3, 3), np.int64)
    for index in range(len(split)):
        mask = network.predict(read_image(split, index)).mask
        counts += confusion_matrix(read_mask(split, index).ravel() + 1, mask.ravel(), labels=[1, 2, 3])
    assert document["samples"] == len(split)
    assert document["compared_at"] == "original resolution"
    assert document["classes"] == ["animal", "background", "border"]
    np.testing.assert_array_equal(document["confusion"], counts)
    rows = list(csv.DictReader(table.open()))
    assert [row["key"] for row in rows] == [split.key(index) for index in range(len(split))]
    assert [row["name"] for row in rows] == [split.meta(index)["name"] for index in range(len(split))]
    assert all(0 <= float(row["mean_iou"]) <= 1 for row in rows)
    assert {"iou_animal", "recall_border", "pixel_accuracy"} <= set(rows[0])


def test_a_run_of_another_split_is_scored_with_a_word(
    call, tiny_run: Path, synthetic_set: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A set that was built again with another split holds images of the training among those of test."""
    labels = ShardSet.open(synthetic_set).manifest.labels
    other, many = (build_labelled(tmp_path / name, labels, samples=count) for name, count in (("a", 14), ("b", 17)))
    run = petseg.train(other, run=tmp_path / "run", options={**TINY, "epochs": 1, "batch_size": 2})
    same = petseg.evaluate(run, other, split="val")
    assert (same.notes, caplog.messages) == ((), [])
    for more in ({}, {"original_resolution": True}):
        caplog.clear()
        found = petseg.evaluate(run, many, split="val", **more)
        assert caplog.messages == list(found.notes)
        assert "another build or split of this one (fingerprint " in found.notes[0]
        assert "it may have been trained on those of val" in found.notes[0]
    document = json.loads(call(evaluate, run, "--shards", many, "--split", "val", "--json").out)
    assert document["notes"] == list(found.notes)
    later = petseg.train(many, run=tmp_path / "later", options={**TINY, "epochs": 1, "init_from": run})
    third = petseg.train(many, run=tmp_path / "third", options={**TINY, "epochs": 1, "init_from": later})
    for each in (later, third):  # whose own set is this one
        (note,) = petseg.evaluate(each, many, split="val").notes
        assert "best.pt starts from weights that were trained on another set" in note
    (tmp_path / "alone.pt").write_bytes((run / "best.pt").read_bytes())
    assert not petseg.evaluate(tmp_path / "alone.pt", many, split="val").notes  # nothing says what it was trained on


def test_a_damaged_sample_is_named_without_options_that_eval_lacks(
    call, tiny_run: Path, synthetic_set: Path, tmp_path: Path
) -> None:
    damaged = damaged_copy(synthetic_set, tmp_path / "damaged")
    told = ["--shards", damaged, "--split", "train"]
    page = ("-o", tmp_path / "page.html")
    for arguments in (
        [tiny_run, *told],
        [tiny_run, *told, "--own-size"],
        ["--compare", tiny_run, tiny_run, *told, *page],
    ):
        result = call(evaluate, *arguments)
        assert result.code == 1
        assert str(damaged / "train-00000") in result.err
        assert "verify" in result.err or "build the set again" in result.err
        assert "replace" not in result.err
    with pytest.raises(SampleError, match=r"; run petseg-shard verify$"):
        petseg.evaluate(tiny_run, damaged, split="train")


def test_a_file_after_json_is_told_to_be_no_run(call, tiny_run: Path) -> None:
    result = call(evaluate, tiny_run, "--shards", "set", "--json", "scores.json")
    assert result.code == 2
    assert "scores.json): several are for --compare; --json takes no file, it prints: --json > " in result.err
    assert "not 2 (" in call(evaluate, tiny_run, tiny_run, "--shards", "set").err
    assert "-o is for --compare; --csv writes" in call(evaluate, tiny_run, "--shards", "set", "-o", "p.html").err


def test_a_table_replaces_nothing_unasked(call, tiny_run: Path, synthetic_set: Path, tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    table.write_text("mine")
    arguments = [tiny_run, "--shards", synthetic_set, "--split", "val", "--csv"]
    result = call(evaluate, *arguments, table)
    assert (result.code, result.out, table.read_text()) == (2, "", "mine")
    assert f"{table} exists already" in result.err
    assert "--overwrite" in result.err
    assert call(evaluate, *arguments, table, "--overwrite").code == 0
    assert table.read_text().startswith("index,key,name,")
    os.mkfifo(tmp_path / "pipe")
    for name, problem in (("pipe", "is not a file"), ("/dev/null", "is not a file"), ("a" * 256, "is longer than")):
        result = call(evaluate, *arguments, tmp_path / name, "--overwrite")
        assert (result.code, result.out) == (2, "")
        assert problem in result.err
    assert call(evaluate, *arguments, tmp_path / f"{'ä' * 125}.csv").code == 0  # 254 bytes
    for folder, what in ((synthetic_set, "a shard set"), (tiny_run, "a run")):
        result = call(evaluate, *arguments, folder / "manifest.json", "--overwrite")
        assert (result.code, result.out) == (2, "")
        assert f"{folder} is {what}, which keeps its folder to itself" in result.err


@pytest.mark.parametrize("stdout", ["unread", "full"])
def test_a_table_is_written_though_the_scores_cannot_be_printed(
    call, tiny_run: Path, synthetic_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stdout: str
) -> None:
    """As after ``| head -1``, or on a full disk."""
    reader, writer = os.pipe() if stdout == "unread" else (None, os.open("/dev/full", os.O_WRONLY))
    if reader is not None:
        os.close(reader)
    with monkeypatch.context() as patch, open(writer, "w") as stream:  # noqa: PTH123 - a descriptor
        patch.setattr("sys.stdout", stream)
        result = call(evaluate, tiny_run, "--shards", synthetic_set, "--split", "val", "--csv", tmp_path / "t.csv")
        os.dup2(os.open(os.devnull, os.O_WRONLY), writer)  # what the stream still holds
    assert (result.code, "No space left" in result.err) == (1, stdout == "full")
    assert (tmp_path / "t.csv").read_text().startswith("index,key,name,")


@pytest.mark.parametrize(
    ("name", "cell"),
    [
        ("cat 1.x", "cat 1.x"),
        ("=cmd|' /C calc'!A0", "'=cmd|' /C calc'!A0"),
        ("@SUM(1)", "'@SUM(1)"),
        ("-2+3", "'-2+3"),
        ("+1", "'+1"),
        ("\t=1\x1b[2J\n", r"\t=1\x1b[2J\n"),
        (7, "7"),
    ],
)
def test_names_in_a_table_are_no_formulas(name: Any, cell: str) -> None:
    assert scoring._cell(name) == cell


def test_what_jpeg_and_raw_storage_keep_is_not_called_original(
    call, tiny_run: Path, synthetic_pets: Path, tmp_path: Path, command
) -> None:
    out = tmp_path / "set"
    command("petseg-shard", "build", synthetic_pets, out, "--storage", "raw", "--size", "40x48", "--workers", "1")
    result = call(evaluate, tiny_run, "--shards", out, "--original-resolution", "--json")
    document = json.loads(result.out)
    assert document["compared_at"] == "stored size"
    assert np.sum(document["confusion"]) == document["samples"] * 40 * 48
    text = call(evaluate, tiny_run, "--shards", out, "--original-resolution").out
    assert "at the images' size in the set, which is not the original one" in text
    for size, enlarged in (("40x48", None), ("40x64", [40, 48]), ("64", [40, 48]), ("32", None)):
        said = ", for which the set's images and masks of 40x48 were enlarged"
        options = (tiny_run, "--shards", out, "--size", size)
        assert json.loads(call(evaluate, *options, "--json").out)["enlarged_from"] == enlarged
        assert (said in call(evaluate, *options).out) == (enlarged is not None)


def test_checkpoints_of_version_1_predict(tiny_run: Path, tmp_path: Path) -> None:
    """Their size is one number, and they say nothing of classes, fits and labels."""
    document = torch.load(tiny_run / "best.pt", weights_only=True)
    plain = json.loads(document["plain"])
    recipe = plain["config"]
    del plain["labels"], recipe["fit"], recipe["model"]["classes"]
    plain["config"] = {**recipe, "size": recipe["size"][0]}
    torch.save({**document, "version": 1, "plain": json.dumps(plain)}, tmp_path / "old.pt")
    image = np.random.default_rng(0).integers(0, 256, (37, 61, 3), np.uint8)
    old, new = (petseg.load(path).predict(image) for path in (tmp_path / "old.pt", tiny_run))
    np.testing.assert_array_equal(old.mask, new.mask)
    assert old.labels.names == ("animal", "background", "border")


def test_text_of_many_classes(call, many_class_run: Path) -> None:
    table = many_class_run.parent / "table.csv"
    shards = many_class_run.parent / "set"
    result = call(evaluate, many_class_run, "--shards", shards, "--csv", table)
    assert result.code == 0, result.err
    names = ShardSet.open(shards).manifest.labels.names
    lines = result.out.splitlines()
    assert [line[: len(name)] for line, name in zip(lines[2:], names, strict=False)] == list(names)
    assert len({len(line) for line in lines[1:23]}) == 1  # the columns are below each other
    assert "against" not in result.out  # these labels name no foreground
    with table.open() as file:
        assert next(csv.reader(file))[4:25] == [f"iou_{name}" for name in names]


def test_classes_that_are_predicted_but_never_true_are_named(call, tmp_path: Path) -> None:
    """Sixty classes in five images of at most eight each: most are absent, and a network of random weights errs."""
    labels = many_labels(60)
    out, run = build_labelled(tmp_path, labels), write_untrained(tmp_path / "run", labels)
    document = json.loads(call(evaluate, run, "--shards", out, "--split", "val", "--json").out)
    matrix = np.array(document["confusion"])
    expected = [name for n, name in enumerate(labels.names) if not matrix[n].any() and matrix[:, n].any()]
    assert document["absent"] == expected
    assert [document["iou"][labels.names.index(name)] for name in expected] == [0.0] * len(expected)
    assert len(expected) > 5
    text = call(evaluate, run, "--shards", out, "--split", "val").out
    named = f"{', '.join(expected[:5])}{f' and {len(expected) - 5} more'}"
    assert f"no pixel of {named} in the masks of val: their IoU of 0 counts in the mean" in text.splitlines()


def test_evaluation_options(call, tiny_run: Path, synthetic_set: Path) -> None:
    def scores(*arguments: object) -> dict[str, Any]:
        result = call(evaluate, tiny_run, "--shards", synthetic_set, "--json", *arguments)
        assert result.code == 0, result.err
        document: dict[str, Any] = json.loads(result.out)
        return document

    plain = scores()
    assert {"mean_iou", "iou", "pixel_accuracy", "samples"} <= set(plain)
    assert len(plain["iou"]) == 3
    assert scores("--batch-size", 7)["confusion"] == plain["confusion"]
    exact = scores("--device", "cpu", "--precision", "fp32")["confusion"]
    assert exact == plain["confusion"] or torch.cuda.is_available()
    assert scores("--device", "cpu", "--precision", "bf16")["confusion"] != exact
    assert scores("--mirror")["confusion"] != plain["confusion"]
    assert sum(map(sum, scores("--size", 48)["confusion"])) == plain["samples"] * 48 * 48
    assert sum(map(sum, scores("--size", "32x64")["confusion"])) == plain["samples"] * 32 * 64
    assert set(plain["binary"]) == {"boundary_as_foreground", "boundary_ignored"}
    val = scores("--split", "val")
    best = max(read_metrics(tiny_run), key=lambda entry: entry["val"]["mean_iou"])
    assert val["mean_iou"] == pytest.approx(best["val"]["mean_iou"], abs=1e-3)
    assert plain["absent"] == []
    text = call(evaluate, tiny_run, "--shards", synthetic_set).out
    assert "no pixel of" not in text
    assert "animal against the rest: IoU" in text
    assert "with the border counted as animal" in text


def overflowing(run: Path, path: Path) -> Path:
    """A checkpoint of finite weights whose products are not."""
    document = torch.load(run / "best.pt", weights_only=True)
    for name, tensor in document["model"].items():
        if name.startswith("levels.") and tensor.dim() == 4:
            document["model"][name] = tensor.sign() * 1e38
    torch.save(document, path)
    return path


@pytest.mark.parametrize("options", [(), ("--flip-tta",), ("--own-size",), ("--window", 48)])
def test_outputs_that_are_not_finite_have_no_score(
    call, tiny_run: Path, synthetic_set: Path, tmp_path: Path, options: tuple[Any, ...]
) -> None:
    broken = overflowing(tiny_run, tmp_path / "broken.pt")
    result = call(evaluate, broken, "--shards", synthetic_set, *options)
    assert (result.code, result.out) == (1, "")
    assert "Error: the network's outputs are not finite (NaN or infinity): its weights are damaged" in result.err


def test_outputs_that_are_not_finite_are_no_prediction(call, tiny_run: Path, tmp_path: Path) -> None:
    Image.new("RGB", (40, 40), "red").save(tmp_path / "a.png")
    broken = overflowing(tiny_run, tmp_path / "broken.pt")
    for options in ([], ["--window", 48], ["--scales", "1,1.5"]):
        result = call(predict, broken, tmp_path / "a.png", "-o", tmp_path / "out", *options)
        assert result.code == 1
        assert "the network's outputs are not finite" in result.err
        assert not list((tmp_path / "out").iterdir())


def test_prediction_options(call, tiny_run: Path, tmp_path: Path) -> None:
    for name in "abc":
        Image.fromarray(np.random.default_rng(ord(name)).integers(0, 256, (40, 50, 3), np.uint8)).save(
            tmp_path / f"{name}.png"
        )
    masks = {}
    for label, arguments in {
        "plain": [],
        "one": ["--batch-size", 1],
        "large": ["--size", 96],
        "half": ["--precision", "bf16"],
    }.items():
        result = call(
            predict,
            tiny_run,
            str(tmp_path / "*.png"),
            "-o",
            tmp_path / label,
            "--no-overlay",
            "--probabilities",
            *arguments,
        )
        assert result.code == 0, result.err
        masks[label] = np.stack(
            [np.load(tmp_path / label / f"{name}.probabilities.npz")["probabilities"] for name in "abc"]
        )
    np.testing.assert_allclose(masks["one"], masks["plain"], atol=1e-5)
    assert np.abs(masks["large"] - masks["plain"]).max() > 1e-4
    assert 0 < np.abs(masks["half"] - masks["plain"]).max() < 0.1


def test_a_sample_that_cover_would_make_huge_is_named_before_any_is_predicted(call, tmp_path: Path) -> None:
    from shards.format.builtin_labels import BINARY
    from shards.format.overlays import indexed_mask

    lines = ["image,mask,split"]
    for name, size in (("a_square", (8, 8)), ("long", (60_000, 1)), ("wide", (200, 4))):
        Image.new("RGB", size).save(tmp_path / f"{name}.png")
        indexed_mask(np.zeros(size[::-1], np.uint8), BINARY).save(tmp_path / f"{name}_mask.png")
        lines.append(f"{name}.png,{name}_mask.png,test")
    (tmp_path / "list.csv").write_text("\n".join(lines))
    shards = tmp_path / "set"
    petseg.build_shards(tmp_path / "list.csv", shards, labels="binary", workers=1)
    run = write_untrained(tmp_path / "run", BINARY, fit="cover", size=(32, 32))
    result = call(evaluate, run, "--shards", shards, "--own-size", "--batch-size", 1)
    assert (result.code, result.out) == (1, "")
    assert "/test-000000.tar: long.png (sample " in result.err
    assert "would be enlarged to 32 x 1920000" in result.err
    assert call(evaluate, run, "--shards", shards, "--own-size", "--window", "auto").code == 0
    assert call(evaluate, run, "--shards", shards).code == 0
