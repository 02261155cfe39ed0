"""Building one shard into the parts of a set, on whatever machine, and marking it as finished."""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from shards.build.engines.shard_maker import never, one
from shards.build.plan import ShardTask
from shards.build.write_shard import ShardRecord, build_shard, record_name
from shards.store.owner_files import scratch_folder
from shards.store.store_protocol import ObjectExistsError, Store


@dataclass(frozen=True)
class IntoParts:
    """Builds shards into a folder of a store; see :class:`shards.build.engines.shard_maker.ShardMaker`.

    A shard of an object store is built in a temporary folder first (``TMPDIR``), uploaded and removed there, so that a
    worker needs the space of one shard. Its record is written last, and only if there is none yet.
    """

    store: Store
    folder: str  # with ``/`` at its end

    def __call__(
        self, task: ShardTask, *, pause: Callable[[], None] = never, threads: Callable[[], int] = one
    ) -> ShardRecord:
        """Build a shard; raises ``StoreError`` and ``OSError`` where it cannot be written."""
        local = self.store.local_path(self.folder)
        if local is not None:
            return build_shard(task, str(local), pause=pause, threads=threads, sync=True)
        with scratch_folder("shard") as scratch:
            record = build_shard(task, str(scratch), pause=pause, threads=threads)
            for entry in (record.tar, record.index):
                pause()
                self.store.put(self.folder + entry.file, scratch / entry.file)
        with contextlib.suppress(ObjectExistsError):  # of the same task, run twice
            name = self.folder + record_name(task.split, task.number)
            self.store.put(name, msgspec.msgpack.encode(record), if_absent=True)
        return record
