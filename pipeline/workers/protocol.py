"""What a loader and its workers say to each other: small messages; the work is in shared memory, beside the pixels.

An order names a slot of the shared memory, which holds the work as one record a sample; an answer names the slot again.
"""

from __future__ import annotations

import pickle
from dataclasses import dataclass, fields
from struct import Struct
from typing import Final

import numpy as np
import numpy.typing as npt

from pipeline.cpu.cpu_engine import batch_shapes
from pipeline.engine import Options, Work
from pipeline.order.augmentation import Parameters
from shards.format.dataset import SplitReader
from shards.format.layout import SAMPLE_DTYPE

RECORD: Final = np.dtype(
    [
        ("index", np.int64),
        ("row", SAMPLE_DTYPE),
        ("boxes", np.int32, (4,)),
        ("flip", np.bool_),
        ("brightness", np.float32),
        ("contrast", np.float32),
        ("saturation", np.float32),
    ]
)
_PARAMETERS: Final = tuple(field.name for field in fields(Parameters))
assert RECORD.names is not None
assert set(RECORD.names[2:]) == set(_PARAMETERS)

ORDER: Final = Struct("<qqq")  # slot, number of samples, generation: how often tars were found to be changed
ANSWER: Final = Struct("<q?")  # slot, whether more of the answer follows; then a part of a pickled Trouble, or nothing
MOST: Final = 1 << 15  # bytes of a message: a socket takes many such at once


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What a worker is told first.

    Attributes:
        split: whose samples.
        options: of the engine.
        batch_size: the most samples of a batch.
    """

    split: SplitReader
    options: Options
    batch_size: int


@dataclass(frozen=True, kw_only=True)
class Trouble:
    """Why a batch was not made.

    Attributes:
        damaged: by place in the batch: what is wrong with samples.
        error: of another kind, in a line.
    """

    damaged: dict[int, str]
    error: str = ""


def slot_shapes(options: Options, batch_size: int) -> tuple[tuple[int, ...], ...]:
    """Return the shapes of a slot's arrays, all uint8: pictures, masks, records."""
    return (*batch_shapes(options, batch_size), (batch_size * RECORD.itemsize,))


def write_work(work: Work, memory: npt.NDArray[np.uint8]) -> None:
    """Write the work of B samples into the records of a slot."""
    records = memory[: len(work) * RECORD.itemsize].view(RECORD)
    records["index"] = work.indices
    records["row"] = work.rows
    for name in _PARAMETERS:
        records[name] = getattr(work.parameters, name)


def read_work(memory: npt.NDArray[np.uint8], count: int) -> Work:
    """Return the work of ``count`` samples that a slot's records hold."""
    records = memory[: count * RECORD.itemsize].view(RECORD)
    parameters = Parameters(**{name: np.ascontiguousarray(records[name]) for name in _PARAMETERS})
    return Work(indices=np.ascontiguousarray(records["index"]), rows=records["row"], parameters=parameters)


def answers(slot: int, trouble: Trouble | None) -> list[bytes]:
    """Return the messages of an answer: one, unless there is much to say."""
    said = b"" if trouble is None else pickle.dumps(trouble)
    room = MOST - ANSWER.size
    parts = [said[start : start + room] for start in range(0, len(said), room)] or [b""]
    return [ANSWER.pack(slot, part is not parts[-1]) + part for part in parts]
