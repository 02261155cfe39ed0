"""Sets of millions of tiny samples: how long they take to open and to order, and how much memory.

``python tests/helpers/scale_benchmark.py FOLDER --samples 10000000`` writes a set (3 KiB a sample) into FOLDER, reads
a first batch of it in new processes, and removes it. With ``--tables-only`` it has tables, but of its tars only the
first and the last (the records of all other samples are zero): for what no disk holds.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click
import numpy as np
from scale_set import write_scale_set

from pipeline.order.epoch_order import keyed_permutation
from pipeline.order.feistel import FeistelPermutation
from pipeline.order.permutation import permutation_of_key
from shards.console import print_json
from shards.cores import usable_cores

BLOCK = 1024  # positions at a time, as pipeline.runtime.batch_plan asks for them
READ_BATCH = """
from pipeline import Loader
import torch, pipeline.cpu.cpu_engine, pipeline.workers
def work():
    return next(iter(Loader(sys.argv[1], batch_size=32, device="cpu", engine="torch", shuffle=sys.argv[2])))
"""
READ_TABLES = """
import numpy as np
from pipeline.order import Shuffling
from shards import ShardSet
def work():
    reader = ShardSet.open(sys.argv[1]).split("train")
    order = Shuffling(kind=sys.argv[2], window=16).order(0, 0, starts=reader.starts)
    return reader.rows(order[np.arange(32)]), reader.read(0, "image"), reader.read(len(reader) - 1, "mask")
"""
PROBE = """
import json, sys, time
{0}
def mb(name): return int(open("/proc/self/status").read().split(name + ":")[1].split()[0]) / 1024
before, began = mb("VmRSS"), time.perf_counter()
kept = work()
seconds = time.perf_counter() - began
print(json.dumps({{"seconds": seconds, "mb": mb("VmHWM") - before, "imports_mb": before}}))
"""


def probe(folder: Path, reading: str, shuffle: str) -> dict[str, Any]:
    """Return the seconds and the peak memory (MB, beyond the imports') of a first batch, in a process of its own."""
    command = [sys.executable, "-c", PROBE.format(reading), str(folder), shuffle]
    found: dict[str, Any] = json.loads(subprocess.check_output(command, text=True))
    return found


def order_costs(samples: int) -> dict[str, Any]:
    """Return what the order of an epoch takes: once, and for each 1,024 positions, sorted and by a Feistel network."""
    began = time.perf_counter()
    orders = {"sorted": permutation_of_key(1, samples), "feistel": FeistelPermutation(1, samples)}
    found: dict[str, Any] = {"samples": samples, "sorting_ms": round((time.perf_counter() - began) * 1e3, 3)}
    blocks = [np.arange(start, min(start + BLOCK, samples)) for start in range(0, samples, BLOCK)][:200]
    for name, order in orders.items():
        best = min(_timed(lambda order=order: [order[block] for block in blocks]) for _ in range(5))
        found[f"{name}_us_per_{BLOCK}"] = round(best * 1e6 / sum(map(len, blocks)) * BLOCK, 1)
    found["used"] = "sorted" if isinstance(keyed_permutation(1, samples), np.ndarray) else "feistel"
    return found


def _timed(work: Any) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


@click.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--samples", type=click.IntRange(1), default=10_000_000, show_default=True)
@click.option("--samples-per-shard", type=click.IntRange(1), default=80_000, show_default=True)
@click.option("--tables-only", is_flag=True)
def main(folder: Path, *, samples: int, samples_per_shard: int, tables_only: bool) -> None:
    """Write a set into FOLDER, measure it, and remove it."""
    figures: dict[str, Any] = {"orders": [order_costs(n) for n in (480, 7349, 1 << 20, 10_000_000) if n <= samples]}
    with tempfile.TemporaryDirectory(dir=folder) as made:
        began = time.perf_counter()
        write_scale_set(
            Path(made), samples=samples, each=samples_per_shard, tables_only=tables_only, workers=usable_cores()
        )
        figures |= {"samples": samples, "written_s": round(time.perf_counter() - began, 1)}
        figures["bytes"] = sum(path.stat().st_size for path in Path(made).iterdir())
        for shuffle in ("global", "block", "none"):
            figures[f"tables, {shuffle}"] = probe(Path(made), READ_TABLES, shuffle)
            if not tables_only:
                figures[f"first batch, {shuffle}"] = probe(Path(made), READ_BATCH, shuffle)
    print_json(figures)


if __name__ == "__main__":
    main()
