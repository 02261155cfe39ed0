"""The encoded bytes of samples, and their names."""

import contextlib
import json
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from zlib_ng import zlib_ng

from pipeline.io.abandoned import check_wanted
from pipeline.io.damage import DamagedSamples
from pipeline.io.io_uring import thread_ring
from pipeline.io.scratch import Bytes, Scratch
from pipeline.io.tar_files import TarFiles
from shards.errors import FormatError, PetsegError, SampleError, UsageError
from shards.format.dataset import SplitReader
from shards.format.layout import Rows, extensions_of, member_span
from shards.format.tar import OtherTarError, sample_key

_T = TypeVar("_T")


class MemberReader:
    """Reads members of a split's samples. Thread-safe.

    In an ``expendable`` process, tars that were verified may be mapped: see :class:`pipeline.io.tar_files.TarFiles`.
    """

    def __init__(self, split: SplitReader, *, expendable: bool = False) -> None:
        self.split = split
        self.files = TarFiles(split, expendable=expendable)
        self._sizes = split.shards.bytes

    def encoded(
        self, indices: npt.NDArray[np.int64], rows: Rows, *, scratch: Scratch | None = None
    ) -> tuple[list[Bytes], list[Bytes]]:
        """Return the encoded images and masks of samples; with ``scratch``, valid until the thread's next call.

        Where tars may be mapped, those of samples that were verified are not read at all.

        Raises ``DamagedSamples`` for those that cannot be read in full, are empty, or do not match their checksums.
        """
        self.files.need(indices, rows)
        if (tars := self.files.mapped(indices, rows)) is not None:
            return _mapped_members(rows, "image", tars), _mapped_members(rows, "mask", tars)
        members = self._read_together(rows, scratch)
        if members is not None and self._verify(indices, rows, members):
            return members[: len(rows)], members[len(rows) :]
        # Which finds out what is wrong, and where.
        return self.repeated(lambda: self._read_one_by_one(indices, rows), indices, rows)

    def repeated(self, read: Callable[[], _T], indices: npt.NDArray[np.int64], rows: Rows) -> _T:
        """Return what ``read`` reads of samples, after another fetch where some are damaged in the cache."""
        try:
            return read()
        except DamagedSamples as error:
            bad = np.array(sorted(error.reasons))
            if not self.files.fetch_again(indices[bad], rows[bad]):
                raise
        self.files.need(indices, rows)
        return read()

    def read_together(
        self,
        shards: npt.NDArray[Any],  # numbers of the tars
        offsets: npt.NDArray[Any],  # in the tars, bytes
        addresses: npt.NDArray[Any],  # where each piece goes, in memory that the caller holds
        lengths: npt.NDArray[np.int64],  # bytes, more than 0
    ) -> bool:
        """Read N pieces of tars in one system call, where io_uring is available; return whether all were read in full.

        The arrays have the shape (N,).
        """
        ring, numbers = thread_ring(), set(shards.tolist())
        if ring is None or len(numbers) > self.files.most_open:  # all of them are open at once
            return False
        try:
            files = {shard: self.files.open(shard) for shard in numbers}
            descriptors = np.array([files[shard].descriptor for shard in shards.tolist()])
            return bool((ring.read(descriptors, offsets, addresses, lengths) == lengths).all())
        except (FormatError, OSError):
            return False

    def key(self, index: int) -> str:
        """Return the key of a sample, read from the tar header before its image.

        Raises ``SampleError`` if there is no header of a matching name or it cannot be read, ``FormatError`` as
        :meth:`TarFiles.open` does.
        """
        row = self._row(index)
        shard = int(row["shard"])
        with self.files.needed(np.array([index]), row.reshape(1)):
            try:
                tar = self.files.open(shard)
            except OSError as error:
                raise SampleError(f"sample {index}: its tar header cannot be read: {error.strerror}") from None
            return sample_key(tar, row, path=self.split.describe_shard(shard), index=index)

    def name(self, index: int) -> str:
        """Return the original name of a sample, as its ``KEY.json`` has it.

        Raises ``SampleError`` if the member is damaged.
        """
        row = self._row(index)
        place = int(row["shard"]), *member_span(row, "meta"), int(row["meta_crc32"])
        with self.files.needed(np.array([index]), row.reshape(1)):
            data, problem = self._member(*place, verified=False)
        if problem is None:
            with contextlib.suppress(ValueError, RecursionError, KeyError, TypeError):
                return str(json.loads(data.tobytes())["name"])
        raise SampleError(self.describe(index, "meta", problem or "names no sample"))

    def describe(self, index: int, role: str, problem: str) -> str:
        """Return a message about a member: shard, key, member and byte offset, then the problem."""
        row = self.split.table[index]
        try:
            key = self.key(index)
        except OtherTarError as error:  # says more than that checksums do not match
            return str(error)
        except PetsegError:
            key = "?"
        extension = extensions_of(row).get(role, role)
        path, offset = self.split.describe_shard(int(row["shard"])), int(row[f"{role}_offset"])
        return f"{path}: {key}.{extension} (sample {index} of {self.split.name}, byte {offset}): {problem}"

    def _row(self, index: int) -> Any:
        """Return the record of a sample; raise ``UsageError`` for an index out of range."""
        if not 0 <= index < len(self.split):
            raise UsageError(f"sample {index} is outside 0..{len(self.split) - 1} of split {self.split.name!r}")
        return self.split.rows([index])[0]

    def _read_together(self, rows: Rows, scratch: Scratch | None) -> list[Bytes] | None:
        """Return all images, then all masks; None if that does not work for any reason."""
        lengths = np.concatenate([rows["image_length"], rows["mask_length"]]).astype(np.int64)
        if not lengths.all():
            return None
        shards = np.tile(rows["shard"], 2)
        if (lengths > self._sizes[shards]).any():  # before so much memory is taken
            return None
        ends = np.cumsum(lengths)
        total = int(ends[-1])
        memory = np.empty(total, dtype=np.uint8) if scratch is None else scratch.take("encoded", (total,))
        offsets = np.concatenate([rows["image_offset"], rows["mask_offset"]])
        starts = ends - lengths
        if not self.read_together(shards, offsets, memory.ctypes.data + starts, lengths):
            return None
        return [memory[start:end] for start, end in zip(starts.tolist(), ends.tolist(), strict=True)]

    def _verify(self, indices: npt.NDArray[np.int64], rows: Rows, members: list[Bytes]) -> bool:
        """Compare images, then masks, with their checksums, where that was not done before."""
        verified = self.files.verified(indices, rows)
        if not verified.all():
            expected = np.concatenate([rows["image_crc32"], rows["mask_crc32"]]).tolist()
            for position in np.flatnonzero(~np.tile(verified, 2)).tolist():
                check_wanted()
                if zlib_ng.crc32(members[position].data) != expected[position]:
                    return False
            self.files.mark_verified(indices)
        return True

    def _read_one_by_one(self, indices: npt.NDArray[np.int64], rows: Rows) -> tuple[list[Bytes], list[Bytes]]:
        members: dict[str, list[Bytes]] = {"image": [], "mask": []}
        fields = [rows[f"{role}_{name}"].tolist() for role in members for name in ("offset", "length", "crc32")]
        verified = self.files.verified(indices, rows).tolist()
        damaged: dict[int, str] = {}
        for position, (shard, *spans) in enumerate(zip(rows["shard"].tolist(), *fields, strict=True)):
            check_wanted()
            for (role, found), span in zip(members.items(), (spans[:3], spans[3:]), strict=True):
                data, problem = self._member(shard, *span, verified=verified[position])
                found.append(data)
                if problem:
                    damaged.setdefault(position, self.describe(int(indices[position]), role, problem))
        if damaged:
            raise DamagedSamples(damaged)
        self.files.mark_verified(indices)
        return members["image"], members["mask"]

    def _member(self, shard: int, offset: int, length: int, crc32: int, *, verified: bool) -> tuple[Bytes, str | None]:
        """Return a member's bytes and what is wrong with them, if anything is."""
        size = int(self._sizes[shard])
        if offset + length > size:  # before so much memory is taken
            return np.empty(0, dtype=np.uint8), f"its record points to byte {offset + length} of a tar of {size}"
        data = np.empty(length, dtype=np.uint8)
        problem = self.files.read(shard, offset, [data.data])
        if problem is None and not length:
            problem = "the member is empty"
        if problem is None and not verified and zlib_ng.crc32(data.data) != crc32:
            problem = "the bytes do not match their checksum"
        return data, problem


def _mapped_members(rows: Rows, role: str, tars: dict[int, Bytes]) -> list[Bytes]:
    starts = rows[f"{role}_offset"]
    spans = zip(rows["shard"].tolist(), starts.tolist(), (starts + rows[f"{role}_length"]).tolist(), strict=True)
    return [tars[shard][start:end] for shard, start, end in spans]
