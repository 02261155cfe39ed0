"""Which run of a tracking service a run's folder belongs to, and how far it was logged: ``loggers.json``."""

import json
from pathlib import Path

import msgspec

from shards.store.atomic import write_atomically
from shards.store.byte_ranges import read_regular

IDS = "loggers.json"


class LoggedId(msgspec.Struct, frozen=True, kw_only=True):
    """A service's name of the run, the last epoch that was logged there (0: none), and where the service is."""

    id: str
    epoch: int = 0
    address: str = ""


def read_id(run: Path, service: str) -> LoggedId | None:
    """Return what was kept for a service; None if nothing was, or if the file is damaged."""
    return _read(run).get(service)


def write_id(run: Path, service: str, kept: LoggedId) -> None:
    """Keep the name of a service's run, atomically."""
    document = {**_read(run), service: kept}
    write_atomically(run / IDS, json.dumps(msgspec.to_builtins(document), indent=2) + "\n")


def _read(run: Path) -> dict[str, LoggedId]:
    try:
        return msgspec.json.decode(read_regular(run / IDS), type=dict[str, LoggedId])
    except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return {}
