"""Synthetic results of each kind of run, for tests of what is done with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from msgspec.structs import replace

from bench.peers.peer import Job
from bench.results.goals import STATED_FOR
from bench.results.records import (
    BuildLine,
    DataInfo,
    Environment,
    GpuCost,
    Limit,
    LoaderLine,
    LoaderWork,
    OutputCheck,
    Repeat,
    Results,
    Skipped,
    TrainLine,
    results_json,
)


def environment(**changes: Any) -> Environment:
    values: dict[str, Any] = {
        "command": "petseg-bench loader", "started": "2026-01-01T00:00:00+0000", "seconds": 1.0, "commit": "abc",
        "system": "Linux", "cpu": "A <fast> one", "cores": 2, "last_level_cache_bytes": 8 << 20,
        "memory_bytes": 24 << 30, "gpu": (), "load_before": 0.1, "load_after": 1.0, "versions": {"python": "3.11"},
    }  # fmt: skip
    return Environment(**{**values, **changes})


def repeats(rates: list[float], *, processes: int = 99, **changes: Any) -> tuple[Repeat, ...]:
    """Repeats at these rates, each in a process of its own unless there are fewer."""
    return tuple(
        Repeat(**{"process": number % processes, "images": 1000, "seconds": 1000 / rate, "cpu_seconds": 1500 / rate,
                  "batch_ms": (1.0, 2.0, 9.0), **changes})
        for number, rate in enumerate(rates)
    )  # fmt: skip


def line(title: str, rates: list[float], *, processes: int = 99, **changes: Any) -> LoaderLine:
    """A line of the loader ``title``: peer, storage and engine; ``changes`` are of its work or of itself."""
    peer, storage, *engine = title.split(" ")
    work = LoaderWork(peer=peer, storage=storage, engine=engine[0] if engine else "")
    work = replace(work, **{name: changes.pop(name) for name in list(changes) if name in LoaderWork.__struct_fields__})
    check = OutputCheck(delivered=100, missing=0, repeated=0, compared=100, image_difference=0.3, image_worst=0.9,
                        mask_difference=0.0)  # fmt: skip
    values: dict[str, Any] = {
        "name": work.name, "work": work, "workers": 2, "caveats": (), "check": check, "steady": True,
        "repeats": repeats(rates, processes=processes),
        "peak_memory_bytes": 1 << 29,
    }  # fmt: skip
    return LoaderLine(**{**values, **changes})


def job(peer: str, storage: str = "source", **changes: Any) -> Job:
    """A job of one tiny sample, which is nowhere."""
    values: dict[str, Any] = {
        "shards": "/nowhere", "stored_size": None, "work": "", "split": "train", "samples": 1,
        "classes": 3, "size": (8, 8), "fit": "stretch", "batch_size": 1, "seed": 0, "workers": 0,
    }  # fmt: skip
    return Job(peer=peer, storage=storage, **{**values, **changes})


def limit(name: str, storage: str, *rates: float, how: str = "libjpeg-turbo") -> Limit:
    mask = "onehot" if name == "copy" else ""
    return Limit(name=name, storage=storage, mask=mask, how=how, repeats=repeats(list(rates)))


def write_results(run: Results, path: Path) -> None:
    path.write_text(results_json(run))


def results(ours: list[float], other: list[float], **changes: Any) -> Results:
    gpu = GpuCost(device_seconds=0.2, moved_bytes=12345)
    on_gpu = line("petseg source dali", [], device="cuda", repeats=repeats([10_000.0], gpu=gpu))
    values: dict[str, Any] = {
        "kind": "loader",
        "environment": environment(),
        "data": DataInfo(
            path="set",
            fingerprint="f",
            split="train",
            samples=1000,
            classes=3,
            bytes={"source": 1 << 30, "raw": 1 << 20},
        ),
        "settings": {**STATED_FOR, "seconds": 1.0},
        "lines": (line("petseg source torch", ours), line("tutorial source", other, caveats=("does less",)), on_gpu),
        "skipped": (Skipped(name="ffcv source", reason="not installed: ffcv"),),
        "limits": (
            limit("copy", "", 60_000.0, how="memcpy"),
            limit("decode", "source", 1000.0, 1010.0),
            limit("decode, scaled", "source", 1200.0, 1210.0),
        ),
    }
    return Results(**{**values, **changes})


OURS, OTHER = [1100.0, 1110, 1120, 1090, 1105], [400.0, 405, 395, 402, 398]


def train_results() -> Results:
    trained = TrainLine(
        name="unet fp32", model="unet", precision="fp32", device="cpu", size="128", batch_size=16,
        loader=repeats([900.0, 910.0]), compute=repeats([20.0, 20.4]),
        repeats=repeats([19.0, 19.5], wait_seconds=0.5), peak_memory_bytes=1 << 30,
    )  # fmt: skip
    return results(OURS, OTHER, kind="train", lines=(), limits=(), train=(trained,))


def build_results() -> Results:
    made = (Repeat(images=480, seconds=1.0), Repeat(process=1, images=480, seconds=1.1))
    packed = BuildLine(name="petseg source, 2 workers", repeats=made, workers=2, bytes=1 << 20,
                       peak_memory_bytes=1 << 20, limit="make source")  # fmt: skip
    making = limit("make source", "source", 500.0, how="decoding alone")
    return results(OURS, OTHER, kind="build", lines=(), limits=(making,), build=(packed,))
