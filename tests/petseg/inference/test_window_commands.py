"""petseg-predict and petseg-eval with windows, scales and flips; runs that were trained on crops."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from labelled_sets import build_labelled, many_labels, smooth_image, write_untrained
from PIL import Image
from torch.nn import functional as F

import petseg
from petseg.cli import evaluate, predict, train
from petseg.inference.files import file_jobs
from petseg.inference.stored_samples import read_image, read_mask
from petseg.runs.checkpoint import load_checkpoint
from pipeline import Loader
from shards import ShardSet
from shards.errors import UsageError
from shards.format.label_files import labels_text
from shards.format.overlays import indexed_mask

WINDOWS: dict[str, Any] = {"window": (40, 64), "overlap": 0.5, "scales": (0.5, 1.0), "flip_tta": True}
ARGUMENTS = ["--window", "40x64", "--overlap", "0.5", "--scales", "0.5,1", "--flip-tta"]
FACTS = {"window": [40, 64], "overlap": 0.5, "scales": [0.5, 1.0], "flip_tta": True}
WHOLE = {"window": None, "overlap": None, "scales": [1.0], "flip_tta": False}
NETWORK = {"size": [32, 48], "precision": "fp32"}  # of the run that is drawn


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set and an untrained run of five classes, in one folder."""
    folder = tmp_path_factory.mktemp("windows")
    build_labelled(folder, many_labels(5), samples=10)
    write_untrained(folder / "run", many_labels(5))
    return folder


def test_predicted_files_are_those_of_the_python_api(call, drawn: Path, tmp_path: Path) -> None:
    image = smooth_image(tmp_path / "a.png", (150, 70))
    out = tmp_path / "out"
    result = call(
        predict, drawn / "run", image, "-o", out, "--probabilities", "--no-overlay", "--precision", "fp32", *ARGUMENTS,
        "--json",
    )  # fmt: skip
    assert result.code == 0, result.err
    document = json.loads(result.out)
    assert {name: document[name] for name in FACTS | NETWORK} == FACTS | NETWORK
    expected = petseg.load(drawn / "run", precision="fp32").predict(image, **WINDOWS)
    np.testing.assert_array_equal(np.asarray(Image.open(out / "a.png")), expected.mask)
    with np.load(out / "a.probabilities.npz") as file:
        np.testing.assert_allclose(file["probabilities"], expected.probabilities, atol=1e-6)
    petseg.predict(drawn / "run", image, tmp_path / "api", overlays=False, precision="fp32", **WINDOWS)
    assert (tmp_path / "api" / "a.png").read_bytes() == (out / "a.png").read_bytes()
    text = call(predict, drawn / "run", image, "-o", out, "--overwrite", *ARGUMENTS).out
    assert "in windows of 40x64 pixels that overlap by 0.5, at scales 0.5, 1, with flip TTA" in text
    whole = ["-o", tmp_path / "whole", "--json", "--size", "64x32"]
    document = json.loads(call(predict, drawn / "run", image, *whole).out)
    assert {name: document[name] for name in WHOLE} == WHOLE
    assert document["size"] == [64, 32]


def test_windowed_scores_are_those_of_an_independent_count(call, drawn: Path) -> None:
    from sklearn.metrics import confusion_matrix

    arguments = [drawn / "run", "--shards", drawn / "set", "--split", "train", "--precision", "fp32"]
    document = json.loads(call(evaluate, *arguments, *ARGUMENTS, "--json").out)
    assert {name: document[name] for name in FACTS | NETWORK} == FACTS | NETWORK
    assert document["compared_at"] == "original resolution"
    network, split = petseg.load(drawn / "run", precision="fp32"), ShardSet.open(drawn / "set").split("train")
    counts = np.zeros((5, 5), np.int64)
    for index in range(len(split)):
        truth, found = read_mask(split, index), network.predict(read_image(split, index), **WINDOWS).index
        counts += confusion_matrix(truth[truth != 255], found[truth != 255], labels=range(5))
    np.testing.assert_array_equal(document["confusion"], counts)
    few = sum(height < 40 or width < 64 for height, width, _ in (read_image(split, i).shape for i in range(len(split))))
    assert document["padded"] == few
    text = call(evaluate, *arguments, *ARGUMENTS).out
    assert "original resolution, in windows of 40x64 pixels that overlap by 0.5, at scales 0.5, 1" in text


def test_scales_at_the_networks_size(call, drawn: Path) -> None:
    """The loader's images, resized, and the probabilities resized back."""
    from sklearn.metrics import confusion_matrix

    arguments = [drawn / "run", "--shards", drawn / "set", "--split", "train", "--precision", "fp32"]
    document = json.loads(call(evaluate, *arguments, "--scales", "0.5,1,1.5", "--json").out)
    assert {name: document[name] for name in NETWORK} == NETWORK
    assert document["scales"] == [0.5, 1.0, 1.5]
    assert document["compared_at"] == "network size"
    network, counts = petseg.load(drawn / "run", precision="fp32"), np.zeros((5, 5), np.int64)
    with Loader(drawn / "set", batch_size=2, size=(32, 48), mask="index", shuffle=False, device="cpu") as loader:
        for batch in loader:
            total = torch.zeros(len(batch), 5, 32, 48)
            for size in ((16, 24), (32, 48), (48, 72)):
                image = F.interpolate(batch.image.float(), size=size, mode="bilinear", antialias=True)
                with torch.inference_mode():
                    found = network.model(image).softmax(1)
                total += F.interpolate(found, size=(32, 48), mode="bilinear", antialias=True)
            truth, predicted = batch.mask[batch.valid], total.argmax(1)[batch.valid]
            counts += confusion_matrix(truth[truth != 255], predicted[truth != 255], labels=range(5))
    difference = np.abs(np.array(document["confusion"]) - counts).sum()
    assert difference <= 2 * 4  # pixels whose two best classes are equal up to rounding
    assert counts.sum() == np.sum(document["confusion"])


@pytest.mark.parametrize("storage", ["source", "raw"])
def test_a_run_on_crops(call, tmp_path: Path, storage: str, request: pytest.FixtureRequest) -> None:
    """It trains on crops at the images' own scale, validates on their centres, and is used in windows."""
    size = {} if storage == "source" else {"size": "60x80", "fit": "cover"}
    if storage == "source":
        request.getfixturevalue("no_report")
    shards = build_labelled(tmp_path / "drawn", many_labels(4), storage=storage, **size)
    run = tmp_path / "run"
    arguments = ["--size", "32", "--widths", "8,16", "--epochs", "1", "--batch-size", "4", "--crop-scale", "0.5,0.8"]
    result = call(
        train, "--shards", shards, "--run", run, *arguments, "--augment", "none", "--no-progressive", "--json"
    )
    assert result.code == 0, result.err
    last = json.loads(result.out)
    assert (last["size"], last["precision"]) == ([32, 32], "fp32")
    recipe = load_checkpoint(run / "last.pt").config
    assert list(recipe["crop_scale"]) == [0.5, 0.8]
    scale = (0.5 * 0.8) ** 0.5
    with Loader(
        shards, split="val", batch_size=9, size=32, crop_scale=(scale, scale), mask="index", shuffle=False
    ) as val:
        (batch,) = val
        network = petseg.load(run, precision="fp32")
        with torch.inference_mode():
            index = network.model(batch.image[batch.valid]).argmax(1)
        truth = batch.mask[batch.valid]
        accuracy = float((index == truth)[truth != 255].float().mean())
    assert last["val"]["pixel_accuracy"] == pytest.approx(accuracy, abs=0.002)
    document = json.loads(call(evaluate, run, "--shards", shards, "--split", "val", "--json").out)
    assert document["compared_at"] == ("original resolution" if storage == "source" else "stored size")
    assert document["window"] == [round(32 / scale)] * 2
    if storage == "raw":
        assert f"stored size, in windows of {round(32 / scale)} pixels" in (run / "report.html").read_text()
    image = smooth_image(tmp_path / "a.png", (90, 70))
    result = call(predict, run, image, "-o", tmp_path / "out", "--window", "auto")
    assert f"in windows of {round(32 / scale)} pixels that overlap by 0.25" in result.out
    assert result.err == ""


@pytest.mark.parametrize(("window", "said"), [("auto", True), ("32x48", True), ("64x96", False), (None, False)])
def test_windows_unlike_the_images_of_the_training_are_said(
    call, drawn: Path, tmp_path: Path, window: str | None, said: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """The run was trained on whole images of 32x48 pixels. Scoring logs it: it is called from Python, too."""
    more = ["--json", *(["--window", window] if window else [])]
    image = smooth_image(tmp_path / "a.png", (150, 70))
    for arguments in (
        (predict, drawn / "run", image, "-o", tmp_path / "out"),
        (evaluate, drawn / "run", "--shards", drawn / "set", "--split", "train"),
    ):
        result = call(*arguments, *more)
        document = json.loads(result.out)
        assert (result.code, "size" in document) == (0, True)
        lines = [
            line
            for line in [*result.err.splitlines(), *caplog.messages]
            if "was trained on whole images brought to 32x48" in line
        ]
        assert len(lines) == said, result.err
        assert document.get("notes", lines) == lines
        assert all(line.endswith("omit --window, or train with --crop-scale") for line in lines)


def test_an_overlap_needs_windows(call, drawn: Path, tmp_path: Path) -> None:
    image = smooth_image(tmp_path / "a.png", (60, 50))
    result = call(predict, drawn / "run", image, "-o", tmp_path / "out", "--overlap", "0.5")
    assert (result.code, not (tmp_path / "out").exists()) == (2, True)
    assert "--overlap is for --window" in result.err
    result = call(evaluate, drawn / "run", "--shards", drawn / "set", "--overlap", "0.5")
    assert result.code == 2
    assert "--overlap is for --window" in result.err
    for use in (
        lambda: petseg.predict(drawn / "run", image, tmp_path / "out", overlap=0.5),
        lambda: petseg.evaluate(drawn / "run", drawn / "set", overlap=0.5, original_resolution=True),
        lambda: petseg.load(drawn / "run").predict(image, overlap=0.25),
    ):
        with pytest.raises(UsageError, match="overlap is for window"):
            use()
    for images in (0, "8", 1.5, True):
        with pytest.raises(UsageError, match=r"batch_size=.*: give a whole number from 1"):
            petseg.predict(drawn / "run", image, tmp_path / "out", batch_size=images)  # type: ignore[arg-type]
        with pytest.raises(UsageError, match=r"batch_size=.*: give a whole number from 1"):
            petseg.evaluate(drawn / "run", drawn / "set", batch_size=images)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="flip_tta must be True or False, not 'no'"):
        petseg.predict(drawn / "run", image, tmp_path / "out", flip_tta="no")  # type: ignore[arg-type]
    assert petseg.load(drawn / "run", device=torch.device("cpu")).placement.device.type == "cpu"
    for device in (None, 3):
        with pytest.raises(UsageError, match=r"device=.*: give auto, cpu, cuda or cuda:N"):
            petseg.load(drawn / "run", device=device)  # type: ignore[arg-type]
    for images, out in (("", tmp_path / "out"), ([image, ""], tmp_path / "out"), (image, "")):
        with pytest.raises(UsageError, match="the path is empty"):
            petseg.predict(drawn / "run", images, out)
    assert not (tmp_path / "out").exists()
    for wrong in (["--window", "x"], ["--scales", "1,two"], ["--scales", "99"], ["--window", "4"], ["--overlap", "1"]):
        result = call(predict, drawn / "run", image, "-o", tmp_path / "out", *wrong)
        assert (result.code, result.out) == (2, "")
        assert wrong[0] in result.err


def test_probabilities_that_would_not_fit_are_refused_alone(
    call, drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_jobs, "MAX_PROBABILITIES", 4 * 5 * 60 * 50)
    smooth_image(tmp_path / "large.png", (61, 50))
    smooth_image(tmp_path / "small.png", (60, 50))
    arguments = [predict, drawn / "run", tmp_path / "large.png", tmp_path / "small.png", "-o", tmp_path / "out"]
    result = call(*arguments, "--window", "auto", "--probabilities")
    assert result.code == 1
    assert "probabilities of 5 classes at 50 x 61 pixels would take" in result.err
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "small.overlay.png",
        "small.png",
        "small.probabilities.npz",
    ]


@pytest.mark.slow
def test_memory_does_not_grow_with_the_image(tmp_path: Path, command: Any, campaign: Callable[[int, int], int]) -> None:
    """All probabilities of the larger image would take 270 MB. What grows: pixels, masks, drawings, kept samples.

    With --campaign also of 12,000 x 9,000 pixels, whose probabilities would take 18 GB.
    """
    labels = many_labels(42)
    run = write_untrained(tmp_path / "run", labels, size=(128, 128), stem="half")
    commands = []
    for number, (width, height) in enumerate([(1000, 200), (1000, 1600), (12_000, 9000)][: campaign(2, 3)]):
        folder = tmp_path / str(number)
        folder.mkdir()
        image = smooth_image(folder / "image.png", (width, height))
        indexed_mask(np.zeros((height, width), np.uint8), labels).save(folder / "mask.png")
        (folder / "list.csv").write_text("image,mask,split\nimage.png,mask.png,test\n")
        (folder / "labels.toml").write_text(labels_text(labels))
        command("petseg-shard", "build", folder / "list.csv", folder / "set", "--labels", folder / "labels.toml")
        commands.append(("predict", [run, image, "-o", folder / "out", "--window", "auto"]))
        commands.append(("evaluate", [run, "--shards", folder / "set", "--window", "auto"]))
    program = f"""
import resource
from petseg import cli
peaks = []
for name, arguments in {[(name, [str(each) for each in some]) for name, some in commands]!r}:
    try:
        getattr(cli, name).main(args=arguments)
    except SystemExit as end:
        assert not end.code
    peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
print(peaks)
"""
    # A process of its own: what a fork has in common with its parent would be counted too.
    # Large arrays go back to the system at once: what glibc's heap keeps depends on the order in which they are freed.
    settings = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "1000000"}
    result = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True, env=settings)
    peaks = json.loads(result.stdout.splitlines()[-1])  # in kB, of the process so far
    assert peaks[2] - peaks[1] < 150_000, "predict"
    assert peaks[3] - peaks[1] < 150_000, "evaluate"
    assert peaks[-1] < 2 * 1024**2
