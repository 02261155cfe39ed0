"""Pickles, written by hand, that make torch allocate, read or write what is not in their file."""

from __future__ import annotations

import pickle
import struct
import zipfile
from pathlib import Path

import pytest
import torch

from petseg.host.tensor_archive import read_tensors

NOTHING = b"N"


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def number(value: int) -> bytes:
    return b"J" + struct.pack("<i", value)


def storage(key: str, count: int, view: bytes = b"", *, kind: bytes = b"FloatStorage") -> bytes:
    return b"(" + text("storage") + b"ctorch\n" + kind + b"\n" + text(key) + text("cpu") + number(count) + view + b"tQ"


def tensor(values: bytes, count: int, *, offset: int = 0, stride: int = 1) -> bytes:
    shape = number(offset) + number(count) + b"\x85" + number(stride) + b"\x85\x89"
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + values + shape + b"ccollections\nOrderedDict\n)RtR"


def new_file(path: Path, value: bytes, *, values: int = 4) -> Path:
    with zipfile.ZipFile(path, "w") as target:
        target.writestr("a/data.pkl", b"\x80\x02}" + text("x") + value + b"s.")
        target.writestr("a/version", "3\n")
        target.writestr("a/byteorder", "little")
        target.writestr("a/data/0", struct.pack(f"<{values}f", *range(values)))
    return path


def old_file(path: Path, content: bytes, names: bytes, *counts: int) -> Path:
    start = pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2) + pickle.dumps({}, 2)
    data = b"".join(struct.pack(f"<Q{count}f", count, *range(count)) for count in counts)
    path.write_bytes(start + b"\x80\x02" + content + b"." + names + data)
    return path


def test_sound_files_by_hand_are_read(tmp_path: Path) -> None:
    """The faults below are alone."""
    new = new_file(tmp_path / "new.pt", tensor(storage("0", 4), 2, offset=1, stride=2))
    assert read_tensors(new)["x"].tolist() == [1, 3]
    content = b"}" + text("x") + tensor(storage("a", 4, NOTHING), 4) + b"s"
    old = old_file(tmp_path / "old.pt", content, pickle.dumps(["a"], 2), 4)
    assert read_tensors(old, old=True)["x"].tolist() == [0, 1, 2, 3]


GROWN = number(0) + number(1_500_000_000) + b"\x85" + number(1) + b"\x85t"  # t.set_(t, 0, (1.5e9,), (1,)) of a BUILD


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (tensor(storage("0", 4), 4) + b"q\x00)b(h\x00" + GROWN + b"b", "changed while it is read"),
        (tensor(storage("0", 4), 5), "larger than its data"),
        (tensor(storage("0", 4), 2, offset=3), "larger than its data"),
        (tensor(storage("0", 4), 3, stride=2), "larger than its data"),
        (tensor(storage("0", 4), -1), "impossible shape"),
        (tensor(storage("0", 5), 5), "larger than its data"),  # than the entry of the archive
        (tensor(storage("0", 3), 3), "larger than its data"),  # not what torch writes, either
        (tensor(storage("1", 4), 4), "larger than its data"),
        (tensor(storage("0", 4, b"(" + text("b") + number(0) + number(4) + b"t"), 4), "names a storage"),
        (tensor(storage("0", 4, kind=b"QInt8Storage"), 4), "names a storage"),
    ],
    ids=["grown", "longer", "beyond", "stride", "negative", "entry", "less", "no entry", "view", "quantised"],
)
def test_a_tensor_is_within_its_data(value: bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        read_tensors(new_file(tmp_path / "a.pt", value))


def test_no_storage_of_an_old_file_shows_another(tmp_path: Path) -> None:
    """torch makes the other one larger for a tensor that needs it, and reads the file into memory that it has freed."""
    view = b"(" + text("b") + number(0) + number(100) + b"t"
    parts = [storage("a", 100, view), tensor(storage("a", 100, NOTHING), 200), tensor(storage("b", 100, NOTHING), 100)]
    content = b"}(" + b"".join(text(str(name)) + part for name, part in enumerate(parts)) + b"u"
    with pytest.raises(ValueError, match=r"names a storage|larger than its data"):
        read_tensors(old_file(tmp_path / "a.pt", content, pickle.dumps(["b", "a"], 2), 100, 100), old=True)


def test_a_place_in_the_memo_that_is_far_away(tmp_path: Path) -> None:
    """Python allocates the memo up to it: 4 GB."""
    with pytest.raises(ValueError, match="its pickle is damaged"):
        read_tensors(old_file(tmp_path / "a.pt", b"}r" + struct.pack("<I", 2**28), pickle.dumps([], 2)), old=True)


def test_names_of_storages_that_take_years_to_show(tmp_path: Path) -> None:
    """Lists that hold the one before twice."""
    doubled = b"\x80\x02]]r\0\0\0\x000"
    for level in range(60):
        doubled += b"]r" + struct.pack("<I", level + 1) + b"(" + (b"j" + struct.pack("<I", level)) * 2 + b"e0"
    names = doubled + b"j" + struct.pack("<I", 60) + b"a."
    with pytest.raises(ValueError, match="its storages have no names"):
        read_tensors(old_file(tmp_path / "a.pt", b"}", names), old=True)
    key = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + doubled[2:] + b"j" + struct.pack("<I", 60)
    content = b"}" + text("x") + key + text("cpu") + number(1) + b"NtQs"
    with pytest.raises(ValueError, match="names a storage"):
        read_tensors(old_file(tmp_path / "a.pt", content, pickle.dumps([], 2)), old=True)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"}" + b"\x8a\x09" + bytes(8) + b"\x01" + b"K\x01s", "integer of more than 64 bits"),  # hashed as a name
        (b"}" + text("x") + b"]" + b"\x8f" * 3 + b"000s", "Python objects"),  # each byte takes 220
    ],
    ids=["integer", "sets"],
)
def test_values_that_cost_more_than_they_take(content: bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        read_tensors(old_file(tmp_path / "a.pt", content, pickle.dumps([], 2)), old=True)


def test_data_is_not_shown_again_and_again(tmp_path: Path) -> None:
    """Each name is checked, and copied where it has another type than weights: 6 GB of 2 MB."""
    for names, sound in ((8, True), (9, False)):
        torch.save(dict.fromkeys(map(str, range(names)), torch.ones(100)), tmp_path / "a.pt")
        if sound:
            assert len(read_tensors(tmp_path / "a.pt")) == names
            continue
        with pytest.raises(ValueError, match="again and again"):
            read_tensors(tmp_path / "a.pt")


def test_weights_of_all_types_are_read(tmp_path: Path) -> None:
    kinds = (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16)
    kinds += (torch.int8, torch.uint8, torch.bool, torch.complex64, torch.complex128)
    base = torch.arange(6.0)
    document = {str(kind): torch.ones(3, 2).to(kind).t() for kind in kinds} | {"empty": torch.ones(0, 3), "n": base[2]}
    document |= {"part": base[1:4], "same": base, "parameter": torch.nn.Parameter(base)}
    for old in (False, True):
        torch.save(document, tmp_path / "a.pt", _use_new_zipfile_serialization=not old)
        found = read_tensors(tmp_path / "a.pt", old=True)
        for name, value in document.items():
            assert torch.equal(found[name], value.detach()), name
