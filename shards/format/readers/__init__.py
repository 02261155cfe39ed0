"""Where and how a set's files are read: in a folder, in an object store, through the ``webdataset`` library.

:mod:`shards.format.dataset` is the way to all of them.
"""

from shards.format.readers.remote_split import open_remote_set, remote_tars
from shards.format.readers.set_files import check_size, local_file, local_folder

__all__ = ["check_size", "local_file", "local_folder", "open_remote_set", "remote_tars"]
