"""Commands that write to a store, killed at any of their changes: no half of a set appears, and they go on."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from forked_programs import ForkedPopen
from google_server import BUCKET, GoogleServer
from shard_sources import stored
from store_servers import FaultProxy

from shards.build.build_set import build
from shards.build.options import PackOptions
from shards.build.tasks import TaskNumber, build_task
from shards.errors import FormatError
from shards.format.dataset import ShardSet

# Kills itself before one of its changes to the store, or says at its end how many there were.
PROGRAM = """
import atexit, itertools, os, sys
from shards.cli import main
from shards.store.cloud.object_store import ObjectStore
step, numbers = int(sys.argv[1]), itertools.count()
def counted(real):
    def call(*arguments, **named):
        if next(numbers) == step:
            os.kill(os.getpid(), 9)
        return real(*arguments, **named)
    return call
for name in ("put", "copy", "delete"):
    setattr(ObjectStore, name, counted(getattr(ObjectStore, name)))
atexit.register(lambda: print("changes:", next(numbers)))
main.main(sys.argv[2:], prog_name="petseg-shard")
"""


@dataclass(frozen=True)
class Killable:
    """A command of petseg-shard that makes the set at ``out``, and the store before it."""

    server: GoogleServer
    out: str
    arguments: tuple[str, ...]
    before: dict[str, object]

    def start(self, step: int) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", PROGRAM, str(step), *self.arguments]
        return ForkedPopen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def run(self, step: int = -1) -> int:
        """Run it, killed before a change; return how many changes it made otherwise."""
        with self.start(step) as process:
            out, errors = process.communicate(timeout=120)
        assert process.returncode == (0 if step < 0 else -9), errors
        return int(out.rpartition("changes:")[2]) if step < 0 else step

    def reset(self) -> None:
        self.server.objects = dict(self.before)  # type: ignore[arg-type]


COMMANDS = ("build", "build --overwrite", "join", "join --overwrite", "copy", "copy --overwrite")
IN_SHORT = ("build", "join --overwrite")


@pytest.fixture(params=COMMANDS)
def killable(
    request: pytest.FixtureRequest,
    google: tuple[GoogleServer, FaultProxy],
    gappy: Path,
    chosen: PackOptions,
    tmp_path: Path,
    campaign: Callable[[int, int], int],
) -> Killable:
    if campaign(0, 1) == 0 and request.param not in IN_SHORT:
        pytest.skip("takes half a minute: only with --campaign")
    out, (name, *overwrite) = f"gs://{BUCKET}/{tmp_path.name}/set", request.param.split()
    options = ["--split", "random", "--fractions", "0.5,0.2,0.3", "--samples-per-shard", "2", "--workers", "1"]
    if overwrite:
        from msgspec.structs import replace

        build(gappy, out, replace(chosen, seed=5, samples_per_shard=1), workers=1)
    if name == "join":
        build_task(gappy, out, chosen, number=TaskNumber(task=0, tasks=1, origin=""), workers=1, overwrite=True)
    if name == "copy":
        build(gappy, tmp_path / "set", chosen, workers=1)
    places = {"build": [str(gappy), out, *options], "join": [out], "copy": [str(tmp_path / "set"), out]}
    return Killable(google[0], out, (name, *places[name], *overwrite), dict(google[0].objects))


@pytest.mark.faults
def test_killed_at_any_change(
    killable: Killable, expected: dict[str, bytes], campaign: Callable[[int, int], int], tmp_path: Path
) -> None:
    old, manifests = _set_at(killable.out), set()
    changes = campaign(0, 1) and killable.run()
    for step in range(campaign(16, 0), changes or 17):
        killable.reset()
        killable.run(step)
        found = _set_at(killable.out)
        try:
            ShardSet.open(killable.out, cache=tmp_path / "cache")
        except FormatError:
            manifests.add("none")
        else:
            assert found in (old, expected) or found.items() >= expected.items(), step
            manifests.add("old" if found == old else "new")
        killable.run()
        assert stored(killable.out) == expected, step
    assert manifests
    assert not changes or (changes >= 20 and manifests == {"none", "new"} | ({"old"} if old else set()))


def _set_at(address: str) -> dict[str, bytes]:
    return {name: data for name, data in stored(address).items() if not name.startswith(".work/")}


@pytest.mark.faults
@pytest.mark.parametrize("killable", ["join", "join --overwrite"], indirect=True)
def test_several_joins_of_which_one_is_killed(
    killable: Killable, expected: dict[str, bytes], campaign: Callable[[int, int], int]
) -> None:
    for step in range(campaign(12, 0), campaign(13, 40)):
        killable.reset()
        processes = [killable.start(each) for each in (step, -1, -1)]
        outputs = [process.communicate(timeout=120) for process in processes]
        assert [process.returncode for process in processes[1:]] == [0, 0], outputs
        assert stored(killable.out) == expected, step
