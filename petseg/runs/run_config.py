"""What a run is started with, and config.json, which records it together with the versions and the machine."""

import json
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from typing import Any

import msgspec
import torch

from petseg.host.device import Placement
from petseg.host.distributed import World
from petseg.runs.config_file import write_config_text
from petseg.runs.recipe import Recipe, RuntimeOptions
from petseg.runs.run_folder import CONFIG, CONFIG_TOML, RunFolder, read_config
from pipeline.choose_engine import dali_distributions
from shards import ShardSet
from shards.format.labels import Labels
from shards.format.readers.output_places import RUN_FORMAT
from shards.store.atomic import write_atomically


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """What a run is started with: its options, the shard set, device and precision, and the ranks."""

    recipe: Recipe
    runtime: RuntimeOptions
    data: ShardSet
    placement: Placement
    world: World

    @property
    def labels(self) -> Labels:
        """The classes of the shard set."""
        return self.data.manifest.labels


def write_config(
    folder: RunFolder, config: RunConfig, *, command: str, initialised_from: Mapping[str, Any] | None = None
) -> None:
    """Write config.json and config.toml; resuming keeps the first start and appends to ``resumed``.

    ``initialised_from`` says which weights a new run starts from; see petseg.runs.initial_weights.
    """
    now = datetime.now(UTC).isoformat(timespec="seconds")
    manifest = config.data.manifest
    document: dict[str, Any] = {
        "format": RUN_FORMAT,
        "version": 2,
        "recipe": msgspec.to_builtins(config.recipe),
        "running": msgspec.to_builtins(config.runtime),
        "data": {
            "path": config.data.store.location,
            "fingerprint": manifest.fingerprint,
            "storage": manifest.storage,
            "labels": msgspec.to_builtins(config.labels),
            "samples": {name: split.samples for name, split in manifest.splits.items()},
        },
        "initialised_from": initialised_from,
        "device": device_name(config.placement),
        "precision": config.placement.precision,
        "world_size": config.world.size,
        "versions": versions(),
        "command": command,
        "started": now,
        "resumed": [],
    }
    if (folder / CONFIG).exists():
        before = read_config(folder.path)
        document |= {name: before[name] for name in ("command", "started", "initialised_from") if name in before}
        resumed = before.get("resumed")
        document["resumed"] = [*(resumed if isinstance(resumed, list) else []), {"at": now, "command": command}]
    write_atomically(folder / CONFIG, json.dumps(document, indent=2) + "\n")
    # A path may have bytes that are no UTF-8.
    text = write_config_text(config.recipe, config.runtime)
    write_atomically(folder / CONFIG_TOML, text.encode("utf-8", "surrogateescape"))


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that the results depend on."""
    found = {"python": platform.python_version(), "torch": str(torch.__version__)}
    for package in ("petseg", "torchvision", "timm", "numpy", "pillow"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found | (dali_distributions() or {"nvidia-dali": "not installed"})


def device_name(placement: Placement) -> str:
    """Return the GPU's name, or the CPU with its threads."""
    if placement.on_gpu:
        return torch.cuda.get_device_name(placement.device)
    threads = torch.get_num_threads()
    return f"CPU, {threads} thread{'s' * (threads != 1)} ({platform.machine()})"
