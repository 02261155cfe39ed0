"""Reads files of tensors from anybody: bounded in memory, plain data and tensors only, no code.

``torch.load(weights_only=True)`` runs no code, but it inflates whatever is compressed, builds tensors that are larger
than the file, and advises to switch its protection off. So torch is given an archive that was written here, of what was
checked, and what it returns is checked before anything uses it.
"""

import io
import json
import math
import pickle
import re
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from petseg.host.old_tensor_file import check_old_file
from petseg.host.pickle_checks import Claims, check_pickle
from shards.errors import abridged
from shards.store.byte_ranges import read_regular

_ZIP = b"PK\x03\x04"
_OF_TENSORS = re.compile(r"data\.pkl|byteorder|version|data/[0-9]+")  # entries of an archive that torch needs
_MOST_VALUES = 1_000_000
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_SAFETENSORS = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_MOST_BYTES_EACH = 16  # of a tensor's values: complex128
_MOST_SIDES = 64  # of a tensor; torch computes with no more
_MOST_SHARED = 8  # times that data may be shown, on average: layers may share weights
_MOST_LEVELS = 8  # dictionaries and lists within each other


def read_tensors(path: Path, *, old: bool = False) -> Any:
    """Return the content of a ``torch.save`` file, on the CPU: dictionaries, lists, numbers, text and tensors.

    ``old``: also of one that is no zip archive, as torch wrote them before version 1.6.

    Raises ``ValueError`` with what is wrong if the file is anything else, is damaged, or would take more memory than
    its own size; torch's own errors are of any type.
    """
    with path.open("rb") as handle:
        if old and handle.read(len(_ZIP)) != _ZIP:  # this is how torch tells them apart
            handle.seek(0)
            readable = io.BytesIO(handle.read())
            check_old_file(readable.getvalue())
        else:
            with zipfile.ZipFile(handle) as archive:
                readable = _rewritten(archive, size=path.stat().st_size)
    try:
        document = torch.load(readable, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:  # torch's own words advise to switch the protection off
        raise ValueError("it holds values, such as huge integers, which petseg never loads") from None
    check_values(document)
    return _without_attributes(document)


def read_safetensors(path: Path) -> tuple[dict[str, str], dict[str, torch.Tensor]]:
    """Return the metadata and the tensors of a safetensors file.

    Raises ``ImportError`` without that package; else ``ValueError``, ``OSError`` or its ``SafetensorError``.
    """
    from safetensors import deserialize

    data = read_regular(path)  # no memory map: a file that is cut while it is read would end the process
    tensors = {}
    for name, found in deserialize(data):  # type: ignore[no-untyped-call]
        _check_shape(found["shape"], bytes_each=_MOST_BYTES_EACH)  # one of a million sides takes hours to make
        kind = _SAFETENSORS.get(found["dtype"])
        if kind is None:
            raise ValueError(f"{abridged(name)} has numbers of a kind ({found['dtype']}) that no network here has")
        values = torch.frombuffer(found["data"], dtype=kind) if found["data"] else torch.empty(0, dtype=kind)
        tensors[name] = values.reshape(found["shape"])
    check_values(tensors)
    return safetensors_header(data)[0].get("__metadata__") or {}, tensors


def safetensors_header(data: bytes) -> tuple[dict[str, Any], int]:
    """Return the header of a safetensors file that its library has written or read, and where the tensors start."""
    start = 8 + int.from_bytes(data[:8], "little")  # the header's length, then the header, which spaces fill up
    return json.loads(data[8:start]), start


def check_values(document: Any) -> None:
    """Raise ``ValueError`` unless a document consists of bounded plain values and of ordinary tensors on the CPU."""
    pending, seen, shown, stored = [(document, 0)], 0, 0, dict[int, int]()
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
            shown += value.numel() * value.element_size()
            stored[value.untyped_storage().data_ptr()] = value.untyped_storage().nbytes()
        elif isinstance(value, int) and not -(2**63) <= value < 2**64:  # Python refuses to print longer ones
            raise ValueError("it holds an integer of more than 64 bits")
        elif not isinstance(value, str | int | float | None):
            raise ValueError(f"it holds a {type(value).__name__}, where only numbers, text and tensors belong")
    if shown > _MOST_SHARED * sum(stored.values()):  # whoever copies them needs memory for them all
        raise ValueError("its tensors show the same data again and again")


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


def _rewritten(archive: zipfile.ZipFile, *, size: int) -> io.BytesIO:
    """Return an archive of the same entries, which were checked. ``size`` is the file's, in bytes.

    torch does not read the one that was checked: it finds the directory in another way than Python, takes an entry with
    a folder's attribute for one (and what is in memory for its values), and does more with other entries.
    """
    entries = archive.infolist()
    if any(entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1 for entry in entries):
        raise ValueError("its entries are compressed or encrypted, those of a checkpoint are not")
    if sum(entry.file_size for entry in entries) > size:
        raise ValueError("its entries claim to be larger than the file")
    names = [entry.filename for entry in entries]
    # torch takes DATA.PKL for data.pkl, so no two names may differ in case alone.
    if len({name.split("/")[0] for name in names}) != 1 or len({name.casefold() for name in names}) != len(names):
        raise ValueError("it is a zip file of something else")
    root = f"{names[0].split('/')[0]}/"
    if f"{root}data.pkl" not in names:
        raise ValueError("it is a zip file of something else")
    copy, sizes = io.BytesIO(), dict[str, int]()
    with zipfile.ZipFile(copy, "w") as target:
        for name in sorted(names, key=lambda name: name == f"{root}data.pkl"):  # the last: it tells of the others
            try:
                data = archive.read(name)
            except zipfile.BadZipFile:
                raise ValueError(f"{abridged(name)} does not match its checksum, or is damaged") from None
            sizes[name.removeprefix(f"{root}data/")] = len(data)
            if _OF_TENSORS.fullmatch(name.removeprefix(root)):
                target.writestr(f"archive/{name.removeprefix(root)}", data)
    check_pickle(data)
    for name, (count, itemsize) in Claims(io.BytesIO(data)).storages.items():
        if count * itemsize != sizes.get(name):
            raise ValueError("it holds a tensor that is larger than its data")
    copy.seek(0)
    return copy


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
