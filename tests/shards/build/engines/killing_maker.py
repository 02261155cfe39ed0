"""A shard maker whose worker process is killed once, in the middle of a shard."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from shards.build.engines.shard_maker import IntoFolder, never, one
from shards.build.plan import ShardTask
from shards.build.write_shard import ShardRecord


@dataclass(frozen=True)
class KilledOnce:
    """Builds shards in a folder; the first process that has built half of ``victim`` kills itself."""

    folder: str
    marker: str  # a file that says that it has happened
    victim: int

    def __call__(
        self, task: ShardTask, *, pause: Callable[[], None] = never, threads: Callable[[], int] = one
    ) -> ShardRecord:
        paused = 0

        def kill() -> None:
            nonlocal paused
            paused += 1
            if paused == 2 and task.number == self.victim and not Path(self.marker).exists():
                Path(self.marker).write_text(str(os.getpid()))
                os.kill(os.getpid(), signal.SIGKILL)

        return IntoFolder(self.folder)(task, pause=kill, threads=threads)
