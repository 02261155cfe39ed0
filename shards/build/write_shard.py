"""Building one shard: a function of its task and of the files that the task names, run in any process."""

import hashlib
import os
from collections import Counter, deque
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import msgspec
import numpy as np
from zlib_ng import zlib_ng

from shards.audit.findings import Finding, RejectedError, SampleFinding, check_file_size
from shards.audit.image_mask_pair import audit_pair
from shards.audit.mask import Counts
from shards.audit.palettes import PaletteTally
from shards.build.encode import EncodedSample, encode
from shards.build.plan import PlannedSample, ShardTask, meta_json
from shards.errors import SourceError
from shards.format.geometry import Size
from shards.format.keys import shown
from shards.format.layout import (
    EXTENSIONS,
    IMAGE_FORMATS,
    SAMPLE_DTYPE,
    Rows,
    Split,
    index_name,
    key_hash,
    shard_name,
)
from shards.format.manifest import FileEntry
from shards.format.tar import END, header, index_line, index_text, padded
from shards.sources.layout_protocol import FileStamp
from shards.sources.pairs.store_mirror import read_object
from shards.store.addresses import is_remote
from shards.store.atomic import atomic_file

RECORD_ENDING = ".done"
MAX_THREADS = 8  # they share the interpreter's lock; processes do not, and there is one for every shard


class ShardRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What a build needs to know about a finished shard; if the record exists, tar and index are complete.

    ``tar`` and ``index`` have their names during the build. ``rows`` are the records of the table
    (shards.format.layout.SAMPLE_DTYPE) with shard number 0. ``stamps`` are those of the source files, to notice a
    source that changed before an interrupted build is resumed.
    """

    split: Split
    number: int
    samples: int
    repaired: int
    tar: FileEntry
    index: FileEntry
    rows: bytes
    pixels: tuple[int, ...]  # of the stored masks, of each index 0..255
    attributes: dict[str, dict[str, int]]  # samples by attribute and value
    unclaimed: dict[str, tuple[int, int]]  # masks and pixels by value or colour that no class claims
    palette_masks: int  # that have a palette
    palettes: dict[int, dict[str, int]]  # their number by value and its colour
    largest: Size
    findings: tuple[SampleFinding, ...]
    stamps: tuple[tuple[FileStamp, FileStamp], ...]

    @property
    def files(self) -> tuple[FileEntry, FileEntry]:
        """Tar and index."""
        return self.tar, self.index

    @property
    def rejected(self) -> bool:
        """Whether any sample was rejected."""
        return any(finding.action == "rejected" for finding in self.findings)


@dataclass(frozen=True)
class PreparedSample:
    """A sample that was read, audited and encoded; ``encoded`` is None where it is rejected."""

    sample: PlannedSample
    findings: list[Finding]
    encoded: EncodedSample | None = None
    meta: bytes = b""  # its ``KEY.json``
    unclaimed: dict[str, int] = field(default_factory=dict)  # pixels by value or colour
    palette: dict[int, str] = field(default_factory=dict)  # the mask's colours of the values that occur
    size: tuple[int, int] = (0, 0)  # (width, height) of the image as audited, pixels


def record_name(split: Split, number: int) -> str:
    """Return the file name of a finished shard's record."""
    return shard_name(split, number).removesuffix(".tar") + RECORD_ENDING


def build_shard(
    task: ShardTask,
    folder: str,
    *,
    pause: Callable[[], None] = lambda: None,
    threads: Callable[[], int] = lambda: 1,
    sync: bool = False,
) -> ShardRecord:
    """Build a shard's tar, index and record in ``folder``, in this order, each complete or not at all.

    By default they are not flushed to the disk here, because a core that waits for the disk decodes nothing. The build
    does that meanwhile, before it publishes; and a build that is resumed after a power cut compares finished shards
    with their records byte by byte.

    Args:
        task: what to pack.
        folder: where to pack it.
        pause: called before every sample; may raise to stop the build.
        threads: how many to use, see :func:`prepared_samples`; default: only the caller's. The bytes are the same.
        sync: flush each file to the disk before the next one, so that a record proves that tar and index are on it.

    Raises ``SourceError`` like :func:`read_unchanged`, and ``OSError`` if the target cannot be written.
    """
    target = Path(folder)
    with atomic_file(target / shard_name(task.split, task.number), sync=sync) as handle:
        writer = _ShardWriter(handle=handle, task=task)
        waits = is_remote(task.samples[0].pair.image)  # for replies of a store, most of the time
        with closing(prepared_samples(task, threads=(lambda: MAX_THREADS) if waits else threads)) as samples:
            for prepared in samples:
                pause()
                writer.add(prepared)
        writer.write(END)
    index = write_file(
        target / index_name(task.split, task.number), index_text(writer.index).encode("ascii"), sync=sync
    )
    record = writer.record(index)
    write_file(target / record_name(task.split, task.number), msgspec.msgpack.encode(record), sync=sync)
    return record


def write_file(path: Path, data: bytes, *, sync: bool = False) -> FileEntry:
    """Write a file, complete or not at all, by default without flushing it to the disk."""
    with atomic_file(path, sync=sync) as handle:
        handle.write(data)
    return FileEntry(file=path.name, bytes=len(data), sha256=hashlib.sha256(data).hexdigest())


def prepared_samples(task: ShardTask, *, threads: Callable[[], int]) -> Generator[PreparedSample]:
    """Yield a shard's samples in order, each prepared.

    ``threads`` is called before every sample: how many to use from now on. As long as it is one, everything happens in
    the caller's thread. At most one sample more than threads is in flight.
    """
    pool = ThreadPoolExecutor(MAX_THREADS, "prepare")  # starts a thread when one is needed, not before
    in_flight: deque[Future[PreparedSample]] = deque()
    try:
        for sample in task.samples:
            number = min(threads(), MAX_THREADS)
            if number > 1:
                in_flight.append(pool.submit(prepare, task, sample))
            while len(in_flight) > (number if number > 1 else 0):
                yield in_flight.popleft().result()
            if number <= 1:
                yield prepare(task, sample)
        while in_flight:
            yield in_flight.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def prepare(task: ShardTask, sample: PlannedSample) -> PreparedSample:
    """Read, audit and encode a sample; raises ``SourceError`` like :func:`read_unchanged`."""
    options = task.options
    try:
        for what, stamp in (("image", sample.pair.image_stamp), ("mask", sample.pair.mask_stamp)):
            check_file_size(stamp.bytes, what)
        image = read_unchanged(sample.pair.image, sample.pair.image_stamp)
        mask = read_unchanged(sample.pair.mask, sample.pair.mask_stamp)
        pixels = options.storage != "source"
        pair = audit_pair(
            image, mask, labels=task.labels, pixels=pixels, max_pixels=options.max_pixels, exif=options.exif
        )
        encoded = encode(pair, storage=options.storage, size=options.size, fit=options.fit, quality=options.quality)
    except RejectedError as error:
        findings = [Finding("rejected", error.reason, error.detail)]
        return PreparedSample(sample, findings, unclaimed=error.unclaimed)
    width, height = pair.image.width, pair.image.height
    meta = meta_json(sample, split=task.split, width=width, height=height, length=task.meta_bytes)
    return PreparedSample(sample, pair.findings, encoded, meta, palette=pair.mask.palette, size=(width, height))


def read_unchanged(path: str, stamp: FileStamp) -> bytes:
    """Read a source file; raises ``SourceError`` if it vanished, cannot be read, or has changed since the plan."""
    if is_remote(path):
        return read_object(path, stamp)
    try:
        with open(path, "rb", buffering=0) as handle:  # noqa: PTH123 - Path.open is slower, and this is the hot path
            before = FileStamp.of(os.fstat(handle.fileno()))
            data = handle.readall()
            after = FileStamp.of(os.fstat(handle.fileno()))
    except OSError as error:
        reason = "vanished" if isinstance(error, FileNotFoundError) else f"cannot be read ({error.strerror})"
        raise SourceError(f"{path} {reason}; fix this and run the same command again") from None
    if not stamp == before == after or len(data) != stamp.bytes:
        raise SourceError(f"{path} changed while the set was being built; run the same command again")
    return data


@dataclass
class _ShardWriter:
    """Writes a tar, and counts what the record needs."""

    handle: BinaryIO
    task: ShardTask
    position: int = 0
    repaired: int = 0
    digest: "hashlib._Hash" = field(default_factory=hashlib.sha256)
    index: list[str] = field(default_factory=list)
    rows: list[Rows] = field(default_factory=list)
    attributes: dict[str, Counter[str]] = field(default_factory=dict)
    unclaimed: dict[str, tuple[int, int]] = field(default_factory=dict)
    palettes: PaletteTally = field(default_factory=PaletteTally)
    pixels: Counts = field(default_factory=lambda: np.zeros(256, np.int64))
    largest: Size = (0, 0)
    findings: list[SampleFinding] = field(default_factory=list)

    def write(self, data: bytes) -> None:
        self.handle.write(data)
        self.digest.update(data)
        self.position += len(data)

    def add(self, prepared: PreparedSample) -> None:
        """Append a sample, unless it is rejected; add its findings."""
        name = shown(prepared.sample.pair.name)
        for found in prepared.findings:
            self.findings.append(SampleFinding(name, found.action, found.reason, found.detail, self.task.split))
        sample, encoded = prepared.sample, prepared.encoded
        if encoded is None:
            for value, count in prepared.unclaimed.items():
                masks, pixels = self.unclaimed.get(value, (0, 0))
                self.unclaimed[value] = masks + 1, pixels + count
            return
        self.repaired += any(finding.action == "repaired" for finding in prepared.findings)
        members: list[tuple[str, int, int]] = []
        row = np.zeros((), SAMPLE_DTYPE)
        contents = (encoded.image, encoded.mask, prepared.meta)
        for (role, extension), content in zip(EXTENSIONS[encoded.format].items(), contents, strict=True):
            self.write(header(f"{sample.key}.{extension}", len(content)))
            members.append((extension, self.position, len(content)))
            row[f"{role}_offset"] = self.position
            row[f"{role}_length"] = len(content)
            row[f"{role}_crc32"] = zlib_ng.crc32(content)
            self.write(content)
            self.write(bytes(padded(len(content)) - len(content)))
        row["width"], row["height"] = prepared.size
        row["image_format"] = IMAGE_FORMATS.index(encoded.format)
        row["key_hash"] = key_hash(sample.key)
        self.index.append(index_line(sample.key, members))
        self.rows.append(row)
        for attribute, each in sample.pair.attributes.items():
            self.attributes.setdefault(attribute, Counter())[str(each)] += 1
        self.pixels += encoded.counts
        self.palettes.add(prepared.palette)
        self.largest = (max(self.largest[0], encoded.height), max(self.largest[1], encoded.width))

    def record(self, index: FileEntry) -> ShardRecord:
        """Return the shard's record, once the tar is complete."""
        task, name = self.task, shard_name(self.task.split, self.task.number)
        return ShardRecord(
            split=task.split,
            number=task.number,
            samples=len(self.rows),
            repaired=self.repaired,
            tar=FileEntry(file=name, bytes=self.position, sha256=self.digest.hexdigest()),
            index=index,
            rows=np.array(self.rows, SAMPLE_DTYPE).tobytes(),
            pixels=tuple(self.pixels.tolist()),
            attributes={name: dict(counts) for name, counts in self.attributes.items()},
            unclaimed=self.unclaimed,
            palette_masks=self.palettes.masks,
            palettes={value: dict(counts) for value, counts in self.palettes.colours.items()},
            largest=self.largest,
            findings=tuple(self.findings),
            stamps=task.stamps,
        )
