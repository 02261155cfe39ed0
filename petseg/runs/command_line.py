"""Commands as text: for config.json, so that a run can be repeated, and for messages that say how to continue."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from petseg.host.distributed import World
from petseg.runs.option_fields import option_name, shown_value


def equivalent_command(
    shards: str | Path | None,
    run: str | Path | None,
    resume: bool | str,
    options: Mapping[str, Any],
    *,
    config: str | Path | None = None,
) -> str:
    """Return the ``petseg-train`` command equivalent to a call of :func:`petseg.train`."""
    arguments = [] if shards is None else ["--shards", str(shards)]
    arguments += [] if run is None else ["--run", str(run)]
    arguments += [] if not resume else ["--resume"] if resume is True else ["--resume", str(resume)]
    arguments += [] if config is None else ["--config", str(config)]
    for name, value in options.items():
        option = option_name(name)
        if isinstance(value, bool):
            arguments.append(option if value else option.replace("--", "--no-", 1))
        elif value is not None:
            arguments += [option, _text(name, value)]
    return shlex.join(["petseg-train", *arguments])


def _text(name: str, value: Any) -> str:
    if isinstance(value, tuple | list):
        return ("x" if name == "size" else ",").join(map(str, value)) or "none"
    return str(shown_value(name, value))


def with_torchrun(command: str, world: World) -> str:
    """Return the command under torchrun, with as many processes as there are here.

    On several machines it must be started on each; HOST stands for one of them.
    """
    if world.size == 1:
        return command
    machines = world.size // world.local_size
    where = f"--nnodes {machines} --rdzv-backend c10d --rdzv-endpoint HOST:29500 " if machines > 1 else ""
    return f"torchrun {where}--nproc-per-node {world.local_size} --no-python -- {command}"


def resume_command(run: Path, world: World) -> str:
    """Return the command that continues a run, with as many processes as there are here."""
    return with_torchrun(shlex.join(["petseg-train", "--resume", "--run", str(run)]), world)
