"""Reads files of tensors from anybody: bounded in memory, plain data and tensors only, no code.

``torch.load(weights_only=True)`` runs no code, but it inflates whatever is compressed, builds tensors that are larger
than the file, and advises to switch its protection off. So the archive is checked before torch opens it, and what torch
returns is checked before anything uses it. That both see the same archive is checked, too: where a zip file's directory
is, Python and torch find out in different ways.
"""

import io
import math
import pickle
import pickletools
import re
import struct
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import torch

from shards.errors import abridged

_ZIP = b"PK\x03\x04"
_OLD_PICKLES = 5  # in a file without an archive: a magic number, the version, the system, the content, its storages
_MOST_OPERATIONS = 5_000_000  # of the pickle; a checkpoint of a large network has some hundred thousand
_MOST_VALUES = 1_000_000
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_MOST_IN_TUPLE = 10_000  # values, those of tuples within it included; the shape of a tensor has a few
_MOST_BYTES_EACH = 16  # of a tensor's values: complex128
_MOST_SIDES = 64  # of a tensor; torch computes with no more
_MOST_LEVELS = 8  # dictionaries and lists within each other
_PLAIN_OBJECTS = re.compile(
    r"collections OrderedDict|torch\._utils _rebuild_(tensor|tensor_v2|parameter)|torch \w+Storage"
)


def read_tensors(path: Path, *, old: bool = False) -> Any:
    """Return the content of a ``torch.save`` file, on the CPU: dictionaries, lists, numbers, text and tensors.

    ``old``: also of one that is no zip archive, as torch wrote them before version 1.6.

    Raises ``ValueError`` with what is wrong if the file is anything else, is damaged, or would take more memory than
    its own size; torch's own errors are of any type.
    """
    with path.open("rb") as handle:
        if old and handle.read(len(_ZIP)) != _ZIP:  # this is how torch tells them apart
            handle.seek(0)
            pickles = io.BytesIO(handle.read())  # of which no length that is claimed can be read
            for _ in range(_OLD_PICKLES):
                _check_pickle(pickles)
        else:
            with zipfile.ZipFile(handle) as archive:
                pickled = _check_archive(archive, size=path.stat().st_size)
                _expect_one_directory(handle, archive.start_dir)
            _check_pickle(pickled)
    try:
        document = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:  # torch's own words advise to switch the protection off
        raise ValueError("it holds values, such as huge integers, which petseg never loads") from None
    check_values(document)
    return _without_attributes(document)


def read_safetensors(path: Path) -> tuple[dict[str, str], dict[str, torch.Tensor]]:
    """Return the metadata and the tensors of a safetensors file.

    Raises ``ImportError`` without that package; else ``ValueError``, ``OSError`` or its ``SafetensorError``.
    """
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        names = list(file.keys())
        for name in names:  # before there are tensors: one of a million sides takes hours to make
            _check_shape(file.get_slice(name).get_shape(), bytes_each=_MOST_BYTES_EACH)
        metadata, tensors = file.metadata() or {}, {name: file.get_tensor(name) for name in names}
    check_values(tensors)
    return metadata, tensors


def check_values(document: Any) -> None:
    """Raise ``ValueError`` unless a document consists of bounded plain values and of ordinary tensors on the CPU."""
    pending, seen = [(document, 0)], 0
    while pending:
        value, level = pending.pop()
        seen += 1
        if level > _MOST_LEVELS or seen > _MOST_VALUES:
            raise ValueError("its values are nested too deeply" if level > _MOST_LEVELS else "it has too many values")
        if isinstance(value, dict):
            if not all(isinstance(name, str | int) for name in dict.keys(value)):
                raise ValueError("the names in it are not text")
            pending += [(one, level + 1) for one in dict.values(value)]
        elif isinstance(value, list | tuple):
            pending += [(one, level + 1) for one in value]
        elif isinstance(value, torch.Tensor):
            _check_tensor(value)
        elif isinstance(value, int) and not -(2**63) <= value < 2**64:  # Python refuses to print longer ones
            raise ValueError("it holds an integer of more than 64 bits")
        elif not isinstance(value, str | int | float | None):
            raise ValueError(f"it holds a {type(value).__name__}, where only numbers, text and tensors belong")


def _without_attributes(value: Any) -> Any:
    """Return checked values in dictionaries of Python's own.

    An ``OrderedDict`` may bring attributes, which hide its methods: one whose ``items`` finds nothing passes any check.
    """
    if isinstance(value, dict):
        return {name: _without_attributes(one) for name, one in dict.items(value)}
    if isinstance(value, list | tuple):
        return type(value)(map(_without_attributes, value))
    return value


def check_finite(weights: Mapping[str, torch.Tensor]) -> None:
    """Raise ``ValueError`` for the first tensor that is not of real numbers, all of them finite, naming it.

    Also for variances of batch normalisation that are below 0, whose roots are not finite.
    """
    for name, tensor in weights.items():
        shown = abridged(str(name))
        if tensor.is_complex():
            raise ValueError(f"{shown} has complex numbers ({tensor.dtype}), which are no weights")
        if tensor.is_floating_point() and tensor.dtype not in _FLOATS:
            raise ValueError(f"{shown} has numbers of a kind ({tensor.dtype}) that no network here has")
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise ValueError(f"{shown} has values that are not finite (NaN or infinity)")
        if name.rpartition(".")[2] == "running_var" and bool((tensor < 0).any()):
            raise ValueError(f"{shown} has values below 0, which are no variances")


def _check_archive(archive: zipfile.ZipFile, *, size: int) -> bytes:
    """Check the archive's entries and their checksums; return the pickle. ``size`` is the file's, in bytes."""
    entries = archive.infolist()
    if any(entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1 for entry in entries):
        raise ValueError("its entries are compressed or encrypted, those of a checkpoint are not")
    if sum(entry.file_size for entry in entries) > size:
        raise ValueError("its entries claim to be larger than the file")
    names = [entry.filename for entry in entries]
    # torch takes DATA.PKL for data.pkl, so no two names may differ in case alone.
    if len({name.split("/")[0] for name in names}) != 1 or len({name.casefold() for name in names}) != len(names):
        raise ValueError("it is a zip file of something else")
    if damaged := archive.testzip():
        raise ValueError(f"{abridged(damaged)} does not match its checksum")
    try:
        return archive.read(f"{names[0].split('/')[0]}/data.pkl")
    except KeyError:
        raise ValueError("it is a zip file of something else") from None


def _expect_one_directory(handle: IO[bytes], found: int) -> None:
    """Raise ``ValueError`` unless the archive says that its directory is where Python has found it, at ``found``.

    Python takes what stands before the end record; torch goes to the offset in that record, or in its 64-bit one, which
    it finds by another offset. See sections 4.3.14 to 4.3.16 of PKWARE's APPNOTE.TXT.
    """
    at = handle.seek(0, 2) - 98
    handle.seek(max(at, 0))
    tail = handle.read().rjust(98, b"\0")
    large, locator, end = tail[:56], tail[56:76], tail[76:]
    if locator[:4] == b"PK\x06\x07":
        (offset,), (place,) = struct.unpack("<Q", large[48:]), struct.unpack("<Q", locator[8:16])
        sound = large[:4] == b"PK\x06\x06" and place == at
    else:
        (offset,), sound = struct.unpack("<L", end[16:20]), True
    if not (sound and end[:4] == b"PK\x05\x06" and end[20:] == b"\0\0" and offset == found):
        raise ValueError("it is a zip file of something else")


def _check_pickle(pickled: bytes | IO[bytes]) -> None:
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


def _check_shape(shape: Sequence[int], *, bytes_each: int) -> None:
    """Raise ``ValueError`` for a shape that torch stores, since one side is 0, but does not compute with."""
    if len(shape) > _MOST_SIDES or math.prod(max(side, 1) for side in shape) * bytes_each >= 2**63:
        raise ValueError(f"it holds a tensor of an impossible shape, {abridged('x'.join(map(str, shape)))}")


def _check_tensor(tensor: torch.Tensor) -> None:
    kind = "sparse" if tensor.layout != torch.strided else "quantised" if tensor.is_quantized else tensor.device.type
    if kind != "cpu":
        raise ValueError(f"it holds a {kind} tensor, where only ordinary ones belong")
    _check_shape(tensor.shape, bytes_each=tensor.element_size())
    # A tensor may show the same few bytes as any number of values; whoever copies it would need memory for them all.
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise ValueError(f"it holds a tensor of {tensor.numel()} values that is larger than its data")
