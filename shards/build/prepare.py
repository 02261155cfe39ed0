"""From files of the source to what is stored of a sample, several at once where a shard may use spare cores."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from shards.audit.findings import Finding, RejectedError
from shards.audit.pair import audit_pair
from shards.build.encode import Stored, encode
from shards.build.plan import PlannedSample, ShardTask, meta_json
from shards.errors import SourceError
from shards.sources.pets import Stamp

MAX_THREADS = 8  # they share the interpreter's lock; whole processes do not, and there is one for every shard


@dataclass(frozen=True)
class Prepared:
    """A sample that was read, audited and encoded.

    Attributes:
        sample: which.
        stored: what is stored of it; None where it is left out.
        meta: its ``KEY.json``; empty where it is left out.
        width: of the picture as audited, pixels; 0 where it is left out.
        height: the same.
        findings: why it is left out, else what was mended, and remarks.
    """

    sample: PlannedSample
    stored: Stored | None
    meta: bytes
    width: int
    height: int
    findings: list[Finding]


def prepare(task: ShardTask, sample: PlannedSample) -> Prepared:
    """Read, audit and encode a sample.

    Raises:
        SourceError: a file vanished, cannot be read, or has changed.
    """
    pair = sample.pair
    image = read_unchanged(pair.image, pair.image_stamp)
    trimap = read_unchanged(pair.trimap, pair.trimap_stamp)
    try:
        audited = audit_pair(image, trimap, storage=task.storage)
        stored = encode(audited, storage=task.storage, size=task.size, quality=task.quality)
    except RejectedError as error:
        return Prepared(sample, None, b"", 0, 0, [Finding("left-out", error.reason, error.detail)])
    width, height = audited.picture.width, audited.picture.height
    meta = meta_json(sample, split=task.split, width=width, height=height, length=task.meta_bytes)
    return Prepared(sample, stored, meta, width, height, audited.findings)


def prepared(task: ShardTask, *, threads: Callable[[], int]) -> Generator[Prepared]:
    """Yield a shard's samples in order, each prepared.

    Args:
        task: the shard.
        threads: how many to use from now on; asked before every sample. As long as it is one, everything happens in
            the caller's thread. At most one sample more than threads is in the making or ready.
    """
    with ThreadPoolExecutor(MAX_THREADS, "prepare") as pool:  # starts a thread when one is needed, not before
        ahead: deque[Future[Prepared]] = deque()
        try:
            for sample in task.samples:
                number = min(threads(), MAX_THREADS)
                if number > 1:
                    ahead.append(pool.submit(prepare, task, sample))
                    if len(ahead) > number:
                        yield ahead.popleft().result()
                else:
                    while ahead:
                        yield ahead.popleft().result()
                    yield prepare(task, sample)
            while ahead:
                yield ahead.popleft().result()
        finally:
            for future in ahead:
                future.cancel()


def read_unchanged(path: str, stamp: Stamp) -> bytes:
    """Read a file of the source, and make sure that it is the one that was planned.

    Raises:
        SourceError: it vanished, cannot be read, or has changed.
    """
    try:
        with open(path, "rb", buffering=0) as handle:  # noqa: PTH123 - Path.open is slower, and this is the hot path
            before = Stamp.of(os.fstat(handle.fileno()))
            data = handle.readall()
            after = Stamp.of(os.fstat(handle.fileno()))
    except OSError as error:
        reason = "vanished" if isinstance(error, FileNotFoundError) else f"cannot be read ({error.strerror})"
        raise SourceError(f"{path} {reason}; put it right and run the same command again") from None
    if not stamp == before == after or len(data) != stamp.bytes:
        raise SourceError(f"{path} changed while the set was being built; run the same command again")
    return data
