"""Files of tensors that Python's zip reader and torch's see differently, and old ones without an archive."""

from __future__ import annotations

import collections
import io
import json
import pickle
import pickletools
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from petseg.host.tensor_archive import check_finite, read_safetensors, read_tensors

COUNT = 1 << 20  # of values, which a compressed file holds in some kilobytes


def archive(document: Any, *, method: int = zipfile.ZIP_STORED) -> tuple[bytes, bytes]:
    """What torch writes, written again by Python: the entries, and their directory."""
    saved, written = io.BytesIO(), io.BytesIO()
    torch.save(document, saved)
    with zipfile.ZipFile(saved) as source, zipfile.ZipFile(written, "w", method) as target:
        for name in source.namelist():
            target.writestr(f"archive/{name.split('/', 1)[1]}", source.read(name))
    data = written.getvalue()
    (offset,) = struct.unpack_from("<L", data, len(data) - 6)
    return data[:offset], data[offset:-22]


def moved(directory: bytes, by: int) -> bytes:
    """A directory whose entries are elsewhere."""
    result, at = bytearray(directory), 0
    while at < len(result):
        lengths = struct.unpack_from("<3H", result, at + 28)
        struct.pack_into("<L", result, at + 42, struct.unpack_from("<L", result, at + 42)[0] + by)
        at += 46 + sum(lengths)
    return bytes(result)


def end(directory: bytes, offset: int) -> bytes:
    count = directory.count(b"PK\x01\x02")
    return struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, count, count, len(directory), offset, 0)


def large_end(directory: bytes, offset: int) -> bytes:
    count = directory.count(b"PK\x01\x02")
    return struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, count, count, len(directory), offset)


def two_archives(kind: str) -> bytes:
    """A file in which Python finds a sound archive, and torch one that is compressed."""
    sound, seen_by_python = archive({"x": torch.zeros(4)})
    harmful, seen_by_torch = archive({"x": torch.ones(COUNT)}, method=zipfile.ZIP_DEFLATED)
    harmful += bytes(len(sound))  # so that no offset becomes negative
    first, at = harmful + seen_by_torch, len(harmful)
    if kind == "another record":
        record = large_end(seen_by_torch, at)
        data = first + record + sound + moved(seen_by_python, len(first + record))
        locator = struct.pack("<4sLQL", b"PK\x06\x07", 0, len(first), 1)
        own = large_end(seen_by_python, len(first + record + sound))
        return data + own + locator + end(seen_by_python, 0xFFFFFFFF)
    # What Python takes for the length of something before the archive, it adds to each offset.
    data = first + sound + moved(seen_by_python, len(first) - len(seen_by_torch + sound))
    if kind == "another offset":
        return data + end(seen_by_python, at)
    locator = struct.pack("<4sLQL", b"PK\x06\x07", 0, len(data), 1)
    return data + large_end(seen_by_python, at) + locator + end(seen_by_python, 0xFFFFFFFF)


@pytest.mark.parametrize("kind", ["another offset", "another offset of 64 bits", "another record"])
def test_what_is_checked_is_what_torch_reads(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "two.pt"
    path.write_bytes(two_archives(kind))
    assert path.stat().st_size < COUNT
    with zipfile.ZipFile(path) as seen:  # nothing that a look at the archive would show
        assert seen.testzip() is None
        assert {entry.compress_type for entry in seen.infolist()} == {zipfile.ZIP_STORED}
    assert len(torch.load(path, weights_only=True)["x"]) == COUNT
    for old in (False, True):
        assert len(read_tensors(path, old=old)["x"]) < COUNT


def test_names_that_torch_takes_for_one(tmp_path: Path) -> None:
    """Of names that differ in case alone, torch reads another one than Python."""
    path = tmp_path / "case.pt"
    with zipfile.ZipFile(path, "w") as target:
        for number, spelled in enumerate(("data.pkl", "Data.pkl", "data.pkL")):
            saved = io.BytesIO()
            torch.save({"x": number}, saved)
            with zipfile.ZipFile(saved) as source:
                for name in source.namelist():
                    short = name.split("/", 1)[1]
                    if short == "data.pkl":
                        target.writestr(f"archive/{spelled}", source.read(name))
                    elif not number:
                        target.writestr(f"archive/{short}", source.read(name))
    assert torch.load(path, weights_only=True)["x"] > 0
    with pytest.raises(ValueError, match="zip file of something else"):
        read_tensors(path)


def test_archives_of_torch_and_of_python_are_read(tmp_path: Path) -> None:
    torch.save({"x": torch.ones(4)}, tmp_path / "torch.pt")
    entries, directory = archive({"x": torch.ones(4)})
    (tmp_path / "python.pt").write_bytes(entries + directory + end(directory, len(entries)))
    for name in ("torch.pt", "python.pt"):
        assert read_tensors(tmp_path / name)["x"].tolist() == [1] * 4


def test_one_flipped_bit_makes_no_weights(tmp_path: Path) -> None:
    """torch takes an entry with the attribute of a folder for one, and what is in memory for its values."""
    torch.save({"x": torch.full((1000,), 7.0), "y": torch.full((1000,), 7.0)}, tmp_path / "a.pt")
    data = (tmp_path / "a.pt").read_bytes()
    with zipfile.ZipFile(tmp_path / "a.pt") as seen:
        at = seen.start_dir
    while data[at : at + 4] == b"PK\x01\x02":
        flipped = bytearray(data)
        flipped[at + 38] ^= 0x10
        (tmp_path / "b.pt").write_bytes(flipped)
        for values in read_tensors(tmp_path / "b.pt").values():
            assert values.tolist() == [7.0] * 1000
        at += 46 + sum(struct.unpack("<3H", data[at + 28 : at + 34]))


def test_what_stands_before_an_archive_is_not_read(tmp_path: Path) -> None:
    """torch reads the front of a file, and Python its end: the pickle that was checked was another one."""
    torch.save({"x": torch.ones(4)}, tmp_path / "sound.pt")
    body = b"\x80\x02}" + b")" + b"\x85" * 1000 + b"K\x01s."
    front = old_file(body, before=tmp_path / "empty.pth")
    (tmp_path / "a.pt").write_bytes(front)
    with zipfile.ZipFile(tmp_path / "sound.pt") as source, zipfile.ZipFile(tmp_path / "a.pt", "a") as target:
        for name in source.namelist():
            target.writestr(name, source.read(name))
    assert read_tensors(tmp_path / "a.pt")["x"].tolist() == [1] * 4
    with pytest.raises(ValueError, match="something follows its storages"):
        read_tensors(tmp_path / "a.pt", old=True)


def test_other_entries_of_an_archive_are_not_given_to_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With ``constants.pkl`` it is a program for old versions of torch, which run it whatever they were told."""
    torch.save({"x": torch.ones(4)}, tmp_path / "a.pt")
    with zipfile.ZipFile(tmp_path / "a.pt", "a") as target:
        target.writestr("a/constants.pkl", b"x")
        target.writestr("a/code/__torch__.py", b"x")
    given, original = [], torch.load

    def load(file: io.BytesIO, **options: Any) -> Any:
        given.append(zipfile.ZipFile(io.BytesIO(file.getvalue())).namelist())
        return original(file, **options)

    monkeypatch.setattr(torch, "load", load)
    assert read_tensors(tmp_path / "a.pt")["x"].tolist() == [1] * 4
    assert [sorted(names) for names in given] == [
        ["archive/byteorder", "archive/data.pkl", "archive/data/0", "archive/version"]
    ]


def old_weights(folder: Path) -> bytes:
    document = {"x": torch.arange(4.0), "y": torch.ones(3, dtype=torch.int64)}
    torch.save(document, folder / "old.pth", _use_new_zipfile_serialization=False)
    return (folder / "old.pth").read_bytes()


@pytest.mark.parametrize("kind", ["unnamed", "another count", "cut", "longer", "a tar", "huge"])
def test_old_files_have_the_values_that_they_claim(kind: str, tmp_path: Path) -> None:
    """A storage that is named and not there is as large as is claimed, of what is in memory."""
    data = old_weights(tmp_path)
    read = read_tensors(tmp_path / "old.pth", old=True)
    assert (read["x"].tolist(), read["y"].tolist()) == ([0, 1, 2, 3], [1] * 3)
    stream, starts = io.BytesIO(data), list[int]()
    for _ in range(5):
        starts.append(stream.tell())
        assert [*pickletools.genops(stream)]
    content, names = starts[3:]
    values = data.index(struct.pack("<Q", 4), names)
    changed = {
        "unnamed": data[:names] + pickle.dumps([], 2),
        "another count": data[:values] + struct.pack("<Q", 5) + data[values + 8 :],
        "cut": data[:-1],
        "longer": data + b"x",
        "a tar": data,
        "huge": data[:content] + data[content:names].replace(b"K\x04N", b"J\xff\xff\xff\x7fN") + data[names:],
    }[kind]
    assert (changed == data) == (kind == "a tar")
    if kind == "a tar":
        head = tarfile.TarInfo()
        head.name = "pickle"
        changed = head.tobuf()
    (tmp_path / "a.pth").write_bytes(changed)
    with pytest.raises(ValueError, match="tar file" if kind == "a tar" else "storage"):
        read_tensors(tmp_path / "a.pth", old=True)


def test_a_file_of_safetensors_that_is_cut_meanwhile_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a memory map, reading what was cut off ends the process with SIGBUS."""
    from safetensors.torch import save_file

    path = tmp_path / "a.safetensors"
    save_file({"x": torch.ones(100_000), "n": torch.tensor(3), "empty": torch.ones(0, 2)}, path, metadata={"a": "b"})
    metadata, tensors = read_safetensors(path)
    path.write_bytes(b"")
    assert metadata == {"a": "b"}
    assert (tensors["x"].sum().item(), tensors["n"].item(), tuple(tensors["empty"].shape)) == (100_000, 3, (0, 2))


def test_an_end_that_python_does_not_find(tmp_path: Path) -> None:
    """``zipfile.is_zipfile`` says no, torch reads the archive all the same, and inflates it."""
    entries, directory = archive({"x": torch.ones(COUNT)}, method=zipfile.ZIP_DEFLATED)
    path = tmp_path / "w.pth"
    path.write_bytes(entries + directory + end(directory, len(entries)) + b"PK\x05\x06")
    assert not zipfile.is_zipfile(path)
    assert len(torch.load(path, weights_only=True)["x"]) == COUNT
    with pytest.raises(zipfile.BadZipFile):
        read_tensors(path, old=True)


def old_file(content: bytes, *, before: Path) -> bytes:
    """A file as torch wrote it before version 1.6, with another pickle as its content."""
    torch.save({}, before, _use_new_zipfile_serialization=False)
    data, stream = before.read_bytes(), io.BytesIO(before.read_bytes())
    for _ in range(3):
        pickle.load(stream)
    start = stream.tell()
    pickle.load(stream)
    return data[:start] + content + data[stream.tell() :]


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"\x80\x02cbuiltins\nbytearray\n(J\x00\x00\x00\x40tR.", r"builtins\.bytearray"),  # a gigabyte of zeros
        (b"\x80\x02c__builtin__\nset\n]\x85R.", "__builtin__.set"),
        (b"\x80\x02ccollections\nCounter\n}\x85R.", "collections.Counter"),
    ],
    ids=["bytes", "set", "counter"],
)
def test_old_files_hold_tensors_alone_too(content: bytes, named: str, tmp_path: Path) -> None:
    path = tmp_path / "old.pth"
    path.write_bytes(old_file(content, before=tmp_path / "empty.pth"))
    with pytest.raises(ValueError, match=f"Python objects .{named}"):
        read_tensors(path, old=True)


def file_of(folder: Path, change: Callable[[bytes], bytes], document: Any = ()) -> Path:
    """A file whose pickle was changed."""
    saved, path = io.BytesIO(), folder / "a.pt"
    torch.save(document, saved)
    with zipfile.ZipFile(saved) as source, zipfile.ZipFile(path, "w") as target:
        for name in source.namelist():
            data = source.read(name)
            target.writestr(name, change(data) if name.endswith("data.pkl") else data)
    return path


@pytest.mark.parametrize(
    "name",
    [
        b")" + b"\x85" * 1_000_000,  # hashing it overflows the stack of the process
        b")" + b"2\x86" * 60,  # 2 ** 60 steps: each holds the one before twice
        b")" + b"q\x01h\x01\x86" * 60,  # likewise, by the memo
        b"(" + b"K\x01" * 10_001 + b"t",
    ],
    ids=["a million levels", "doubled", "doubled by the memo", "of many values"],
)
def test_names_that_cannot_be_hashed(name: bytes, tmp_path: Path) -> None:
    path = file_of(tmp_path, lambda _: b"\x80\x02}" + name + b"K\x01s.")
    with pytest.raises(ValueError, match="its values are nested too deeply"):
        read_tensors(path)


@pytest.mark.parametrize("pickled", [b"\x80\x02\x85.", b"\x80\x02h\x05.", b"\x80\x02}K\x01u.", b"\x80\x02q\x01."])
def test_a_pickle_that_lacks_values(pickled: bytes, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"its pickle is damaged|no MARK exists"):
        read_tensors(file_of(tmp_path, lambda _: pickled))


@pytest.mark.parametrize("hidden", ["items", "keys", "values", "__class__"])
def test_attributes_of_dictionaries_hide_nothing(hidden: str, tmp_path: Path) -> None:
    weights = collections.OrderedDict(weight=torch.full((2,), torch.nan))
    weights._metadata = {"": {"version": 1}}  # type: ignore[attr-defined]  # as a module's have
    vars(weights)["hidden"] = collections.OrderedDict  # its own name would hide it from whoever saves it, too
    name, other = (b"X" + struct.pack("<I", len(each)) + each.encode() for each in ("hidden", hidden))
    path = file_of(tmp_path, lambda pickled: pickled.replace(name, other), {"model": weights})
    assert other in path.read_bytes()
    document = read_tensors(path)
    assert type(document["model"]) is dict
    with pytest.raises(ValueError, match="weight has values that are not finite"):
        check_finite(document["model"])


def test_attributes_hide_no_tensor_that_is_larger_than_its_data(tmp_path: Path) -> None:
    weights = collections.OrderedDict(weight=torch.zeros(1).expand(COUNT))
    vars(weights)["values"] = collections.OrderedDict
    torch.save(weights, tmp_path / "a.pt")
    assert not [*torch.load(tmp_path / "a.pt", weights_only=True).values()]
    with pytest.raises(ValueError, match="larger than its data"):
        read_tensors(tmp_path / "a.pt")


def test_no_length_that_an_old_file_claims_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.pt").write_bytes(b"\x80\x04\x8e" + struct.pack("<Q", 1 << 50) + b"x.")
    with pytest.raises(ValueError, match=r"expected .* bytes"):
        read_tensors(tmp_path / "a.pt", old=True)


@pytest.mark.parametrize("shape", [(0, *[1] * 64), (0, 2**62, 4), (2**63 - 1, 0)], ids=["sides", "strides", "bytes"])
def test_no_tensor_has_a_shape_that_torch_does_not_compute_with(shape: tuple[int, ...], tmp_path: Path) -> None:
    saved, exported = tmp_path / "a.pt", tmp_path / "a.safetensors"
    torch.save({"x": torch.as_strided(torch.empty(0), shape, [1] * len(shape))}, saved)
    header = json.dumps({"x": {"dtype": "F32", "shape": shape, "data_offsets": [0, 0]}}).encode()
    exported.write_bytes(struct.pack("<Q", len(header)) + header)
    with pytest.raises(ValueError, match="an impossible shape"):
        read_tensors(saved)
    pytest.importorskip("safetensors")
    with pytest.raises(ValueError, match="an impossible shape"):
        read_safetensors(exported)


@pytest.mark.timeout(60)
def test_a_tensor_of_a_million_sides_is_never_made(tmp_path: Path) -> None:
    pytest.importorskip("safetensors")
    path = tmp_path / "a.safetensors"
    header = json.dumps({"x": {"dtype": "F32", "shape": [0] + [1] * 1_000_000, "data_offsets": [0, 0]}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    with pytest.raises(ValueError, match="an impossible shape"):
        read_safetensors(path)
