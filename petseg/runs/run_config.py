"""What config.json says: all that is needed to repeat a run, and to know where it was run."""

from __future__ import annotations

import platform
from datetime import UTC, datetime
from importlib import metadata
from typing import Any

import msgspec

from petseg.host.device import Placement
from petseg.host.distributed import World
from petseg.runs.recipe import Recipe, Running
from petseg.runs.run_folder import CONFIG, RunFolder, read_config
from shards import ShardSet

_FORMAT = "petseg-run"
_VERSION = 1


def write_config(
    folder: RunFolder,
    *,
    recipe: Recipe,
    running: Running,
    data: ShardSet,
    command: str,
    placement: Placement,
    world: World,
) -> None:
    """Write config.json; resuming keeps the first start and adds to ``resumed``."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    manifest = data.manifest
    document: dict[str, Any] = {
        "format": _FORMAT,
        "version": _VERSION,
        "recipe": msgspec.to_builtins(recipe),
        "running": msgspec.to_builtins(running),
        "data": {
            "path": str(data.path.resolve()),
            "fingerprint": manifest.fingerprint,
            "storage": manifest.storage,
            "samples": {name: split.samples for name, split in manifest.splits.items()},
        },
        "device": device_name(placement),
        "precision": placement.precision,
        "world_size": world.size,
        "versions": versions(),
        "command": command,
        "started": now,
        "resumed": [],
    }
    if (folder / CONFIG).exists():
        before = read_config(folder.path)
        document |= {name: before[name] for name in ("command", "started") if name in before}
        document["resumed"] = [*before.get("resumed", []), {"at": now, "command": command}]
    folder.write_config(document)


def versions() -> dict[str, str]:
    """Return the versions of what the results depend on."""
    import torch

    found = {"python": platform.python_version(), "torch": str(torch.__version__)}
    for package in ("petseg", "torchvision", "nvidia-dali-cuda120", "numpy", "pillow"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def device_name(placement: Placement) -> str:
    """Return what computes: the GPU's name, or the CPU with its threads."""
    import torch

    if placement.on_gpu:
        return torch.cuda.get_device_name(placement.device)
    return f"CPU, {torch.get_num_threads()} threads ({platform.machine()})"
