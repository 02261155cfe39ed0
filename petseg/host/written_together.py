"""Writes files that belong together: those of an export, or of a prediction."""

import contextlib
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import BinaryIO

from petseg.host.stop_signals import delay_stop_signals
from shards.store.atomic import FILE_MODE, naming, partial_name, rename_together, sync_folder
from shards.store.refusals import flush_file, set_mode, taking_turns


def write_together(writers: Mapping[Path, Callable[[BinaryIO], object]], *, replace: bool) -> None:
    """Write files of one folder, each by a function that is given it open; all appear, in their order, or none does.

    They are written under other names, flushed to the disk and renamed. After an exception, such as of a full disk or
    one that a signal raises, the files that were there before are unchanged, where the file system can exchange two
    files (see :func:`shards.store.atomic.rename_together`), and none is new; so the same command can be run again.
    Without ``replace``, one that exists, or that another process has made meanwhile, raises ``OSError``; with it, of
    several processes all files that stay are one's.
    """
    token, folder = secrets.token_hex(8), next(iter(writers)).parent
    partials = {folder / partial_name(path, f"{token}-{number}"): path for number, path in enumerate(writers)}
    try:
        for partial, path in partials.items():
            with naming(path), partial.open("xb") as handle:
                writers[path](handle)
                handle.flush()
                set_mode(handle.fileno(), FILE_MODE, folder=folder)
                flush_file(handle.fileno(), folder=folder)
        with taking_turns(folder), delay_stop_signals():
            rename_together(partials, replace=replace)
    finally:
        for partial in partials:
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)
    sync_folder(folder)
