"""Checks the pickle of a file of tensors: that it makes dictionaries and tensors alone, and what these claim.

First its operations are followed without being executed: what would run code, or exhaust the stack, is refused. Then it
is read with something in the place of each tensor that only looks at what torch would allocate.
"""

import collections
import math
import pickle
import pickletools
import re
from collections.abc import Sequence
from typing import IO, Any, Final

from shards.errors import abridged

_MOST_OPERATIONS = 5_000_000  # a checkpoint of a large network has some hundred thousand
_MOST_IN_TUPLE = 10_000  # values, those of tuples within it included; the shape of a tensor has a few
_MAGIC: Final = 0x1950A86A20F9469CFC6C  # the first value of files without an archive
_REFUSED: Final = frozenset(
    [
        "STACK_GLOBAL",
        "INST",
        "OBJ",
        "NEWOBJ",
        "NEWOBJ_EX",
        "EXT1",
        "EXT2",
        "EXT4",
        "EMPTY_SET",
        "ADDITEMS",
        "FROZENSET",
        "BYTEARRAY8",
        "NEXT_BUFFER",
        "READONLY_BUFFER",
    ]
)
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
    "ComplexFloatStorage": 8,
    "ComplexDoubleStorage": 16,
}
_PLAIN_OBJECTS = re.compile(
    r"collections OrderedDict|torch\._utils _rebuild_(tensor|tensor_v2|parameter)|torch \w+Storage"
)


def check_pickle(pickled: bytes | IO[bytes]) -> None:
    """Look at the pickle's operations, without executing them: no object but tensors and dictionaries is made."""
    sizes = _TupleSizes()
    for count, (operation, argument, _) in enumerate(pickletools.genops(pickled)):
        if count > _MOST_OPERATIONS:
            raise ValueError("it has too many values")
        if operation.name in _REFUSED or (operation.name == "GLOBAL" and not _PLAIN_OBJECTS.fullmatch(str(argument))):
            what = f" ({abridged('.'.join(str(argument).split(' ')))})" if argument else ""
            raise ValueError(
                f"it holds Python objects{what}, which petseg never loads, because loading them can run any code"
            )
        if isinstance(argument, int) and not -(2**63) <= argument < 2**64 and argument != _MAGIC:
            raise ValueError("it holds an integer of more than 64 bits")  # as a name it may be hashed for hours
        try:
            sizes.follow(operation, argument)
        except (IndexError, KeyError):
            raise ValueError("its pickle is damaged") from None


class _TupleSizes:
    """Follows what is on a pickle's stack, of which only the sizes of tuples count, with all that is within them.

    A tuple that is a name in a dictionary is hashed while it is read: one that is nested a million times overflows the
    stack of the process, and one that holds another twice, and that likewise, takes years.
    """

    def __init__(self) -> None:
        self._stack: list[int | None] = []  # None: a mark
        self._memo: dict[int, int | None] = {}

    def follow(self, operation: pickletools.OpcodeInfo, argument: Any) -> None:
        """Do what an operation does; ``ValueError`` if a tuple becomes too large, ``IndexError`` without its values."""
        stack, before, after = self._stack, operation.stack_before, operation.stack_after
        if operation.name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            place = len(self._memo) if argument is None else int(argument)
            if place > len(self._memo) + 1:  # they are counted from 0 or 1; memory is allocated up to the highest
                raise ValueError("its pickle is damaged")
            self._memo[place] = stack[-1]
        elif operation.name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(self._memo[int(argument)])
        elif operation.name == "DUP":
            stack.append(stack[-1])
        else:
            taken: list[int] = []
            single = len(before)
            if pickletools.markobject in before:
                while (value := stack.pop()) is not None:
                    taken.append(value)
                single = before.index(pickletools.markobject)
            taken += [stack.pop() or 1 for _ in range(single)]
            size = 1 + sum(taken) if pickletools.pytuple in after else 1
            if size > _MOST_IN_TUPLE:
                raise ValueError("its values are nested too deeply")
            stack += [None if kind is pickletools.markobject else size for kind in after]


class Claims(pickle.Unpickler):
    """What one pickle of a stream, which :func:`check_pickle` let pass, makes torch allocate and read.

    Raises ``ValueError`` for a tensor that reaches beyond its storage, for one that is changed after it was made (as by
    ``set_``, which makes its storage larger), and for a storage that shows a part of another.

    Attributes:
        storages: by name, how many values each one has, and how many bytes each of them takes.
        document: what the pickle holds, without tensors.
    """

    def __init__(self, stream: IO[bytes]) -> None:
        super().__init__(stream)
        self.storages: dict[str, tuple[int, int]] = {}
        try:
            self.document: Any = self.load()
        except (AttributeError, EOFError, IndexError, KeyError, TypeError, pickle.UnpicklingError):
            raise ValueError("its pickle is damaged") from None

    def find_class(self, module: str, name: str) -> Any:
        """Stand in for what a checked pickle may name: dictionaries, storages and what makes tensors."""
        if name == "OrderedDict":
            return collections.OrderedDict
        return name if name.endswith("Storage") else _parameter if name == "_rebuild_parameter" else _Tensor

    def persistent_load(self, pid: Any) -> int:
        """Note a storage, and return how many values it has."""
        kind, storage, name, _, count, *view = pid
        sound = kind == "storage" and isinstance(name, str) and _is_size(count) and view in ([], [None])
        if not sound or not isinstance(storage, str) or storage not in _ITEMSIZES:
            raise ValueError("it names a storage that none of its tensors has")
        claim = (count, _ITEMSIZES[storage])
        if self.storages.setdefault(name, claim) != claim:
            raise ValueError("it names a storage twice, with other sizes")
        return int(count)


class _Tensor:
    """Stands for a tensor."""

    def __init__(self, storage: int, offset: int, size: Sequence[int], stride: Sequence[int], *_: object) -> None:
        if not all(map(_is_size, (storage, offset, *size, *stride))) or len(size) != len(stride):
            raise ValueError("it holds a tensor of an impossible shape")
        last = sum((side - 1) * step for side, step in zip(size, stride, strict=True))
        if math.prod(size) and offset + last >= storage:
            raise ValueError("it holds a tensor that is larger than its data")

    def __setstate__(self, state: object) -> None:
        raise ValueError("it holds a tensor that is changed while it is read")


def _parameter(data: _Tensor, *_: object) -> _Tensor:
    if not isinstance(data, _Tensor):
        raise ValueError("it holds a parameter that is no tensor")
    return data


def _is_size(value: object) -> bool:
    return type(value) is int and 0 <= value < 2**63
