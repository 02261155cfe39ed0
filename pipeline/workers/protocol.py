"""The messages between a loader and its worker processes: small; the work is in shared memory, next to the pixels.

A request names a slot of the shared memory, which holds the work as one record per sample; a reply names the slot.
"""

import pickle
from dataclasses import dataclass, field
from struct import Struct
from typing import Final

import numpy as np
import numpy.typing as npt

from pipeline.engine import WORK_DTYPE, BatchWork, EngineOptions
from shards.format.dataset import SplitReader

REQUEST: Final = Struct("<qqq")  # slot, number of samples, generation: how often tars were found to have changed
REPLY: Final = Struct("<q?")  # slot, whether more follows; then part of a pickled BatchReport, or nothing
MAX_MESSAGE: Final = 1 << 15  # bytes: a socket holds many of these at once


@dataclass(frozen=True, kw_only=True)
class WorkerSetup:
    """What a worker process receives first."""

    split: SplitReader
    options: EngineOptions  # of the loader


@dataclass(frozen=True, kw_only=True)
class BatchReport:
    """What there is to say of a batch: why it was not made, or which requests were repeated for it."""

    damaged: dict[int, str] = field(default_factory=dict)  # by position in the batch: what is wrong with samples
    error: str = ""  # any other error, in one line
    retries: dict[str, int] = field(default_factory=dict)  # failed requests to a store, by reason


NOTHING_TO_REPORT: Final = BatchReport()


def slot_shapes(options: EngineOptions) -> tuple[tuple[int, ...], ...]:
    """Return the shapes of a slot's arrays, all uint8: images, masks, records."""
    return (*options.batch_shapes, (options.batch_size * WORK_DTYPE.itemsize,))


def write_work(work: BatchWork, memory: npt.NDArray[np.uint8]) -> None:
    """Write the work of B samples into the records of a slot."""
    # As bytes: NumPy would copy records field by field.
    memory[: work.records.nbytes] = work.records.view(np.uint8)


def read_work(memory: npt.NDArray[np.uint8], count: int) -> BatchWork:
    """Return the work of ``count`` samples from a slot's records, whose memory it refers to."""
    return BatchWork(memory[: count * WORK_DTYPE.itemsize].view(WORK_DTYPE))


def reply_messages(slot: int, report: BatchReport) -> list[bytes]:
    """Return the messages of a reply: one, unless the report is long."""
    body = b"" if report == NOTHING_TO_REPORT else pickle.dumps(report)
    room = MAX_MESSAGE - REPLY.size
    parts = [body[start : start + room] for start in range(0, len(body), room)] or [b""]
    return [REPLY.pack(slot, part is not parts[-1]) + part for part in parts]
