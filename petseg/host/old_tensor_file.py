"""Checks files of tensors that are no zip archives, as torch wrote them before version 1.6.

They consist of pickles (a magic number, the version, the system, the content, the names of its storages), then the
storages: the number of values, then these. torch allocates what the content claims, and fills what is named.
"""

import collections
import io
import pickle
import struct
import tarfile
from typing import Any, Final

from petseg.host.pickle_checks import check_pickle

_PICKLES = 5
_ITEMSIZES: Final = {  # bytes
    "DoubleStorage": 8,
    "FloatStorage": 4,
    "HalfStorage": 2,
    "BFloat16Storage": 2,
    "LongStorage": 8,
    "IntStorage": 4,
    "ShortStorage": 2,
    "CharStorage": 1,
    "ByteStorage": 1,
    "BoolStorage": 1,
}


def check_old_file(data: bytes) -> None:
    """Raise ``ValueError`` unless a file has all values of the storages that its content names, and nothing else."""
    if tarfile.is_tarfile(io.BytesIO(data)):  # torch looks for one first, and in it for other storages
        raise ValueError("it is a tar file, as the first versions of torch wrote")
    stream = io.BytesIO(data)  # of which no length that is claimed can be read
    for _ in range(_PICKLES):
        check_pickle(stream)
    stream.seek(0)
    *_, content, names = [_Storages(stream) for _ in range(_PICKLES)]
    named = names.document
    if not isinstance(named, list) or sorted(map(str, named)) != sorted(content.values_of):
        raise ValueError("its storages are not those that its content names")
    for name in named:
        count, itemsize = content.values_of[name]
        if stream.read(8) != struct.pack("<Q", count):
            raise ValueError(f"its storage {name!r:.100} has another size than its content says")
        stream.seek(count * itemsize, io.SEEK_CUR)
    if stream.tell() != len(data):
        raise ValueError("its storages end early" if stream.tell() > len(data) else "something follows its storages")


class _Storages(pickle.Unpickler):
    """Reads one pickle that was checked, and makes nothing of it but Python's own values.

    Attributes:
        values_of: by the name of each storage, how many values it has, and how many bytes each of them takes.
        document: what the pickle holds, without tensors.
    """

    def __init__(self, stream: io.BytesIO) -> None:
        super().__init__(stream)
        self.values_of: dict[str, tuple[int, int]] = {}
        self.document = self._load()

    def _load(self) -> Any:
        try:
            return self.load()
        except (AttributeError, IndexError, KeyError, TypeError, pickle.UnpicklingError) as error:
            raise ValueError(f"its pickle is damaged: {error}") from None

    def find_class(self, module: str, name: str) -> Any:
        """Stand in for what the checked pickle may name: dictionaries, storages and what makes tensors."""
        if name == "OrderedDict":
            return collections.OrderedDict
        return name if name.endswith("Storage") else _nothing

    def persistent_load(self, pid: Any) -> None:
        """Note a storage."""
        kind, storage, name, _, count, *_ = pid
        if kind != "storage" or not isinstance(name, str) or not (isinstance(count, int) and 0 <= count < 2**63):
            raise ValueError(f"it names a storage by {str(pid)[:100]}")
        self.values_of.setdefault(name, (count, _ITEMSIZES[storage]))


def _nothing(*_: object) -> None:
    """Stand for a tensor."""
