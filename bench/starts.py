"""From starting a fresh Python to the first batch, beside importing torch alone."""

from __future__ import annotations

import subprocess
import sys
import time

from bench.check import CheckError
from bench.loader_settings import LoaderSettings, Note
from bench.results import Left, StartLine
from bench.workspace import Workspace

PATIENCE_SECONDS = 120.0
BASELINE = "import torch"

_FIRST_BATCH = """
import sys
from pipeline import Loader
shards, split, device = sys.argv[1:4]
loader = Loader(shards, split=split, batch_size=int(sys.argv[4]), size=int(sys.argv[5]), device=device, augment="train")
batch = next(iter(loader))
batch.image[-1, -1, -1, -1].item()
"""
_READY = '\nprint("ready", flush=True)\n'


def run_starts(settings: LoaderSettings, workspace: Workspace, *, left: list[Left], note: Note) -> list[StartLine]:
    """Start each way ``settings.starts`` times, in turns; nothing for 0."""
    ways: list[tuple[str, str, list[str]]] = [
        (BASELINE, "", ["import torch" + _READY]),
        ("import torchvision", "", ["import torchvision" + _READY]),
    ]
    for storage, stored in workspace.stored.items():
        if storage in settings.storages:
            arguments = [str(stored.shards.resolve()), settings.split, settings.device]
            sizes = [str(settings.batch_size), str(settings.size)]
            ways.append((f"first batch, {storage}", storage, [_FIRST_BATCH + _READY, *arguments, *sizes]))
    seconds: dict[str, list[float]] = {name: [] for name, _, _ in ways}
    for number in range(settings.starts):
        for name, _, arguments in list(ways):
            note(f"start {number + 1} of {settings.starts}: {name}")
            try:
                seconds[name].append(time_start(arguments))
            except CheckError as error:
                left.append(Left(name=f"start: {name}", reason=str(error)))
                ways = [way for way in ways if way[0] != name]
    return [StartLine(name=name, storage=storage, seconds=tuple(seconds[name])) for name, storage, _ in ways
            if seconds[name]]  # fmt: skip


def time_start(arguments: list[str]) -> float:
    """Return the seconds from starting ``python -c ARGUMENTS`` until it has printed a line.

    Raises:
        CheckError: it ended without that.
    """
    start = time.perf_counter()
    with subprocess.Popen(
        [sys.executable, "-c", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        seconds = time.perf_counter() - start
        try:
            _, errors = process.communicate(timeout=PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            raise CheckError(f"the process did not end within {PATIENCE_SECONDS:.0f} s") from None
    if line.strip() != "ready":
        last = errors.strip().splitlines()[-1:] or [f"exit {process.returncode}"]
        raise CheckError(f"the process ended before it was ready: {last[0]}")
    return seconds
