"""Real files with a few bytes changed: read, or refused in one line; no traceback, hang, gigabyte or wrong tensor."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from shards.format.builtin_labels import PETS
from shards.format.label_files import labels_text

SECONDS, GROWTH = 10.0, 2**30
# Each kind's share of the inputs, in percent: those with more code behind them have more.
KINDS = {
    "jpeg": 14, "png": 14, "tar": 8, "index": 3, "manifest": 10, "table": 8, "labels": 8, "list": 8, "csv": 7,
    "checkpoint": 8, "config": 5, "run config": 2, "metrics": 5,
}  # fmt: skip


@pytest.fixture(scope="module")
def originals(few_pets: Path, few_shards: Path, small_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("originals").resolve()
    for name, target in (("pets", few_pets), ("shards", few_shards), ("run", small_run)):
        (folder / name).symlink_to(target)
    (folder / "labels.toml").write_text(labels_text(PETS))
    rows = [f"{few_pets}/images/{p.stem}.jpg,{few_pets}/annotations/trimaps/{p.stem}.png,train" for p in
            sorted((few_pets / "images").iterdir())]  # fmt: skip
    (folder / "table.csv").write_text("image,mask,split\n" + "\n".join(rows) + "\n")
    return folder


@pytest.mark.faults
@pytest.mark.parametrize("kind", KINDS)
def test_mutated(kind: str, originals: Path, campaign: Callable[[int, int], int]) -> None:
    number = campaign(3 * KINDS[kind], 100 * KINDS[kind])
    program = [sys.executable, str(Path(__file__).parent / "mutated_files.py"), str(originals), kind, "0", str(number)]
    log = originals / "log"
    with log.open("w") as stderr:
        process = subprocess.Popen(program, stdout=subprocess.PIPE, stderr=stderr, text=True)
        try:
            out, _ = process.communicate(timeout=30 + SECONDS + number * 0.5)
        except subprocess.TimeoutExpired:
            process.kill()
            out, _ = process.communicate()
    lines = [json.loads(line) for line in out.splitlines()]
    done = [line for line in lines if "outcome" in line]
    found = [problem(line) for line in done if problem(line)]
    if len(done) < number:
        last = lines[-1]["seed"] if lines else None
        found.append(f"seed {last}: the process ended, or hung: {process.returncode} {log.read_text()[-2000:]}")
    assert not found, "\n".join([f"{len(found)} of {number}", *found[:5]])
    outcomes = {line["outcome"] for line in done}
    assert "refused" in outcomes or kind in ("jpeg", "png", "run config"), "nothing was changed"


def problem(line: dict[str, Any]) -> str:
    """Return what is wrong with an outcome, or nothing."""
    if line["outcome"] not in ("read", "refused"):
        return f"seed {line['seed']}: {line['outcome']}"
    if line["seconds"] > SECONDS:
        return f"seed {line['seed']}: {line['seconds']:.0f} s"
    return f"seed {line['seed']}: {line['grown']:,} bytes more" if line["grown"] > GROWTH else ""
