"""The report, the live line and the lines of the console."""

from __future__ import annotations

import base64
import html.parser
import io
import re
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from petseg.report.artifacts import read_history
from petseg.report.console_reporter import ConsoleReporter, duration, epoch_line
from petseg.report.html_report import choose_images

TINY: dict[str, Any] = {"size": 32, "widths": (8, 16), "epochs": 2, "batch_size": 8, "threads": 1}
TINY_ARGUMENTS = ["--size", "32", "--widths", "8,16", "--epochs", "2", "--batch-size", "8", "--threads", "1"]


class _Page(html.parser.HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in ("img", "meta", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.links += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_report_stands_alone(tiny_run: Path) -> None:
    text = (tiny_run / "report.html").read_text()
    page = _Page()
    page.feed(text)
    assert page.open == []
    images = [link for link in page.links if not link.startswith("#")]  # within the curves, SVG refers to itself
    assert len(images) == 4 * text.count("<figcaption>") == 4 * 6
    assert all(link.startswith(("data:image/png;base64,", "data:image/jpeg;base64,")) for link in images)
    for link in images:
        with Image.open(io.BytesIO(base64.b64decode(link.split(",")[1]))) as shown:
            assert max(shown.size) <= 300
    for part in ("Mean IoU", "Confusion", "worst", "median", "best", "accuracy", "fingerprint", "waiting", "stall"):
        assert part.lower() in text.lower()
    assert "<script" not in text
    assert not re.search(r"(?:src|href)=.?https?:|url\(https?:|@import", text)


def test_the_report_shows_where_prediction_and_truth_differ() -> None:
    from petseg.report.thumbnails import BORDER_ONLY, INVENTED, MISSED, differences

    truth = np.array([[0, 0, 0, 1, 1, 1, 2, 2]], np.uint8)
    seen = np.array([[0, 1, 2, 0, 1, 2, 0, 2]], np.uint8)
    white = (255, 255, 255)
    expected = [white, MISSED, BORDER_ONLY, INVENTED, white, BORDER_ONLY, BORDER_ONLY, white]
    assert [tuple(pixel) for pixel in differences(truth, seen)[0].tolist()] == expected


def test_best_median_and_worst() -> None:
    from petseg.inference.evaluation import Evaluation

    matrices = np.array([np.diag([9, 9, 9]) + bad for bad in (5, 0, 3, 1, 2)])
    chosen = choose_images(Evaluation(matrices=matrices, loss=None), each=1)
    assert [(why, index) for why, index, _ in chosen] == [("best", 1), ("median", 4), ("worst", 0)]
    assert len(choose_images(Evaluation(matrices=matrices[:2], loss=None))) == 2


def test_the_live_line(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tiny_run: Path) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("FORCE_COLOR", "1")
    reporter = ConsoleReporter()
    reporter.start_epoch(epoch=0, done=0, images=100)
    time.sleep(0.01)
    reporter.batch(images=40, loss=1.25, confusion=torch.eye(3, dtype=torch.int64), wait=0.25, remaining=60)
    time.sleep(0.3)
    reporter.start_validation(images=10)
    reporter.validated(10)
    reporter.end_epoch(read_history(tiny_run)[0], epochs=2)
    reporter.close()
    out, err = capfd.readouterr()
    assert "epoch 1/2" in out
    for part in ("loss 1.250", "IoU 1.000", "images/s", "wait 25%", "left"):
        assert part in err


def test_words_for_people(tiny_run: Path) -> None:
    assert [duration(s) for s in (5, 600, 12_000)] == ["5 s", "10 min", "3 h 20 min"]
    line = epoch_line({**read_history(tiny_run)[0], "best": True}, epochs=120)
    assert line.startswith("epoch   1/120")
    assert line.endswith("best")
