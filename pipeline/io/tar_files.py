"""Open tars of a split, and which of their samples have been verified.

Files are read with ``pread`` rather than through a memory map: when a file shrinks or a disk fails underneath, a read
returns an error that names the sample, where touching a mapped page would kill the process (SIGBUS). Only a worker
process, which is there to be lost, maps tars (of images that are stored at one size), and uses of them only what it has
read and verified before.
"""

import contextlib
import mmap
import os
from collections.abc import Iterator, Sequence
from threading import Lock, local
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt

from pipeline.io.scratch import Bytes
from shards.errors import FormatError
from shards.format.dataset import SplitReader
from shards.format.layout import Rows
from shards.format.readers.set_files import check_size
from shards.store.byte_ranges import SHORTAGES, ByteRanges, OpenFiles, check_shortage, share_of_files

Indices = npt.NDArray[np.int64]

MAX_OPEN_FILES = 256  # well below the usual limit of 1024 per process
MEMORY_SHARE = 2  # all tars fit into the page cache if they take at most this part (1 / 2) of the machine's memory


class VerifiedSamples:
    """Which of ``count`` samples match their checksums: a bit for each. Thread-safe."""

    def __init__(self, count: int) -> None:
        self._bits = np.zeros(-(-count // 8), dtype=np.uint8)
        self._lock = Lock()

    def __getitem__(self, indices: Indices) -> npt.NDArray[np.bool_]:
        return np.asarray(self._bits[indices >> 3] & _bit(indices), dtype=bool)

    def add(self, indices: Indices) -> None:
        """Add samples, (B,)."""
        with self._lock:
            np.bitwise_or.at(self._bits, indices >> 3, _bit(indices))

    def remove(self, indices: Indices) -> None:
        """Remove samples, (B,)."""
        with self._lock:
            np.bitwise_and.at(self._bits, indices >> 3, ~_bit(indices))

    def remove_range(self, first: int, end: int) -> None:
        """Remove samples ``first`` to ``end``, and a few beside them: they are verified again, which loses nothing."""
        with self._lock:
            self._bits[first >> 3 : -(-end >> 3)] = 0


class TarFiles:
    """Opens each tar once and keeps the most recently used ones open. Thread-safe.

    Of a set in an object store, what is read must be announced by :meth:`need`, which fetches it into the cache.

    A sample's checksum is verified the first time that it is read, and again after its tar, or its file in the cache,
    has changed (another inode, size or modification time). Verifying every time would cost more than everything else
    for ``raw`` storage. Files in the cache also change when samples are added, which is while samples are fetched.
    """

    def __init__(self, split: SplitReader, *, expendable: bool = False) -> None:
        self._split = split
        self.remote = split.remote  # None for a local set; first, since both tables come with one wait
        self._maps: WeakKeyDictionary[ByteRanges, Bytes] = WeakKeyDictionary()
        # Of what is not in memory, a map would read page by page, where many reads can be under way at a time.
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        self.fit_memory = MEMORY_SHARE * int(split.shards.bytes.sum()) <= memory
        self._may_map = expendable and self.remote is None and self.fit_memory
        self.most_open = max(2, share_of_files(MAX_OPEN_FILES) // (2 if self._may_map else 1))  # a map has one, too
        self._files = OpenFiles(self.most_open)
        self._stamps: dict[int, tuple[int, ...]] = {}
        self._verified = VerifiedSamples(len(split))
        self._lock = Lock()
        self._held = local()  # .files: the calling thread's tars of the cache, which are not removed meanwhile
        self.generation = 0  # how often tars were found to have changed

    def open(self, shard: int) -> ByteRanges:
        """Return an open tar, to be held as long as its descriptor is used.

        Raises ``FormatError`` if it is missing or its size is not the manifest's, ``OSError`` if it cannot be opened,
        ``PetsegError`` if that is for lack of descriptors or memory.
        """
        if self.remote is not None:
            return self._held_file(shard)
        file = self._files.get(shard)
        if file is not None:
            return file
        check_size(self._split.folder, self._split.shards[shard])
        file = self._open_tar(shard)  # not under the lock: other threads go on meanwhile
        self._compare(shard, file.status)
        self._files.keep(shard, file)  # from here on other threads find it
        return file

    def _compare(self, shard: int, status: os.stat_result) -> None:
        """Have the samples of a tar verified again if it is not what it was."""
        stamp = _stamp(status)
        with self._lock:
            if self._stamps.setdefault(shard, stamp) != stamp:
                self._stamps[shard] = stamp
                self.generation += 1
                first, end = self._split.starts[shard : shard + 2].tolist()
                self._verified.remove_range(first, end)

    def _open_tar(self, shard: int) -> ByteRanges:
        path = self._split.shard_path(shard)
        try:
            return ByteRanges(path)
        except OSError as error:
            if error.errno not in SHORTAGES:
                raise
        self._files.drop(self._files.numbers())  # those that nobody reads are closed
        try:
            return ByteRanges(path)
        except OSError as error:
            check_shortage(error)
            raise

    def read(self, shard: int, start: int, buffers: Sequence[bytearray | memoryview]) -> str | None:
        """Fill buffers one after the other with the bytes of a tar from ``start`` on; return what is wrong."""
        total = sum(map(len, buffers))
        try:
            tar = self.open(shard)
            if not 0 <= start <= len(tar) - total:
                return f"the tar ends at byte {len(tar)}, before byte {start + total}"
            count = os.preadv(tar.descriptor, buffers, start)
        except FormatError as error:
            return str(error)
        except OSError as error:
            check_shortage(error)
            return f"cannot be read: {error.strerror}"
        return None if count == total else f"the tar ends after {count} of {total} bytes"

    def mapped(self, indices: Indices, rows: Rows) -> dict[int, Bytes] | None:
        """Return the bytes of the tars of samples, by number, mapped, not read; None if tars may not be mapped here, or
        one cannot be opened, or is of a sample that was not verified.

        Touching them kills the process if the file was truncated since it was opened, or its disk fails.
        """
        if not self._may_map:
            return None
        try:
            tars = {shard: self._map(self.open(shard)) for shard in set(rows["shard"].tolist())}
        except (FormatError, OSError):
            return None
        return tars if self.verified(indices, rows).all() else None

    def _map(self, file: ByteRanges) -> Bytes:
        found = self._maps.get(file)
        if found is None:
            found = np.frombuffer(mmap.mmap(file.descriptor, len(file), prot=mmap.PROT_READ), dtype=np.uint8)
            self._maps[file] = found
        return found

    def need(self, indices: Indices, rows: Rows) -> None:
        """Have the bytes of samples in local tars, for the calling thread, until it calls this again.

        Raises ``StoreError`` where an object store cannot be reached: no sample is damaged then.
        """
        if self.remote is None:
            return
        wanted, shards = indices.tolist(), rows["shard"].tolist()
        self._held.files, self._held.later = {}, {}
        if len(set(shards)) <= self.most_open // 2:
            self._held.files = self._hold(shards, wanted)
        else:  # too many to be open at once: :meth:`open` holds one at a time
            for start in range(0, len(wanted), self.most_open // 2):
                part = slice(start, start + self.most_open // 2)
                self._hold(shards[part], wanted[part])
            for shard, index in zip(shards, wanted, strict=True):
                self._held.later.setdefault(shard, []).append(index)
        if self.remote.damaged:
            bad = [index for index in wanted if index in self.remote.damaged]
            self._verified.remove(np.array(bad, dtype=np.int64))  # so that it is found out by whoever reads them

    @contextlib.contextmanager
    def needed(self, indices: Indices, rows: Rows) -> Iterator[None]:
        """Like :meth:`need`, within the block; afterwards the calling thread has what it had before."""
        before = {**self._held.__dict__}
        self.need(indices, rows)
        try:
            yield
        finally:
            self._held.__dict__.update(before)

    def fetch_again(self, indices: Indices, rows: Rows) -> bool:
        """Fetch samples again whose bytes in the cache are damaged; return whether there is a cache."""
        if self.remote is None:
            return False
        self._held.files, self._held.later = {}, {}
        self.remote.forget(rows["shard"].tolist(), indices.tolist())
        return True

    def _hold(self, shards: Sequence[int], indices: Sequence[int]) -> dict[int, ByteRanges]:
        assert self.remote is not None
        held: dict[int, ByteRanges] = {**self.remote.hold(shards, indices)}
        for shard, file in held.items():
            self._compare(shard, os.fstat(file.descriptor))
        return held

    def _held_file(self, shard: int) -> ByteRanges:
        held: dict[int, ByteRanges] = self._held.__dict__.get("files", {})
        if shard not in held and (later := self._held.__dict__.get("later", {}).get(shard)):
            held = self._held.files = self._hold([shard] * len(later), later)
        if shard not in held:
            raise FormatError(f"{self._split.describe_shard(shard)}: its bytes do not match their checksums")
        return held[shard]

    def watch(self, rows: Rows) -> None:
        """Open the tars of samples, so that :meth:`drop_changed` notices when they change."""
        if self.remote is not None:
            return
        for shard in set(rows["shard"].tolist()).difference(self._files.numbers()):
            with contextlib.suppress(FormatError, OSError):  # reported by the read that follows
                self.open(shard)

    def drop_changed(self) -> bool:
        """Close tars that have changed since they were opened, to verify their samples again; return whether any."""
        opened = [(shard, self._stamps[shard]) for shard in self._files.numbers()]
        changed = [shard for shard, stamp in opened if self._stamp_now(shard) not in (stamp, None)]
        self._files.drop(changed)
        with self._lock:
            self.generation += bool(changed)
        return bool(changed)

    def verified(self, indices: Indices, rows: Rows) -> npt.NDArray[np.bool_]:
        """Return which samples have been compared with their checksums; bool, the shape of ``indices``.

        Their tars are opened first: one that turns out to have changed has not been compared.
        """
        self.watch(rows)
        return self._verified[indices]

    def mark_verified(self, indices: Indices) -> None:
        """Record that these samples match their checksums."""
        self._verified.add(indices)

    def close(self) -> None:
        """Close all files; a later read opens them again."""
        if self.remote is not None:
            self.remote.stop()
            self.remote.close()
            self._held = local()
        self._files.drop(self._files.numbers())

    def _stamp_now(self, shard: int) -> tuple[int, ...] | None:
        """Return a tar's present stamp; None if it is deleted: the open file still holds all bytes."""
        try:
            return _stamp(self._split.shard_path(shard).stat())
        except OSError:
            return None


def _bit(indices: Indices) -> npt.NDArray[np.uint8]:
    return np.asarray(np.left_shift(1, indices & 7), dtype=np.uint8)


def _stamp(stat: os.stat_result) -> tuple[int, ...]:
    return stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns
