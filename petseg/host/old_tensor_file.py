"""Checks files of tensors that are no zip archives, as torch wrote them before version 1.6.

They consist of pickles (a magic number, the version, the system, the content, the names of its storages), then the
storages: the number of values, then these. torch allocates what the content claims, and fills what is named.
"""

import io
import struct
import tarfile

from petseg.host.pickle_checks import Claims, check_pickle

_PICKLES = 5


def check_old_file(data: bytes) -> None:
    """Raise ``ValueError`` unless a file has all values of the storages that its content names, and nothing else."""
    if tarfile.is_tarfile(io.BytesIO(data)):  # torch looks for one first, and in it for other storages
        raise ValueError("it is a tar file, as the first versions of torch wrote")
    stream = io.BytesIO(data)  # of which no length that is claimed can be read
    for _ in range(_PICKLES):
        check_pickle(stream)
    stream.seek(0)
    for _ in range(_PICKLES - 2):
        Claims(stream)
    content, names = Claims(stream), Claims(stream)
    named = names.document
    if not isinstance(named, list) or not all(isinstance(name, str) for name in named):
        raise ValueError("its storages have no names")
    if sorted(named) != sorted(content.storages):
        raise ValueError("its storages are not those that its content names")
    for name in named:
        count, itemsize = content.storages[name]
        if stream.read(8) != struct.pack("<Q", count):
            raise ValueError(f"its storage {name!r:.100} has another size than its content says")
        stream.seek(count * itemsize, io.SEEK_CUR)
    if stream.tell() != len(data):
        raise ValueError("its storages end early" if stream.tell() > len(data) else "something follows its storages")
