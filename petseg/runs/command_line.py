"""Commands as text: what config.json keeps to repeat a run, and what messages advise."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from petseg.host.distributed import World


def command_line(program: str, arguments: list[str]) -> str:
    """Return a command as it can be pasted into a shell."""
    return shlex.join([program, *arguments])


def command_of(shards: str | Path | None, run: str | Path | None, resume: bool, options: Mapping[str, Any]) -> str:
    """Return the ``petseg-train`` command that does what :func:`petseg.train` was asked to do from Python."""
    arguments = [] if shards is None else ["--shards", str(shards)]
    arguments += [] if run is None else ["--run", str(run)]
    arguments += ["--resume"] if resume else []
    for name, value in options.items():
        option = name.replace("_", "-")
        if isinstance(value, bool):
            arguments.append(f"--{option}" if value else f"--no-{option}")
        elif value is not None:
            text = ",".join(map(str, value)) if isinstance(value, tuple | list) else str(value)
            arguments += [f"--{option}", text]
    return command_line("petseg-train", arguments)


def with_torchrun(command: str, world: World) -> str:
    """Put before a command what starts it in as many processes as there are here.

    On several machines it is to be started on each; HOST stands for one of them.
    """
    if world.size == 1:
        return command
    machines = world.size // world.local_size
    where = f"--nnodes {machines} --rdzv-backend c10d --rdzv-endpoint HOST:29500 " if machines > 1 else ""
    return f"torchrun {where}--nproc-per-node {world.local_size} --no-python -- {command}"


def resume_command(run: Path, world: World) -> str:
    """Return the command that goes on with a run, in as many processes as there are here."""
    return with_torchrun(command_line("petseg-train", ["--resume", "--run", str(run)]), world)
