"""How the loader's speed changes with the host's threads and with DALI's decoder options: a part of ``make gpu-proof``.

One loader after the other, each warmed up by two epochs and timed once, in complete epochs: it shows what a choice is
worth, where ``petseg-bench loader`` measures in turns and checks the output.
"""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import msgspec

from pipeline import DecoderOptions, Loader
from shards.console import FriendlyCommand, PathArgument
from shards.cores import usable_cores
from shards.store.atomic import write_atomically

LOADS = (0.0, 0.5, 1.0)  # of the JPEG engines, besides the default
WARM_EPOCHS = 2


class ScalingLine(msgspec.Struct, frozen=True, kw_only=True):
    """One loader: what it was made with, and its images per second."""

    name: str
    device: str
    engine: str
    threads: int  # for decoding, on the host
    hw_decoder_load: float | None  # of DALI on a GPU
    rate: float


def plan_loaders(device: str, cores: int) -> list[dict[str, Any]]:
    """Return the arguments of the loaders: the CPU's engine, then each engine that delivers to ``device``."""
    counts = [count for count in (1, 2, 4, 8, 16, 32, 64) if count < cores] + [cores]
    planned: list[dict[str, Any]] = [{"device": "cpu", "engine": "torch", "threads": count} for count in counts]
    if device != "cpu":
        planned.append({"device": device, "engine": "torch", "threads": cores})
    planned += [{"device": device, "engine": "dali", "threads": count} for count in counts]
    if device != "cpu":
        decoders = [DecoderOptions(hw_decoder_load=load) for load in LOADS]
        planned += [{"device": device, "engine": "dali", "threads": cores, "decoder": one} for one in decoders]
    return planned


def measure_loaders(
    shards: Path, planned: list[dict[str, Any]], *, seconds: float, **common: Any
) -> Iterator[ScalingLine]:
    """Yield each loader's line; each is timed for at least ``seconds`` after its warm-up."""
    for arguments in planned:
        with Loader(shards, seed=0, mask="index", augment="train", **common, **arguments) as loader:
            decoder = arguments.get("decoder", DecoderOptions())
            on_gpu = loader.engine == "dali" and loader.device.type != "cpu"
            load = decoder.hw_decoder_load if on_gpu else None
            for _ in range(WARM_EPOCHS):
                _run_epoch(loader)
            rate = _rate(loader, seconds, _device_waiter(loader))
            name = f"{loader.engine} to {loader.device.type}, {loader.threads} threads"
            name += "" if load is None else f", hw_decoder_load {load:g}"
            yield ScalingLine(
                name=name, device=loader.device.type, engine=loader.engine, threads=loader.threads,
                hw_decoder_load=load, rate=round(rate, 1),
            )  # fmt: skip


def scaling_text(lines: list[ScalingLine]) -> str:
    """Return the lines as a Markdown table."""
    rows = [f"| {line.name} | {line.rate:,.0f} |" for line in lines]
    return "\n".join(["| loader | images/s |", "|---|---:|", *rows, ""])


def _device_waiter(loader: Loader) -> Callable[[], None]:
    if loader.device.type == "cpu":
        return lambda: None
    import torch

    return lambda: torch.cuda.synchronize(loader.device)


def _rate(loader: Loader, seconds: float, wait: Callable[[], None]) -> float:
    wait()
    images, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        _run_epoch(loader)
        images += loader.samples
    wait()
    return images / (time.perf_counter() - start)


def _run_epoch(loader: Loader) -> None:
    for _ in loader:
        pass


@click.command(cls=FriendlyCommand)
@click.option("--shards", type=PathArgument(), required=True, help="A shard set of source storage.")
@click.option("--out", type=PathArgument(), required=True, help="For gpu-scaling.json and gpu-scaling.md.")
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cuda", show_default=True)
@click.option("--batch-size", type=click.IntRange(1), default=128, show_default=True)
@click.option("--size", type=click.IntRange(8), default=128, show_default=True)
@click.option("--seconds", type=click.FloatRange(0, min_open=True), default=0.5, show_default=True, help="Of each.")
def main(*, shards: Path, out: Path, device: str, batch_size: int, size: int, seconds: float) -> None:
    """Measure the loader with several numbers of host threads and decoder options."""
    lines = list[ScalingLine]()
    planned = plan_loaders(device, usable_cores())
    for line in measure_loaders(shards, planned, seconds=seconds, batch_size=batch_size, size=size):
        lines.append(line)
        click.echo(f"{line.name}: {line.rate:,.0f} images/s")
        # After each, so that what was measured stays if a later one fails.
        write_atomically(out / "gpu-scaling.json", msgspec.json.format(msgspec.json.encode(lines)).decode() + "\n")
        write_atomically(out / "gpu-scaling.md", scaling_text(lines))


if __name__ == "__main__":
    main()
