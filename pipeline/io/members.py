"""The bytes of samples, by offset, out of the tars.

Files are read with ``pread`` rather than through a memory map: when a file shrinks or a disk fails underneath, a read
returns an error that names the sample, where touching a mapped page would kill the process (SIGBUS).

The first time that a sample is read, its bytes are compared with the checksum in the set's table; again after its tar
has been changed (another inode, size or time of change, looked at once an epoch). Checking every time would cost
more than everything else for ``raw`` storage.
"""

from __future__ import annotations

import contextlib
import os
import weakref
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import numpy.typing as npt
from zlib_ng import zlib_ng

from pipeline.damage import DamagedSamples
from pipeline.io.ring import ring_of_thread
from pipeline.runtime.buffers import Scratch
from shards.errors import FormatError, PetsegError, SampleError
from shards.format.dataset import SplitReader, check_size
from shards.format.layout import MEMBERS, TAR_BLOCK, Rows, key_hash

Bytes = npt.NDArray[np.uint8]

NAME_BYTES = 100  # the name field of a tar header
MAX_OPEN_FILES = 256  # far below the usual limit of 1024 a process


class OpenTar:
    """An open file, closed when nobody holds it any more: a thread that still reads keeps it open."""

    def __init__(self, path: Path) -> None:
        self.descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        weakref.finalize(self, os.close, self.descriptor).atexit = False


class MemberReader:
    """Reads members of a split's samples; opens each tar once and keeps the latest used ones open.

    Everything here may be called by several threads at once.

    Attributes:
        generation: how often tars were found to be changed.
    """

    def __init__(self, split: SplitReader) -> None:
        self.split = split
        self._files: OrderedDict[int, OpenTar] = OrderedDict()
        self._stamps: dict[int, tuple[int, ...]] = {}
        self._checked = np.zeros(len(split), dtype=bool)
        self._lock = Lock()
        self.generation = 0

    def encoded(
        self, indices: npt.NDArray[np.int64], rows: Rows, *, scratch: Scratch | None = None
    ) -> tuple[list[Bytes], list[Bytes]]:
        """Return the encoded pictures and trimaps of samples.

        Args:
            indices: of the samples.
            rows: their records.
            scratch: where the bytes may be put: they are valid until the same thread's next call; None: memory of
                their own.

        Raises:
            DamagedSamples: some cannot be read in full, are empty, or do not fit their checksums.
        """
        members = self._at_once(rows, scratch)
        if members is not None and self._fit_checksums(indices, rows, members):
            return members[: len(rows)], members[len(rows) :]
        return self._one_by_one(indices, rows)  # which says what is wrong, and where

    def _fit_checksums(self, indices: npt.NDArray[np.int64], rows: Rows, members: list[Bytes]) -> bool:
        """Compare the pictures, then the trimaps, of samples with their checksums, where that was not done before."""
        checked = self._checked[indices]
        if not checked.all():
            expected = np.concatenate([rows["image_crc32"], rows["trimap_crc32"]]).tolist()
            for place in np.flatnonzero(~np.tile(checked, 2)).tolist():
                if zlib_ng.crc32(members[place].data) != expected[place]:
                    return False
            self._checked[indices] = True
        return True

    def _at_once(self, rows: Rows, scratch: Scratch | None) -> list[Bytes] | None:
        """Return all pictures, then all trimaps, read in one call; None if that does not work for any reason."""
        lengths = np.concatenate([rows["image_length"], rows["trimap_length"]]).astype(np.int64)
        if not lengths.all():
            return None
        ends = np.cumsum(lengths)
        total = int(ends[-1])
        memory = np.empty(total, dtype=np.uint8) if scratch is None else scratch.take("encoded", (total,))
        offsets = np.concatenate([rows["image_offset"], rows["trimap_offset"]])
        starts = ends - lengths
        if not self.read_at_once(np.tile(rows["shard"], 2), offsets, memory.ctypes.data + starts, lengths):
            return None
        return [memory[start:end] for start, end in zip(starts.tolist(), ends.tolist(), strict=True)]

    def read_at_once(
        self,
        shards: npt.NDArray[Any],
        offsets: npt.NDArray[Any],
        addresses: npt.NDArray[Any],
        lengths: npt.NDArray[np.int64],
    ) -> bool:
        """Read N pieces of tars into memory in one call, where the system can.

        Args:
            shards: numbers of the tars, (N,).
            offsets: of the pieces, bytes, (N,).
            addresses: where each goes, in memory that the caller holds, (N,).
            lengths: in bytes, more than 0, (N,).

        Returns:
            Whether every piece was read in full. If not, nothing is known of any; reading one by one will tell.
        """
        ring = ring_of_thread()
        if ring is None:
            return False
        try:
            files = {shard: self.file(shard) for shard in set(shards.tolist())}
            descriptors = np.array([files[shard].descriptor for shard in shards.tolist()])
            return bool((ring.read(descriptors, offsets, addresses, lengths) == lengths).all())
        except (FormatError, OSError):
            return False

    def _one_by_one(self, indices: npt.NDArray[np.int64], rows: Rows) -> tuple[list[Bytes], list[Bytes]]:
        """Read member after member, comparing with checksums what was not compared before."""
        columns = [
            rows[f"{role}_{what}"].tolist() for role in ("image", "trimap") for what in ("offset", "length", "crc32")
        ]
        images: list[Bytes] = []
        trimaps: list[Bytes] = []
        damaged: dict[int, str] = {}
        numbers, known = indices.tolist(), self.checked(indices, rows).tolist()
        for place, (shard, *spans) in enumerate(zip(rows["shard"].tolist(), *columns, strict=True)):
            checked = known[place]
            for role, span, members in (("image", spans[:3], images), ("trimap", spans[3:], trimaps)):
                data, problem = self._member(shard, *span, checked=checked)
                members.append(np.frombuffer(data, dtype=np.uint8))
                if problem:
                    damaged.setdefault(place, self.told(numbers[place], role, problem))
        if damaged:
            raise DamagedSamples(damaged)
        self._checked[indices] = True
        return images, trimaps

    def file(self, shard: int) -> OpenTar:
        """Return an open tar, to be held as long as its descriptor is used.

        Raises:
            FormatError: it is missing or has another size than the manifest says.
            OSError: it cannot be opened.
        """
        with self._lock:
            file = self._files.get(shard)
            if file is None:
                check_size(self.split.folder, self.split.entry.shards[shard])
                file = OpenTar(self.split.shard_path(shard))
                self._files[shard] = file
                self._note_stamp(shard, os.fstat(file.descriptor))
            else:
                self._files.move_to_end(shard)
            return file

    def trim(self) -> None:
        """Close the files that were not used for longest, down to the limit."""
        with self._lock:
            while len(self._files) > MAX_OPEN_FILES:
                self._files.popitem(last=False)

    def key(self, index: int) -> str:
        """Return the key of a sample, read from the tar header before its picture.

        Unlike :meth:`shards.format.dataset.SplitReader.key` this does not touch a memory map.

        Raises:
            SampleError: no header of a fitting name stands there, or it cannot be read.
            FormatError: the tar is missing or has another size than the manifest says.
        """
        row = self.split.rows([index])[0]
        start = int(row["image_offset"]) - TAR_BLOCK
        try:
            tar = self.file(int(row["shard"]))
            name = read_at(tar.descriptor, NAME_BYTES, start).split(b"\0", 1)[0]
        except OSError as error:
            raise SampleError(f"sample {index}: its tar header cannot be read: {error.strerror}") from None
        ending = b"." + dict(MEMBERS[self.split.manifest.storage])["image"].encode()
        key = name.removesuffix(ending).decode("ascii", "replace")
        if not name.endswith(ending) or key_hash(key) != int(row["key_hash"]):
            path = self.split.shard_path(int(row["shard"]))
            raise SampleError(f"{path}: byte {start}: the tar header of sample {index} is damaged (name {name!r})")
        return key

    def place(self, index: int, role: str) -> str:
        """Return where a member stands, for messages: shard, key, member and byte offset."""
        row = self.split.table[index]
        try:
            key = self.key(index)
        except PetsegError:
            key = "?"
        extension = dict(MEMBERS[self.split.manifest.storage])[role]
        path, offset = self.split.shard_path(int(row["shard"])), int(row[f"{role}_offset"])
        return f"{path}: {key}.{extension} (sample {index} of {self.split.name}, byte {offset})"

    def told(self, index: int, role: str, problem: str) -> str:
        """Return what is told of a damaged sample: where it stands, and what is wrong."""
        return f"{self.place(index, role)}: {problem}"

    def checked(self, indices: npt.NDArray[np.int64], rows: Rows) -> npt.NDArray[np.bool_]:
        """Return which samples have been compared with their checksums; bool, the shape of ``indices``.

        Their tars are opened first: one that turns out to be another than before has not been compared.
        """
        self.watch(rows)
        return self._checked[indices]

    def mark_checked(self, indices: npt.NDArray[np.int64]) -> None:
        """Note that these samples fit their checksums."""
        self._checked[indices] = True

    def drop_changed(self) -> bool:
        """Close tars that were changed or replaced since they were opened, so that their samples are checked again.

        Returns:
            Whether there were any.
        """
        with self._lock:
            opened = [(shard, self._stamps[shard]) for shard in self._files]
        changed = [shard for shard, stamp in opened if self._stamp_now(shard) not in (stamp, None)]
        with self._lock:
            for shard in changed:
                self._files.pop(shard, None)
            self.generation += bool(changed)
        return bool(changed)

    def watch(self, rows: Rows) -> None:
        """Open the tars of samples, so that :meth:`drop_changed` sees it when they change."""
        for shard in set(rows["shard"].tolist()):
            if shard not in self._files:
                with contextlib.suppress(FormatError, OSError):  # who reads will say so, and of which sample
                    self.file(shard)

    def close(self) -> None:
        """Close all files; a later read opens them again."""
        with self._lock:
            self._files.clear()

    def _stamp_now(self, shard: int) -> tuple[int, ...] | None:
        """Return what a tar looks like now; None if it is deleted: the open file still holds all bytes."""
        try:
            return _stamp(self.split.shard_path(shard).stat())
        except OSError:
            return None

    def _note_stamp(self, shard: int, stat: os.stat_result) -> None:
        stamp = _stamp(stat)
        if self._stamps.setdefault(shard, stamp) != stamp:
            self._stamps[shard] = stamp
            self.generation += 1
            self._checked[np.asarray(self.split.table["shard"]) == shard] = False

    def _member(self, shard: int, offset: int, length: int, crc32: int, *, checked: bool) -> tuple[bytes, str | None]:
        """Return a member's bytes and what is wrong with them, if anything is."""
        try:
            tar = self.file(shard)
            data = read_at(tar.descriptor, length, offset)
        except FormatError as error:
            return b"", str(error)
        except OSError as error:
            return b"", f"cannot be read: {error.strerror}"
        if len(data) != length:
            return data, f"the tar ends after {len(data)} of {length} bytes"
        if not length:
            return data, "the member is empty"
        if not checked and zlib_ng.crc32(data) != crc32:
            return data, "the bytes do not fit their checksum"
        return data, None


def read_at(file: int, length: int, offset: int) -> bytes:
    """Return up to ``length`` bytes of an open file from ``offset`` on; fewer at its end."""
    if hasattr(os, "pread"):
        return os.pread(file, length, offset)
    with _SEEKING:  # Windows has no pread: the file's one position is shared
        os.lseek(file, offset, os.SEEK_SET)
        return os.read(file, length)


def _read_and_copy(file: int, parts: Sequence[bytearray | memoryview], offset: int) -> int:
    data = read_at(file, sum(len(part) for part in parts), offset)
    start = 0
    for part in parts:
        piece = data[start : start + len(part)]
        part[: len(piece)] = piece
        start += len(part)
    return len(data)


# Fills writable buffers one after the other from an offset on; returns how many bytes there were.
read_into: Callable[[int, Sequence[bytearray | memoryview], int], int] = getattr(os, "preadv", _read_and_copy)

_SEEKING = Lock()


def _stamp(stat: os.stat_result) -> tuple[int, ...]:
    return stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns
