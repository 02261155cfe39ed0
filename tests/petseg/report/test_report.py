"""The report, the live line and the lines of the console."""

from __future__ import annotations

import base64
import html.parser
import io
import re
import time
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from PIL import Image

from petseg.inference.evaluation import Evaluation
from petseg.inference.metrics import class_counts, score
from petseg.report.console_reporter import ConsoleReporter, duration, epoch_line
from petseg.report.sample_predictions import choose_images
from petseg.report.thumbnails import INVENTED, MISSED, WRONG, difference_legend, differences
from petseg.runs.run_folder import read_metrics
from shards.format.builtin_labels import PETS
from shards.format.labels import IGNORE, LabelClass, Labels
from shards.format.overlays import IGNORED_COLOUR


class _Page(html.parser.HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.images: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]
        self.images += [value or "" for name, value in attrs if tag == "img" and name == "src"]
        if tag not in ("img", "meta", "br", "input"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.links += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.mark.parametrize("kind", ["tiny_run", "many_class_run"])
def test_the_report_stands_alone(kind: str, request: pytest.FixtureRequest) -> None:
    text = (request.getfixturevalue(kind) / "report.html").read_text()
    page = _Page()
    page.feed(text)
    assert page.open == []
    links = [link for link in page.links if not link.startswith("#")]  # within the figures, SVG refers to itself
    assert all(link.startswith(("data:image/png;base64,", "data:image/jpeg;base64,")) for link in links)
    assert len(page.images) == 4 * text.count("<figcaption>") >= 4 * 2
    for link in page.images:
        with Image.open(io.BytesIO(base64.b64decode(link.split(",")[1]))) as shown:
            assert max(shown.size) <= 300
    for part in ("Mean IoU", "Confusion", "worst", "median", "best", "accuracy", "fingerprint", "waiting", "stall"):
        assert part.lower() in text.lower()
    assert "<script" not in text
    assert not re.search(r"(?:src|href)=.?https?:|url\(https?:|@import", text)


def test_the_report_shows_where_prediction_and_truth_differ() -> None:
    truth = np.array([[0, 0, 0, 1, 1, 1, 2, 2, IGNORE]], np.uint8)
    seen = np.array([[0, 1, 2, 0, 1, 2, 0, 2, 1]], np.uint8)
    white = (255, 255, 255)
    expected = [white, MISSED, WRONG, INVENTED, white, WRONG, WRONG, white, IGNORED_COLOUR]
    assert [tuple(pixel) for pixel in differences(truth, seen, PETS)[0].tolist()] == expected
    without = msgspec.structs.replace(PETS, foreground=(), boundary=())
    expected = [white, WRONG, WRONG, WRONG, white, WRONG, WRONG, white, IGNORED_COLOUR]
    assert [tuple(pixel) for pixel in differences(truth, seen, without)[0].tolist()] == expected


def test_kinds_of_differences_are_named_after_the_classes() -> None:
    assert [text for text, _ in difference_legend(PETS)] == [
        "animal predicted as background",
        "background predicted as animal",
        "differences at the border",
    ]
    classes = tuple(LabelClass(name=name, color=f"#00000{n + 1}", values=(n,)) for n, name in enumerate("abcd"))
    assert [text for text, _ in difference_legend(Labels(classes=classes))] == ["wrong class"]
    several = difference_legend(Labels(classes=classes, foreground=("b", "c")))
    assert [text for text, _ in several] == [
        "foreground predicted as background",
        "background predicted as foreground",
        "another wrong class",
    ]


def test_best_median_and_worst() -> None:
    matrices = np.array([np.diag([9, 9, 9]) + bad for bad in (5, 0, 3, 1, 2)])
    matrices = np.concatenate([matrices, np.zeros((1, 3, 3), int)])  # all pixels of the last image are ignored

    def evaluation(matrices: np.ndarray) -> Evaluation:
        counts = class_counts(torch.from_numpy(matrices)).numpy()
        total = matrices.sum(axis=0)
        return Evaluation(labels=PETS, matrix=total, counts=counts, loss=None, size=(32, 32), precision="fp32")

    chosen = choose_images(evaluation(matrices), each=1)
    assert [(why, index) for why, index, _ in chosen] == [("best", 1), ("median", 4), ("worst", 0)]
    assert [value for *_, value in chosen] == pytest.approx([score(matrices[i]).mean_iou for i in (1, 4, 0)])
    assert len(choose_images(evaluation(matrices[:2]))) == 2
    assert choose_images(evaluation(matrices[-1:])) == []


def test_the_live_line(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tiny_run: Path) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("FORCE_COLOR", "1")
    reporter = ConsoleReporter()
    reporter.start_run(labels=PETS)
    reporter.start_epoch(epoch=0, done=0, images=100)
    time.sleep(0.01)
    reporter.batch(images=40, loss=1.25, confusion=torch.eye(3, dtype=torch.int64), wait=0.25, remaining=60)
    drawn = ""  # by a thread of its own, a few times a second
    while "left" not in drawn:
        time.sleep(0.05)
        drawn += capfd.readouterr().err
    reporter.start_validation(images=10)
    reporter.validated(10)
    reporter.end_epoch(read_metrics(tiny_run)[0], epochs=2)
    reporter.close()
    out, err = capfd.readouterr()
    assert "epoch 1/2" in out
    for part in ("loss 1.250", "IoU 1.000", "images/s", "wait 25%", "left"):
        assert part in drawn + err


def test_words_for_people(tiny_run: Path) -> None:
    assert [duration(s) for s in (5, 600, 12_000)] == ["5 s", "10 min", "3 h 20 min"]
    entry = {**read_metrics(tiny_run)[0], "best": True}
    line = epoch_line(entry, epochs=120, classes=PETS.names)
    assert line.startswith("epoch   1/120")
    assert line.endswith("best")
    iou = entry["val"]["iou"]
    assert f"(animal {iou[0]:.3f} background {iou[1]:.3f} border {iou[2]:.3f})" in line


def test_the_line_of_many_classes_names_the_best_and_the_worst(tiny_run: Path) -> None:
    entry = read_metrics(tiny_run)[0]
    entry["val"]["iou"] = [None, *np.linspace(0.1, 0.9, 149).tolist()]
    entry["val"]["recall"] = [None, *[1.0] * 149]
    entry["val"]["iou"][7], entry["val"]["recall"][7] = 0.0, None  # predicted, and in none of the masks
    line = epoch_line(entry, epochs=2, classes=[f"{'c' * 30}{n}" for n in range(150)])
    short = "c" * 20
    assert f"(best {short} 0.900 {short} 0.895, worst {short} 0.105 {short} 0.100)" in line
    assert len(line) < 250
