"""Where files are kept: today the local disk, written atomically.

Everything that must survive a power cut or a full disk goes through here, and every file of a set is read from here.
"""

from shards.store.atomic import atomic_file, sync_file, sync_folder, write_atomically
from shards.store.byte_ranges import ByteRanges, OpenFiles, open_regular, read_regular

__all__ = [
    "ByteRanges",
    "OpenFiles",
    "atomic_file",
    "open_regular",
    "read_regular",
    "sync_file",
    "sync_folder",
    "write_atomically",
]
