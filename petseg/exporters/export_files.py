"""Writes the files of an export, which belong together."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import BinaryIO

from petseg.host.written_together import write_together
from shards.errors import valid_text


def write_export(contents: Mapping[Path, bytes | str], *, overwrite: bool) -> None:
    """Write files of one folder as :func:`write_together` does; text becomes UTF-8."""
    write_together({path: partial(_write, data) for path, data in contents.items()}, replace=overwrite)


def _write(data: bytes | str, file: BinaryIO) -> None:
    file.write(valid_text(data).encode() if isinstance(data, str) else data)
