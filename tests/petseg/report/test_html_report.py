"""The report's template: escaping, and that it is installed with the package."""

import html
import json
import shutil
import tomllib
from pathlib import Path

import numpy as np

import petseg
from petseg.inference.evaluation import Evaluation
from petseg.report.artifacts import read_history
from petseg.report.html_report import render_report
from shards import ShardSet

ROOT = Path(__file__).resolve().parents[3]


def test_names_are_escaped(tiny_run: Path, synthetic_set: Path, tmp_path: Path) -> None:
    name, command = "a<b> & 'c'", 'petseg-train --run "<script>alert(1)</script>"'
    run = tmp_path / name
    shutil.copytree(tiny_run, run)
    config = json.loads((run / "config.json").read_text())
    config["recipe"]["model"]["name"] = config["device"] = "<i>x"
    (run / "config.json").write_text(json.dumps({**config, "command": command}))
    split = ShardSet.open(synthetic_set).split("val")
    evaluation = Evaluation(matrices=np.tile(np.eye(3, dtype=np.int64), (len(split), 1, 1)), loss=None)
    predictor = petseg.load(tiny_run, device="cpu")
    page = render_report(
        run, history=read_history(run), predictor=predictor, split=split, evaluation=evaluation, seconds=1
    )
    for text in (name, command, "<i>x"):
        assert text not in page
        assert html.escape(text).replace("&#x27;", "&#39;").replace("&quot;", "&#34;") in page
    assert page.count("<svg") == 1  # the curves are embedded, not escaped


def test_every_file_beside_the_code_is_installed() -> None:
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    installed = {path for pattern in setuptools["package-data"]["petseg"] for path in (ROOT / "petseg").glob(pattern)}
    files = {p for p in (ROOT / "petseg").rglob("*") if p.is_file() and p.suffix not in (".py", ".pyc")}
    assert files
    assert files <= installed
