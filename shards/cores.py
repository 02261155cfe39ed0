"""How many processor cores this process may use; imported by all packages."""

import math
import os
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")
_OWN_CGROUP = Path("/proc/self/cgroup")


def usable_cores() -> int:
    """Return the number of cores that this process may use, at least 1: a container's CPU quota counts."""
    # macOS has no affinities.
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cpu_quota()
    return allowed if quota is None else max(1, min(allowed, math.floor(quota)))


def cpu_quota() -> float | None:
    """Return the processor time that this process's control groups allow, in cores; None: as much as there is.

    The limit of a group is that of the groups around it too. Version 2 has it in ``cpu.max``, version 1 in two files of
    the ``cpu`` controller; inside a container, the group is often mounted as the root.
    """
    quotas = [quota for folder in _group_folders() if (quota := _quota(folder)) is not None]
    return min(quotas, default=None)


def _group_folders() -> list[Path]:
    """Return the folders of this process's groups and of those around them, of both versions, that exist."""
    roots = {"": _CGROUPS, "cpu": _CGROUPS / "cpu"}
    found = list(roots.values())
    try:
        lines = _OWN_CGROUP.read_text().splitlines()
    except OSError:  # no Linux
        return []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        root = roots["cpu"] if "cpu" in controllers.split(",") else None if controllers else roots[""]
        if root is not None:
            own = root / path.lstrip("/")
            found += [own, *(parent for parent in own.parents if parent.is_relative_to(root))]
    return [folder for folder in dict.fromkeys(found) if folder.is_dir()]


def _quota(folder: Path) -> float | None:
    try:
        if (folder / "cpu.max").exists():
            limit, period = (folder / "cpu.max").read_text().split()
        else:
            limit, period = ((folder / f"cpu.cfs_{name}_us").read_text().strip() for name in ("quota", "period"))
        return float(limit) / float(period) if limit not in ("max", "-1") and float(period) > 0 else None
    except (OSError, ValueError):  # not there, not readable, or of a form that is not known
        return None
