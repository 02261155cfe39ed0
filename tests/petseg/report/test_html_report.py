"""The report's template: escaping, and that it is installed with the package."""

import html
import json
import re
import shutil
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch
from chromium import running_browser
from labelled_sets import AWKWARD, many_labels

import petseg
from petseg.inference.evaluation import Evaluation
from petseg.inference.metrics import class_counts
from petseg.report.confusion_map import confusion_table, draw_confusion, frequent_mistakes
from petseg.report.html_report import render_report
from petseg.runs.run_folder import read_metrics
from shards import ShardSet
from shards.format.builtin_labels import PETS
from shards.format.labels import Labels

ROOT = Path(__file__).resolve().parents[3]


def evaluated(labels: Labels, matrices: np.ndarray) -> Evaluation:
    """An evaluation from one confusion matrix per sample, int64 (samples, N, N)."""
    counts = class_counts(torch.from_numpy(matrices)).numpy()
    total = matrices.sum(axis=0)
    return Evaluation(labels=labels, matrix=total, counts=counts, loss=None, size=(32, 32), precision="fp32")


def in_html(text: str) -> str:
    return html.escape(text).replace("&#x27;", "&#39;").replace("&quot;", "&#34;")


def test_names_are_escaped(tiny_run: Path, synthetic_set: Path, tmp_path: Path) -> None:
    name, command = "a<b> & 'c'", 'petseg-train --run "<script>alert(1)</script>"'
    run = tmp_path / name
    shutil.copytree(tiny_run, run)
    config = json.loads((run / "config.json").read_text())
    config["recipe"]["model"]["name"] = config["device"] = "<i>x"
    (run / "config.json").write_text(json.dumps({**config, "command": command}))
    split = ShardSet.open(synthetic_set).split("val")
    evaluation = evaluated(PETS, np.tile(np.eye(3, dtype=np.int64), (len(split), 1, 1)))
    predictor = petseg.load(tiny_run, device="cpu")
    page = render_report(
        run, history=read_metrics(run), predictor=predictor, split=split, evaluation=evaluation, seconds=1
    )
    for text in (name, command, "<i>x"):
        assert text not in page
        assert in_html(text) in page
    assert page.count("<svg") == 1  # the curves are embedded, not escaped
    assert "To repeat it, give another folder with <code>--run</code>" in page  # as it stands the command is refused


def test_many_classes_in_a_table_that_can_be_sorted(many_class_run: Path) -> None:
    page = (many_class_run / "report.html").read_text()
    rows = re.findall(r'<tr style="--name: (-?\d+); --iou: (-?\d+); --share: (-?\d+)"><td>(.*?)</td>.*?</tr>', page)
    assert "mean" in rows[0][-1]
    assert [re.sub(r"<i .*?</i>", "", name) for *_, name in rows[1:]] == [in_html(n) for n in many_labels(21).names]
    orders = np.array([[int(rank) for rank in row[:3]] for row in rows[1:]])
    assert (np.sort(orders, axis=0) == np.arange(21)[:, None]).all()
    names = np.array(many_labels(21).names)[orders[:, 0].argsort()].tolist()
    assert names == sorted(names, key=str.casefold)
    iou = [float(v.replace("-", "2")) for v in re.findall(r"</i></i></td><td>([\d.-]+)</td>", page)[:21]]
    assert np.diff(np.array(iou)[orders[:, 1].argsort()]).min() >= 0  # the worst first, and at the end those without
    for order in ("index", "name", "iou", "share"):
        assert f'id="by-{order}"' in page


def test_many_classes(many_class_run: Path) -> None:
    page = (many_class_run / "report.html").read_text()
    assert "pixels of the stored masks are ignored" in page
    assert "images of 32x48 pixels (contain)" in page
    assert "best class: " in page
    assert "Foreground" not in page  # these labels name none
    assert "The most frequent mistakes" in page
    assert page.count("<svg") == 2  # curves and confusion matrix
    for name in AWKWARD[:2]:
        assert in_html(name) in page
        assert f">{name}<" not in page or name == in_html(name)


@pytest.mark.parametrize("name", ["a very long name of a class such as conveyer belt, moving walkway, band", "x" * 80])
def test_a_long_name_of_a_class_covers_no_figure(many_class_run: Path, tmp_path: Path, name: str) -> None:
    page = (many_class_run / "report.html").read_text().replace(in_html(many_labels(21).names[3]), name)
    (tmp_path / "page.html").write_text(page)
    with running_browser(tmp_path / "profile") as browser:
        browser.open(tmp_path / "page.html")
        cells = "[...document.querySelectorAll('.classes td:first-child')]"
        assert browser.run(f"{cells}.some(cell => cell.textContent == '{name}')")
        assert browser.run(f"{cells}.filter(cell => cell.scrollWidth > cell.clientWidth).length") == 0
        for width in (1440, 400):
            browser.call(
                "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False
            )
            tables = "[...document.querySelectorAll('.side table')].map(each => each.parentNode)"
            assert browser.run(f"Math.max(...{tables}.map(each => each.getBoundingClientRect().right))") <= width


def test_the_pets_have_their_binary_figure(tiny_run: Path) -> None:
    page = " ".join((tiny_run / "report.html").read_text().split())
    assert "Foreground (animal) against the rest" in page
    assert "with border counted as foreground" in page
    assert "with the pixels of border ignored" in page
    assert "are ignored" not in page.replace("pixels of border ignored", "")
    assert 'id="by-name"' not in page


def test_confusions_are_shares_of_the_true_class() -> None:
    from sklearn.metrics import confusion_matrix

    labels = many_labels(150)
    random = np.random.default_rng(0)
    truth, seen = random.integers(0, 149, (2, 5000))  # one class never occurs
    seen[:4000] = truth[:4000]
    matrix = confusion_matrix(truth, seen, labels=range(150))
    mistakes = frequent_mistakes(matrix, labels, count=5)
    wrong = {(t, p): n for (t, p), n in np.ndenumerate(matrix) if t != p and n}
    assert [each.pixels for each in mistakes] == sorted(wrong.values(), reverse=True)[:5]
    for each in mistakes:
        true, predicted = labels.names.index(each.true), labels.names.index(each.predicted)
        assert wrong[true, predicted] == each.pixels
        assert each.share == pytest.approx(each.pixels / (truth == true).sum())
    table = confusion_table(matrix[:3, :3])
    assert table[0][0].share == pytest.approx(matrix[0, 0] / matrix[0, :3].sum())
    assert frequent_mistakes(np.diag([3] * 150), labels) == []
    assert draw_confusion(matrix, labels).startswith(b"<svg")


def test_every_file_beside_the_code_is_installed() -> None:
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    installed = {path for pattern in setuptools["package-data"]["petseg"] for path in (ROOT / "petseg").glob(pattern)}
    files = {p for p in (ROOT / "petseg").rglob("*") if p.is_file() and p.suffix not in (".py", ".pyc")}
    assert files
    assert files <= installed
