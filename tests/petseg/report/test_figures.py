"""Curves and galleries of few and many classes: which lines and names they have; names are drawn as they are."""

from __future__ import annotations

import base64
import io
import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from labelled_sets import AWKWARD, draw_scene, many_labels
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from petseg.inference.probabilities import Prediction
from petseg.report import curves, figures, gallery
from petseg.report.curves import draw_curves
from petseg.report.figures import extremes, line_colour, plain_text, shown_name
from petseg.report.gallery import draw_gallery
from petseg.report.sample_predictions import PredictedSample, shown_classes
from petseg.report.thumbnails import data_url, shrunk
from shards.format.builtin_labels import PETS
from shards.format.labels import LabelClass, Labels, chosen_colour
from shards.format.overlays import IGNORED_COLOUR


def history_of(classes: int, epochs: int = 5, *, none: int | None = None) -> list[dict[str, Any]]:
    iou = [[0.9 * (n + 1) / classes * (e + 1) / epochs for n in range(classes)] for e in range(epochs)]
    scores: list[dict[str, Any]] = [{"loss": 1.0, "iou": values, "mean_iou": float(np.mean(values))} for values in iou]
    for each in scores:
        if none is not None:
            each["iou"] = [None if n == none else value for n, value in enumerate(each["iou"])]
    return [
        {"epoch": e + 1, "train": {"loss": 2.0}, "val": each, "learning_rate": 0.1} for e, each in enumerate(scores)
    ]


def sample_of(labels: Labels, seed: int = 0, height: int = 40, width: int = 60) -> PredictedSample:
    image, truth = draw_scene(labels, height, width, seed)
    coarse = torch.rand(len(labels), 8, 12, generator=torch.Generator().manual_seed(seed)).softmax(0)
    index = np.where(truth == 255, 0, truth).astype(np.uint8)
    prediction = Prediction(index=index, coarse=coarse, labels=labels)
    return PredictedSample(key="$a$_b", image=image, truth=truth, prediction=prediction, mean_iou=0.5)


def caught(monkeypatch: pytest.MonkeyPatch, module: Any) -> list[Figure]:
    found: list[Figure] = []

    def keep(figure: Figure, kind: figures.Kind) -> bytes:
        found.append(figure)
        return figures.picture_bytes(figure, kind)

    monkeypatch.setattr(module, "picture_bytes", keep)
    return found


def texts_of(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.findobj(Text)]


@pytest.mark.parametrize("classes", [1, 3, 21, 150, 255])
def test_every_class_has_a_line_but_few_of_many_a_name(classes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    labels = PETS if classes == 3 else many_labels(classes, ignore=False)
    found = caught(monkeypatch, curves)
    data = draw_curves(history_of(classes, none=0 if classes > 6 else None), labels=labels)
    assert Image.open(io.BytesIO(data)).format == "PNG"
    (figure,) = found
    iou = figure.axes[1]
    drawn = [line for line in iou.lines if len(line.get_xdata())]
    assert len(drawn) == classes + 1
    named = [text.get_text() for text in iou.get_legend().get_texts()]
    if classes <= 6:
        assert named == [*map(shown_name, labels.names), "mean"]
    else:
        assert named[0] == "mean"
        assert [name.split()[0] for name in named[1:4]] == [
            "0.90",
            *(f"{0.9 * n / classes:.2f}" for n in (classes - 1, classes - 2)),
        ]
        assert f"{0.9 * 2 / classes:.2f} {shown_name(labels.names[1])}" == named[-2]  # class 0 has no score
        assert named[-1] == f"the other {classes - 6} classes"
        (mean,) = (line for line in drawn if line.get_label() == "mean")
        assert mean.get_linewidth() > max(line.get_linewidth() for line in drawn if line is not mean)


def test_names_are_drawn_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pair of $ would otherwise be a formula: `$x_1$` would lose its dollars, `$\\frac$` would end the drawing."""
    names = (*AWKWARD, r"$\frac$", "路")
    labels = Labels(
        classes=tuple(LabelClass(name=name, color=f"#{n + 1:02x}8040", values=(n,)) for n, name in enumerate(names))
    )
    found = caught(monkeypatch, gallery)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        few = Labels(classes=labels.classes[:3] + labels.classes[5:])
        assert b"<svg" in draw_curves(history_of(5), labels=few, kind="svg")
        draw_curves(history_of(7), labels=labels)
        draw_gallery([sample_of(few)], labels=few, title=r"$\frac$ a $b$")
    assert {f"probability:\n{shown_name(name)}" for name in few.names} <= set(texts_of(found[0]))
    assert not any(text.get_parse_math() for text in found[0].findobj(Text))


def test_plain_text_ends_with_its_block() -> None:
    with plain_text():
        assert not Figure().text(0, 0, "$a$").get_parse_math()
    assert Figure().text(0, 0, "$a$").get_parse_math()


def test_no_name_is_hidden_or_too_long() -> None:
    assert shown_name("_hidden") == " _hidden"
    assert len(shown_name("x" * 80)) == 28


def test_the_highest_and_the_lowest() -> None:
    values = [0.3, None, 0.9, 0.1, 0.9, 0.2]
    assert extremes(values, 2) == ([2, 4], [3, 5])
    assert extremes(values, 4) == ([2, 4, 0, 5], [3])
    assert extremes([None, None], 3) == ([], [])


def test_lines_show_on_white_paper() -> None:
    bright = ("#ffffff", "#ffff00", "#000000", "#123456")
    labels = Labels(classes=tuple(LabelClass(name=c, color=c, values=(n,)) for n, c in enumerate(bright)))
    for index in range(4):
        assert np.dot(line_colour(labels, index), (0.299, 0.587, 0.114)) <= 171
    assert line_colour(labels, 3) == (0x12, 0x34, 0x56)


@pytest.mark.parametrize(("height", "width"), [(8, 60), (20, 60), (60, 20)])
def test_names_beside_the_samples_do_not_overlap(height: int, width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also those of flat images: a key may have 80 characters."""
    found = caught(monkeypatch, gallery)
    samples = [replace(sample_of(PETS, n, height, width), key=f"{n}_long" + "_name" * 15) for n in range(3)]
    draw_gallery(samples, labels=PETS, title="title")
    (figure,) = found
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    labels = [axis.label for axes in figure.axes for axis in (axes.xaxis, axes.yaxis) if axis.label.get_text()]
    boxes = [label.get_window_extent(canvas.get_renderer()) for label in labels]
    assert [label.get_text() for label in labels][::2] == [shown_name(sample.key, 24) for sample in samples]
    assert not any(one.overlaps(other) for n, one in enumerate(boxes) for other in boxes[:n])
    assert all(box.x0 >= 0 and box.y0 >= 0 for box in boxes)


@pytest.mark.parametrize(("classes", "letters"), [(1, 80), (3, 20), (21, 16), (150, 13), (150, 28)])
def test_the_legend_fits_into_the_gallery(classes: int, letters: int, monkeypatch: pytest.MonkeyPatch) -> None:
    named = [LabelClass(name=f"{n}".ljust(letters, "m"), color=chosen_colour(n), values=(n,)) for n in range(classes)]
    labels = Labels(classes=tuple(named))
    found = caught(monkeypatch, gallery)
    draw_gallery([sample_of(labels)], labels=labels, title="title")
    (figure,) = found
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    box = figure.legends[0].get_window_extent(canvas.get_renderer())
    assert box.x0 >= 0
    assert box.x1 <= figure.bbox.width
    panel = figure.axes[0].get_window_extent(canvas.get_renderer())
    assert panel.height > 40  # the legend's lines leave the images their place


@pytest.mark.parametrize("classes", [1, 3, 21, 150])
def test_galleries(classes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    labels = PETS if classes == 3 else many_labels(classes)
    found = caught(monkeypatch, gallery)
    samples = [sample_of(labels, seed, height, 60) for seed, height in enumerate((40, 90, 8))]
    draw_gallery(samples, labels=labels, title="title")
    (figure,) = found
    assert len(figure.axes) == 3 * (5 if classes > 6 else 3 + classes)
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert ("ignored" in legend) == (classes != 3)
    assert len(legend) <= 28
    truth = figure.axes[1].images[0].get_array()
    if classes != 3:
        assert truth[0, 0].tolist() == list(IGNORED_COLOUR)
    for row in range(3):
        width, height = figure.axes[row * len(figure.axes) // 3].images[0].get_size()[::-1]
        assert (height, width) == samples[row].truth.shape


def test_of_many_classes_those_with_the_most_pixels_are_named() -> None:
    labels = many_labels(150)
    samples = [sample_of(labels, seed) for seed in range(9)]
    shown, more, ignored = shown_classes(samples, classes=150, most=5)
    pixels = np.bincount(
        np.concatenate([m.ravel() for s in samples for m in (s.truth, s.prediction.index)]), minlength=256
    )
    assert shown == sorted(np.argsort(-pixels[:150], kind="stable")[:5].tolist())
    assert more == (pixels[:150] > 0).sum() - 5
    assert ignored
    assert shown_classes(samples[:1], classes=3, most=60)[0] == [0, 1, 2]


def test_maps_of_many_colours_stay_exact() -> None:
    random = np.random.default_rng(0)
    table = random.integers(0, 256, (256, 3), dtype=np.uint8)
    pixels = table[np.arange(256).reshape(16, 16)]
    url = data_url(pixels, kind="png")
    with Image.open(io.BytesIO(base64.b64decode(url.split(",")[1]))) as shown:
        np.testing.assert_array_equal(np.asarray(shown.convert("RGB")), pixels)


def test_maps_are_shrunk_without_new_colours() -> None:
    map_ = np.random.default_rng(0).integers(0, 2, (400, 700, 1), dtype=np.uint8).repeat(3, axis=2) * 255
    small = shrunk(map_, 300)
    assert small.shape == (171, 300, 3)
    assert set(np.unique(small)) == {0, 255}


def test_a_character_that_the_first_font_lacks_is_drawn_in_another(monkeypatch: pytest.MonkeyPatch) -> None:
    def drawn(text: str, *fonts: str) -> bytes:
        monkeypatch.setattr(figures, "FURTHER_FONTS", fonts)
        with plain_text():
            figure = Figure(figsize=(1, 1))
            figure.text(0.5, 0.5, text)
            return figures.picture_bytes(figure, "png")

    assert drawn("\u1d81", "STIXGeneral", "No Such Font") != drawn("\u1d81")  # of matplotlib's own fonts, STIX has it
    assert drawn("cat", "No Such Font", "STIXGeneral") == drawn("cat")
