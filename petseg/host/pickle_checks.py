"""Follows a pickle's operations without executing them: what would run code, or exhaust the stack, is refused."""

import pickletools
import re
from typing import IO, Any

from shards.errors import abridged

_MOST_OPERATIONS = 5_000_000  # a checkpoint of a large network has some hundred thousand
_MOST_IN_TUPLE = 10_000  # values, those of tuples within it included; the shape of a tensor has a few
_PLAIN_OBJECTS = re.compile(
    r"collections OrderedDict|torch\._utils _rebuild_(tensor|tensor_v2|parameter)|torch \w+Storage"
)


def check_pickle(pickled: bytes | IO[bytes]) -> None:
    """Look at the pickle's operations, without executing them: no object but tensors and dictionaries is made."""
    sizes = _TupleSizes()
    for count, (operation, argument, _) in enumerate(pickletools.genops(pickled)):
        if count > _MOST_OPERATIONS:
            raise ValueError("it has too many values")
        if operation.name in ("STACK_GLOBAL", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "EXT1", "EXT2", "EXT4") or (
            operation.name == "GLOBAL" and not _PLAIN_OBJECTS.fullmatch(str(argument))
        ):
            what = f" ({abridged('.'.join(str(argument).split(' ')))})" if argument else ""
            raise ValueError(
                f"it holds Python objects{what}, which petseg never loads, because loading them can run any code"
            )
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
            self._memo[len(self._memo) if argument is None else int(argument)] = stack[-1]
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
