"""Made-up results of each kind of run, for tests of what is done with them."""

from __future__ import annotations

from typing import Any

from bench.results import (
    BuildLine,
    Check,
    Data,
    Environment,
    GpuCost,
    Left,
    Limit,
    Line,
    Repeat,
    Results,
    TrainLine,
)


def environment(**changes: Any) -> Environment:
    values: dict[str, Any] = {
        "command": "petseg-bench loader", "started": "2026-01-01T00:00:00+0000", "seconds": 1.0, "commit": "abc",
        "system": "Linux", "cpu": "A <fast> one", "cores": 2, "last_level_cache_bytes": 8 << 20,
        "memory_bytes": 24 << 30, "gpu": (), "load_before": 0.1, "load_after": 1.0, "versions": {"python": "3.11"},
    }  # fmt: skip
    return Environment(**{**values, **changes})


def line(title: str, rates: list[float], **changes: Any) -> Line:
    peer, storage, *engine = title.split(" ")
    check = Check(delivered=100, missing=0, repeated=0, compared=100, image_difference=0.3, image_worst=0.9,
                  mask_difference=0.0)  # fmt: skip
    repeats = tuple(
        Repeat(pictures=1000, seconds=1000 / rate, cpu_seconds=1.5 * 1000 / rate, batch_ms=(1.0, 2.0, 9.0))
        for rate in rates
    )
    values: dict[str, Any] = {
        "name": title, "peer": peer, "storage": storage, "engine": engine[0] if engine else "", "device": "cpu",
        "augment": False, "cache": "warm", "workers": 2, "tried": {"1": 200.0, "2": 300.0}, "marks": (),
        "check": check,
        "warmup_seconds": 1.0, "steady": True, "prepare_seconds": None, "repeats": repeats,
        "peak_memory_bytes": 1 << 29,
    }  # fmt: skip
    return Line(**{**values, **changes})


def results(ours: list[float], other: list[float], **changes: Any) -> Results:
    gpu = GpuCost(host_wait_seconds=0.1, device_seconds=0.2, moved_bytes=12345)
    on_gpu = line("petseg source dali", [9000.0], name="petseg source dali gpu", device="cuda", repeats=(
        Repeat(pictures=1000, seconds=0.1, cpu_seconds=0.1, batch_ms=(1, 2, 3), gpu=gpu),))  # fmt: skip
    values: dict[str, Any] = {
        "format": "petseg-bench",
        "version": 1,
        "kind": "loader",
        "environment": environment(),
        "data": Data(
            path="set", fingerprint="f", split="train", samples=1000, bytes={"source": 1 << 30, "raw": 1 << 20}
        ),
        "settings": {"size": 128, "batch_size": 32, "seconds": 1.0},
        "lines": (line("petseg source dali", ours), line("tutorial source", other, marks=("does less",)), on_gpu),
        "left": (Left(name="ffcv source", reason="not installed: ffcv"),),
        "limits": (
            Limit(name="copy", storage="", rates=(60_000.0,), how="memcpy"),
            Limit(name="decode", storage="source", rates=(1000.0, 1010.0), how="libjpeg-turbo"),
            Limit(name="decode, scaled", storage="source", rates=(1200.0, 1210.0), how="libjpeg-turbo"),
        ),
    }
    return Results(**{**values, **changes})


OURS, OTHER = [1100.0, 1110, 1120, 1090, 1105], [400.0, 405, 395, 402, 398]


def train_results() -> Results:
    trained = TrainLine(
        name="unet fp32", model="unet", precision="fp32", device="cpu", size=128, batch_size=16,
        loader_rates=(900.0, 910.0), memory_rates=(20.0, 20.4), real_rates=(19.0, 19.5), wait_share=(0.01, 0.02),
        step_ms=(800.0, 900.0), peak_memory_bytes=1 << 30,
    )  # fmt: skip
    return results(OURS, OTHER, kind="train", lines=(), limits=(), train=(trained,))


def build_results() -> Results:
    packed = BuildLine(name="petseg source, 2 workers", seconds=(1.0, 1.1), pictures=480, workers=2, bytes=1 << 20,
                       peak_memory_bytes=1 << 20, limit="make source")  # fmt: skip
    limit = Limit(name="make source", storage="source", rates=(500.0,), how="decoding alone")
    return results(OURS, OTHER, kind="build", lines=(), limits=(limit,), build=(packed,))
