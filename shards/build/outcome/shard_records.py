"""Records of finished shards, as they are read: one that is damaged, or contradicts itself, is none."""

import re
from typing import Final

import msgspec
import numpy as np

from shards.audit.findings import REASONS
from shards.build.write_shard import ShardRecord
from shards.format.layout import ROLES, SAMPLE_DTYPE, Split, index_name, member_span, shard_name

_VALUE: Final = re.compile("#[0-9a-f]{6}|[0-9]{1,3}")  # that no class claims
_INDICES: Final = 256  # of masks


def read_record(data: bytes, *, split: Split, number: int, planned: int) -> ShardRecord | None:
    """Return a shard's record; None if it is not that of this shard, to which the plan gives ``planned`` samples.

    Whether tar and index are those that it describes is not known then.
    """
    try:
        record = msgspec.msgpack.decode(data, type=ShardRecord)
    except (msgspec.DecodeError, RecursionError):
        return None
    samples, ends = record.samples, []
    if len(record.rows) == samples * SAMPLE_DTYPE.itemsize:
        rows = np.frombuffer(record.rows, SAMPLE_DTYPE)
        ends = [sum(member_span(row, role)) for row in rows for role in ROLES]
    sound = (
        (record.split, record.number) == (split, number)
        and 0 <= record.repaired <= samples <= planned == len(record.stamps)
        and [entry.file for entry in record.files] == [shard_name(split, number), index_name(split, number)]
        and len(ends) == 3 * samples
        and all(end <= record.tar.bytes for end in ends)
        and len(record.pixels) == _INDICES
        and min(*record.pixels, *record.largest, record.palette_masks) >= 0
        and all(_VALUE.fullmatch(value) and min(counts) > 0 for value, counts in record.unclaimed.items())
        and all(0 <= value < _INDICES for value in record.palettes)
        and all(count > 0 for counts in record.attributes.values() for count in counts.values())
        and all(finding.reason in REASONS for finding in record.findings)
    )
    return record if sound else None
