"""Where files are kept: today the local disk, written atomically.

Everything that must survive a power cut or a full disk goes through here.
"""

from shards.store.atomic import atomic_file, sync_file, sync_folder, write_atomically

__all__ = ["atomic_file", "sync_file", "sync_folder", "write_atomically"]
