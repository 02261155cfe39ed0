"""Real files with a few bytes changed: read, or refused in one line; no traceback, hang, gigabyte or wrong tensor."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import forked_programs
import pytest
from mutated_files import KINDS

from shards.format.builtin_labels import PETS
from shards.format.label_files import labels_text

SECONDS, GROWTH = 10.0, 2**30


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
def test_mutated(originals: Path, campaign: Callable[[int, int], int]) -> None:
    """In one other process, which ends itself where it hangs."""
    program = [sys.executable, str(Path(__file__).parent / "mutated_files.py"), str(originals), str(campaign(3, 100))]
    done = forked_programs.run(program, capture_output=True, text=True)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    outcomes = [line for line in lines if "outcome" in line]
    found = [problem(line) for line in outcomes if problem(line)]
    if done.returncode:
        last = lines[-1] if lines else None
        found.append(f"the process ended or hung, {done.returncode}, at {last}: {done.stderr[-2000:]}")
    assert not found, "\n".join([f"{len(found)} of {len(outcomes)}", *found[:5]])
    refused = {line["kind"] for line in outcomes if line["outcome"] == "refused"}
    assert refused == {*KINDS}, "of the others nothing was changed, or nothing noticed"


def problem(line: dict[str, Any]) -> str:
    """Return what is wrong with an outcome, or nothing."""
    if line["outcome"] not in ("read", "refused"):
        return f"{line['kind']}, seed {line['seed']}: {line['outcome']}"
    if line["seconds"] > SECONDS:
        return f"{line['kind']}, seed {line['seed']}: {line['seconds']:.0f} s"
    return f"{line['kind']}, seed {line['seed']}: {line['grown']:,} bytes more" if line["grown"] > GROWTH else ""
