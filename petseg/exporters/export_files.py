"""Writes the files of an export, which belong together."""

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path

from petseg.host.stop_signals import delay_stop_signals
from shards.store.atomic import write_atomically
from shards.store.refusals import taking_turns


def write_export(contents: Mapping[Path, bytes | str], *, overwrite: bool) -> None:
    """Write files of a folder in their order, each atomically; after an error, such as a full disk, no new one stays.

    So the same command can be run again without ``overwrite``. Files that it has replaced keep their new content. Of
    several processes that write the same files at the same time, all that stay are one's.
    """
    made: list[Path] = []
    with taking_turns(next(iter(contents)).parent), delay_stop_signals():
        try:
            for path, data in contents.items():
                new = not os.path.lexists(path)
                write_atomically(path, data, replace=overwrite)
                if new:
                    made.append(path)
        except BaseException:
            for path in made:
                with contextlib.suppress(OSError):
                    path.unlink(missing_ok=True)
            raise
