"""The files of an export: after an error none of the new ones stays, and nobody else's file is touched."""

import threading
from pathlib import Path

import pytest

from petseg.exporters import export_files
from petseg.exporters.export_files import write_export


def test_new_files_are_removed_and_replaced_ones_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old, new, last = (tmp_path / name for name in ("old", "new", "last"))
    old.write_text("before")
    original = export_files.write_atomically

    def full(path: Path, data: bytes | str, *, replace: bool) -> None:
        if path == last:
            raise OSError(28, "No space left on device", str(path))
        original(path, data, replace=replace)

    monkeypatch.setattr(export_files, "write_atomically", full)
    with pytest.raises(OSError, match="No space"):
        write_export({old: "after", new: "new", last: "last"}, overwrite=True)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"old": "after"}


def test_a_file_that_another_process_has_made_stays(tmp_path: Path) -> None:
    first, other = tmp_path / "first", tmp_path / "other"
    other.write_text("theirs")
    with pytest.raises(FileExistsError):
        write_export({first: "first", other: "mine"}, overwrite=False)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"other": "theirs"}


def test_of_two_that_write_at_the_same_time_all_files_are_of_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One's model stayed with the other's card. Threads stand for processes: what they hold is the file system's."""
    names = [tmp_path / name for name in ("a.onnx", "a.onnx.md")]
    original, second = export_files.write_atomically, threading.Thread(target=lambda: None)

    def interleaved(path: Path, data: bytes | str, *, replace: bool) -> None:
        original(path, data, replace=replace)
        if data == "first" and path == names[0]:  # the other one begins between this one's files
            second.start()
            second.join(0.5)

    def write(content: str) -> None:
        write_export(dict.fromkeys(names, content), overwrite=True)

    second = threading.Thread(target=write, args=("second",))
    monkeypatch.setattr(export_files, "write_atomically", interleaved)
    write("first")
    second.join()
    assert [path.read_text() for path in names] == ["second", "second"]
