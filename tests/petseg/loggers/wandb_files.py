"""Reads the file that Weights & Biases writes offline, with wandb's own protocol buffers."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_HEADER = 7  # b":W&B", a magic number and a version
_BLOCK = 32768  # of LevelDB's log format, which the file has after its header


def _records(path: Path) -> Iterator[bytes]:
    """Yield the records of a log: each in one or several chunks of CRC, length and type, which do not cross blocks."""
    data, position, record = path.read_bytes(), _HEADER, b""
    assert data[:4] == b":W&B"
    while position + 7 <= len(data):
        if _BLOCK - position % _BLOCK < 7:
            position += _BLOCK - position % _BLOCK
            continue
        _, length, kind = struct.unpack_from("<IHB", data, position)
        if not kind or position + 7 + length > len(data):  # it is still being written
            return
        record += data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # whole, last
            yield record
            record = b""


def read_offline(folder: Path) -> dict[str, Any]:
    """Return id, name, configuration and the rows of all parts of an offline run in a run's folder, oldest first."""
    from wandb.proto.wandb_internal_pb2 import Record

    found: dict[str, Any] = {"ids": set(), "names": set(), "config": {}, "rows": [], "files": set(), "exits": []}
    for path in sorted(folder.glob("wandb/offline-run-*/run-*.wandb"), key=lambda path: path.stat().st_mtime_ns):
        for data in _records(path):
            record = Record()
            record.ParseFromString(data)
            if record.HasField("run"):
                found["ids"].add(record.run.run_id)
                found["names"].add((record.run.project, record.run.display_name))
                found["config"] |= {each.key: json.loads(each.value_json) for each in record.run.config.update}
            elif record.HasField("history"):
                items = record.history.item
                found["rows"].append({e.key or "/".join(e.nested_key): json.loads(e.value_json) for e in items})
            elif record.HasField("files"):
                found["files"] |= {each.path for each in record.files.files}
            elif record.HasField("exit"):
                found["exits"].append(record.exit.exit_code)
    return found
