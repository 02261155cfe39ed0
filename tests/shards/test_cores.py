"""Usable cores: affinity, container quotas of both versions of control groups, systems without either."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from shards import cores


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Control groups in a folder, for a process that may use eight cores."""
    monkeypatch.setattr(cores, "_CGROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(cores, "_OWN_CGROUP", tmp_path / "own")
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    (tmp_path / "own").write_text("0::/\n")
    (tmp_path / "cgroup").mkdir()
    return tmp_path / "cgroup"


def write(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("cpu_", "cpu.", 1)).write_text(text + "\n")


@pytest.mark.parametrize(
    ("limit", "expected"),
    [("max 100000", 8), ("250000 100000", 2), ("50000 100000", 1), ("9900000 100000", 8), ("nonsense", 8), ("1 0", 8)],
)
def test_version_2(groups: Path, limit: str, expected: int) -> None:
    write(groups, cpu_max=limit)
    assert cores.usable_cores() == expected


@pytest.mark.parametrize(("quota", "expected"), [("-1", 8), ("400000", 4), ("10000", 1)])
def test_version_1(groups: Path, quota: str, expected: int) -> None:
    (groups.parent / "own").write_text("3:memory:/\n2:cpuacct,cpu:/\n")
    write(groups / "cpu", cpu_cfs_quota_us=quota, cpu_cfs_period_us="100000")
    assert cores.usable_cores() == expected


def test_the_groups_around_limit_too(groups: Path) -> None:
    """A job in a slice; and a group that is mounted as the root, as in most containers."""
    (groups.parent / "own").write_text("0::/slice/job\n")
    write(groups / "slice", cpu_max="300000 100000")
    write(groups / "slice" / "job", cpu_max="max 100000")
    assert cores.usable_cores() == 3
    write(groups / "slice" / "job", cpu_max="200000 100000")
    assert cores.usable_cores() == 2
    (groups.parent / "own").write_text("0::/docker/0123\n")
    write(groups, cpu_max="500000 100000")
    assert cores.usable_cores() == 5


def test_without_affinities(groups: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on macOS, which has no control groups either."""
    (groups.parent / "own").unlink()
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert cores.usable_cores() == 6
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert cores.usable_cores() == 1
