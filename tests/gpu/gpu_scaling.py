"""How the loader's speed changes with the host's threads and with DALI's decoder options: a part of ``make gpu-proof``.

One loader after the other, each warmed up by two epochs and timed once, in complete epochs: it shows what a choice is
worth, where ``petseg-bench loader`` measures in turns and checks the output.
"""

import time
from collections import deque
from pathlib import Path
from typing import Any

import click
import msgspec

from pipeline import DecoderOptions, Loader
from shards.console import PATH, FriendlyCommand
from shards.cores import usable_cores
from shards.store.atomic import write_atomically

LOADS = (0.0, 0.5, 1.0)  # of the JPEG engines, besides the default
WARM_EPOCHS = 2


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


def images_per_second(loader: Loader, *, seconds: float = 0.0, epochs: int = 1) -> float:
    """Run at least so many epochs and so many seconds; return images per second, the device's work included."""
    images, start = 0, time.perf_counter()
    while images < epochs * loader.samples or time.perf_counter() - start < seconds:
        deque(loader, maxlen=0)
        images += loader.samples
    if loader.device.type != "cpu":
        import torch

        torch.cuda.synchronize(loader.device)
    return images / (time.perf_counter() - start)


@click.command(cls=FriendlyCommand)
@click.option("--shards", type=PATH, required=True, help="A set of source storage, with a val split.")
@click.option("--out", type=PATH, required=True, help="For gpu-scaling.json and gpu-scaling.md.")
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cuda", show_default=True)
@click.option("--batch-size", type=click.IntRange(1), default=128, show_default=True)
@click.option("--size", type=click.IntRange(8), default=128, show_default=True)
@click.option("--seconds", type=click.FloatRange(0, min_open=True), default=0.5, show_default=True, help="Of each.")
def main(*, shards: Path, out: Path, device: str, seconds: float, **common: Any) -> None:
    """Measure the loader with several numbers of host threads and decoder options."""
    lines, table = list[dict[str, Any]](), "| loader | images/s |\n|---|---:|\n"
    for arguments in plan_loaders(device, usable_cores()):
        split = "val" if arguments["device"] == "cpu" else "train"  # the smaller one: few threads take long
        with Loader(shards, split=split, seed=0, mask="index", augment="train", **common, **arguments) as loader:
            images_per_second(loader, epochs=WARM_EPOCHS)
            rate = round(images_per_second(loader, seconds=seconds), 1)
            name = f"{loader.engine} to {loader.device.type}, {loader.threads} threads"
            load = arguments["decoder"].hw_decoder_load if "decoder" in arguments else None  # None: the default
            name += "" if load is None else f", hw_decoder_load {load:g}"
            lines.append({"name": name, "device": loader.device.type, "engine": loader.engine,
                          "threads": loader.threads, "hw_decoder_load": load, "rate": rate})  # fmt: skip
        table += f"| {name} | {rate:,.0f} |\n"
        click.echo(f"{name}: {rate:,.0f} images/s")
        # After each, so that what was measured stays if a later one fails.
        write_atomically(out / "gpu-scaling.json", msgspec.json.format(msgspec.json.encode(lines)).decode() + "\n")
        write_atomically(out / "gpu-scaling.md", table)


if __name__ == "__main__":
    main()
