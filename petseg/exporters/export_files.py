"""Writes the files of an export, which belong together."""

import contextlib
import secrets
from collections.abc import Mapping
from pathlib import Path

from petseg.host.stop_signals import delay_stop_signals
from shards.store.atomic import PARTIAL_PREFIX, naming, rename_together, sync_folder, write_atomically
from shards.store.refusals import taking_turns


def write_export(contents: Mapping[Path, bytes | str], *, overwrite: bool) -> None:
    """Write files of a folder, which get their names in their order; after an error, such as a full disk, none is new.

    Nor is one replaced, where the file system can exchange two files; so the same command can be run again. Of several
    processes that write the same files at the same time, all that stay are one's.
    """
    token, folder = secrets.token_hex(8), next(iter(contents)).parent
    partials = {folder / f"{PARTIAL_PREFIX}{token}-{number}": path for number, path in enumerate(contents)}
    try:
        for partial, path in partials.items():
            with naming(path):
                write_atomically(partial, contents[path], replace=False)
        with taking_turns(folder), delay_stop_signals():
            rename_together(partials, replace=overwrite)
    finally:
        for partial in partials:
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)
    sync_folder(folder)
