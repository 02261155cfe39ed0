"""The bytes of samples, by offset, out of the tars.

Files are read with ``pread`` rather than through a memory map: when a file shrinks or a disk fails underneath, a read
returns an error that names the sample, where touching a mapped page would kill the process (SIGBUS).
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from shards.errors import SampleError
from shards.format import Rows
from shards.shardset import SplitReader, check_size

Bytes = npt.NDArray[np.uint8]

MAX_OPEN_FILES = 256  # far below the usual limit of 1024 a process


class MemberReader:
    """Reads members of a split's samples; opens each tar once and keeps the latest used ones open.

    Not safe for several threads: each loader has one, used by its reading thread alone.
    """

    def __init__(self, split: SplitReader) -> None:
        self.split = split
        self._files: OrderedDict[int, int] = OrderedDict()

    def read(self, indices: Sequence[int] | npt.NDArray[np.integer], rows: Rows, role: str) -> list[Bytes]:
        """Return the bytes of one member of each sample.

        Args:
            indices: of the samples, for messages.
            rows: their records, the same length.
            role: ``image`` or ``trimap``.

        Raises:
            SampleError: a member cannot be read in full.
            FormatError: a tar is missing or has another size than the manifest says.
        """
        offsets, lengths = rows[f"{role}_offset"].tolist(), rows[f"{role}_length"].tolist()
        shards = rows["shard"].tolist()
        return [
            self._read_one(int(index), shard, offset, length, role)
            for index, shard, offset, length in zip(indices, shards, offsets, lengths, strict=True)
        ]

    def close(self) -> None:
        """Close all files; a later read opens them again."""
        while self._files:
            os.close(self._files.popitem()[1])

    def __getstate__(self) -> dict[str, Any]:
        return {"split": self.split, "_files": OrderedDict()}

    def _read_one(self, index: int, shard: int, offset: int, length: int, role: str) -> Bytes:
        try:
            data = os.pread(self._file(shard), length, offset)
        except OSError as error:
            raise SampleError(f"{self.split.place(index, role)}: cannot be read: {error.strerror}") from None
        if len(data) != length:
            raise SampleError(
                f"{self.split.place(index, role)}: the tar ends after {len(data)} of {length} bytes; "
                "run petseg-shard verify"
            )
        return np.frombuffer(data, dtype=np.uint8)

    def _file(self, shard: int) -> int:
        file = self._files.get(shard)
        if file is None:
            check_size(self.split.folder, self.split.entry.shards[shard])
            file = os.open(self.split.shard_path(shard), os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
            if len(self._files) >= MAX_OPEN_FILES:
                os.close(self._files.popitem(last=False)[1])
            self._files[shard] = file
        else:
            self._files.move_to_end(shard)
        return file
