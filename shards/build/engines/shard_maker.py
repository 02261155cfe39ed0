"""What builds one shard, wherever it is run: into a folder, or on a worker of a cluster."""

import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from shards.build.outcome.library_versions import library_versions, which_differ
from shards.build.plan import ShardTask
from shards.build.write_shard import ShardRecord, build_shard
from shards.errors import PetsegError, SourceError


def never() -> None:
    """Pause for nothing."""


def one() -> int:
    """Use one thread."""
    return 1


class ShardMaker(Protocol):
    """Builds a shard somewhere and returns its record; can be pickled."""

    def __call__(
        self, task: ShardTask, *, pause: Callable[[], None] = never, threads: Callable[[], int] = one
    ) -> ShardRecord:
        """Build a shard; the arguments are those of :func:`shards.build.write_shard.build_shard`."""


@dataclass(frozen=True)
class IntoFolder:
    """Builds shards in a folder."""

    folder: str

    def __call__(
        self, task: ShardTask, *, pause: Callable[[], None] = never, threads: Callable[[], int] = one
    ) -> ShardRecord:
        """See :class:`ShardMaker`."""
        return build_shard(task, self.folder, pause=pause, threads=threads)


@dataclass(frozen=True)
class OnWorker:
    """Has a shard built by a cluster's worker, if it has the libraries that the bytes depend on in the same versions.

    Raises ``PetsegError`` where it has not, or where it does not see the folders; the message names the machine.
    """

    make: ShardMaker
    versions: dict[str, str]

    def __call__(
        self, task: ShardTask, *, pause: Callable[[], None] = never, threads: Callable[[], int] = one
    ) -> ShardRecord:
        """See :class:`ShardMaker`."""
        here = socket.gethostname()
        if other := which_differ(library_versions(), self.versions):
            raise PetsegError(
                f"the worker on {here} has {other}; the same bytes need the same versions: install them there"
            )
        try:
            return self.make(task, pause=pause, threads=threads)
        except FileNotFoundError as error:
            raise PetsegError(
                f"the worker on {here} does not see {error.filename}; give a source and an OUT that every worker sees "
                "under the same path, or addresses of an object store"
            ) from None
        except SourceError as error:
            raise SourceError(f"{error} (seen by the worker on {here})") from None
