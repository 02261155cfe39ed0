"""Building one shard: a function of its task and of the files that the task names, run in any process."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import msgspec
import numpy as np
from zlib_ng import zlib_ng

from shards.audit.reasons import Note
from shards.build.encode import Stored
from shards.build.plan import PlannedSample, ShardTask
from shards.build.prepare import Prepared, prepared
from shards.format.keys import shown
from shards.format.layout import MEMBERS, SAMPLE_DTYPE, SPECIES, Rows, Split, index_name, key_hash, shard_name
from shards.format.tar import END, header, index_line, index_text, padding
from shards.sources.pets import Stamp
from shards.store.atomic import atomic_file

RECORD_ENDING = ".done"


class ShardRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What a build needs to know of a finished shard; its presence says that tar and index are whole.

    ``rows`` are the records of the table (shards.format.layout.SAMPLE_DTYPE) with shard number 0. ``stamps`` are those of
    the files that went in, to notice a source that changed before an interrupted build goes on.
    """

    split: Split
    number: int
    samples: int
    mended: int
    left_out: int
    tar_bytes: int
    sha256: str
    index_bytes: int
    index_sha256: str
    rows: bytes
    class_pixels: tuple[int, ...]
    breeds: dict[str, int]
    species: dict[str, int]
    largest: tuple[int, int]
    notes: tuple[Note, ...]
    stamps: tuple[tuple[Stamp, Stamp], ...]


def record_name(split: Split, number: int) -> str:
    """Return the file name of a finished shard's record."""
    return shard_name(split, number).removesuffix(".tar") + RECORD_ENDING


def build_shard(
    task: ShardTask,
    folder: str,
    *,
    pause: Callable[[], None] | None = None,
    threads: Callable[[], int] | None = None,
) -> ShardRecord:
    """Build a shard's tar, index and record in ``folder``, in this order, each whole or not at all.

    They are not flushed to the disk here, because a core that waits for the disk decodes nothing. The build does that
    meanwhile, before it publishes; and a build that goes on after a power cut compares finished shards with their
    records byte by byte.

    Args:
        task: what to pack.
        folder: where to.
        pause: called before every sample; may raise to stop the build.
        threads: how many to use, see :func:`shards.build.prepare.prepared`; None: only the caller's. The bytes are the same.

    Raises:
        SourceError: a file of the source vanished, cannot be read, or changed since the plan was made.
        OSError: the target cannot be written.
    """
    target = Path(folder)
    with atomic_file(target / shard_name(task.split, task.number), sync=False) as handle:
        writer = _Writer(handle=handle, task=task)
        with closing(prepared(task, threads=threads or _one)) as samples:
            for ready in samples:
                if pause is not None:
                    pause()
                writer.add(ready)
        writer.write(END)
    index = index_text(writer.index).encode("ascii")
    with atomic_file(target / index_name(task.split, task.number), sync=False) as handle:
        handle.write(index)
    record = writer.record(index)
    with atomic_file(target / record_name(task.split, task.number), sync=False) as handle:
        handle.write(msgspec.msgpack.encode(record))
    return record


@dataclass
class _Writer:
    """A tar in the making, with everything that is counted on the way."""

    handle: BinaryIO
    task: ShardTask
    position: int = 0
    mended: int = 0
    left_out: int = 0
    digest: hashlib._Hash = field(default_factory=hashlib.sha256)
    index: list[str] = field(default_factory=list)
    rows: list[Rows] = field(default_factory=list)
    class_pixels: np.ndarray[tuple[int], np.dtype[np.int64]] = field(default_factory=lambda: np.zeros(3, np.int64))
    breeds: Counter[str] = field(default_factory=Counter)
    species: Counter[str] = field(default_factory=Counter)
    largest: tuple[int, int] = (0, 0)
    notes: list[Note] = field(default_factory=list)

    def write(self, data: bytes) -> None:
        self.handle.write(data)
        self.digest.update(data)
        self.position += len(data)

    def add(self, ready: Prepared) -> None:
        """Append a sample, or note why it is left out."""
        name = shown(ready.sample.pair.name)
        for finding in ready.findings:
            note = Note(
                name=name, action=finding.action, reason=finding.reason, detail=finding.detail, split=self.task.split
            )
            self.notes.append(note)
        if ready.stored is None:
            self.left_out += 1
            return
        self.mended += any(finding.action == "mended" for finding in ready.findings)
        self._append(ready.sample, ready.stored, ready.meta, ready.width, ready.height)

    def _append(self, sample: PlannedSample, stored: Stored, meta: bytes, width: int, height: int) -> None:
        pair = sample.pair
        members: list[tuple[str, int, int]] = []
        row = np.zeros((), SAMPLE_DTYPE)
        contents = (stored.image, stored.trimap, meta)
        for (role, extension), content in zip(MEMBERS[self.task.storage], contents, strict=True):
            self.write(header(f"{sample.key}.{extension}", len(content)))
            members.append((extension, self.position, len(content)))
            row[f"{role}_offset"] = self.position
            row[f"{role}_length"] = len(content)
            row[f"{role}_crc32"] = zlib_ng.crc32(content)
            self.write(content)
            self.write(padding(len(content)))
        row["width"], row["height"] = width, height
        row["class_id"], row["species"] = pair.class_id, pair.species
        row["key_hash"] = key_hash(sample.key)
        self.index.append(index_line(sample.key, members))
        self.rows.append(row)
        self.class_pixels += stored.class_pixels
        self.breeds[pair.breed] += 1
        self.species[SPECIES[pair.species]] += 1
        self.largest = (max(self.largest[0], stored.width), max(self.largest[1], stored.height))

    def record(self, index: bytes) -> ShardRecord:
        """Return what the build needs to know, once the tar is complete."""
        task = self.task
        return ShardRecord(
            split=task.split,
            number=task.number,
            samples=len(self.rows),
            mended=self.mended,
            left_out=self.left_out,
            tar_bytes=self.position,
            sha256=self.digest.hexdigest(),
            index_bytes=len(index),
            index_sha256=hashlib.sha256(index).hexdigest(),
            rows=np.array(self.rows, SAMPLE_DTYPE).tobytes(),
            class_pixels=tuple(self.class_pixels.tolist()),
            breeds=dict(self.breeds),
            species=dict(self.species),
            largest=self.largest,
            notes=tuple(self.notes),
            stamps=tuple((sample.pair.image_stamp, sample.pair.trimap_stamp) for sample in task.samples),
        )


def _one() -> int:
    return 1
