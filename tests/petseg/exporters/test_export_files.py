"""The files of an export: after an error none of the new ones stays, and nobody else's file is touched."""

import itertools
import threading
from pathlib import Path

import pytest

from petseg.exporters.export_files import write_export
from petseg.host import written_together
from shards.store import atomic


@pytest.mark.parametrize("exchange", [True, False])
def test_after_an_error_every_file_is_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exchange: bool
) -> None:
    """But for those that were replaced where the file system cannot exchange two files."""
    old, link, new, last = (tmp_path / name for name in ("old", "link", "new", "last"))
    old.write_text("before")
    link.symlink_to("old")
    last.mkdir()
    if not exchange:
        monkeypatch.setattr(atomic, "rename_specially", lambda *_: False)
    with pytest.raises(IsADirectoryError) as caught:
        write_export({old: "after", link: "after", new: "new", last: "last"}, overwrite=True)
    assert caught.value.filename == str(last)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last", "link", "old"]
    assert old.read_text() == ("before" if exchange else "after")
    assert link.is_symlink() == exchange
    last.rmdir()
    write_export({old: "after", link: "after", new: "new", last: "last"}, overwrite=True)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        "old": "after", "link": "after", "new": "new", "last": "last"
    }  # fmt: skip
    assert not link.is_symlink()


def test_after_a_full_disk_no_file_is_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "old").write_text("before")
    original, calls = written_together.flush_file, itertools.count(1)

    def full(descriptor: int, *, folder: Path) -> None:
        if next(calls) == 3:
            raise OSError(28, "No space left on device")
        original(descriptor, folder=folder)

    monkeypatch.setattr(written_together, "flush_file", full)
    with pytest.raises(OSError, match=r"No space.*/last"):
        write_export({tmp_path / name: name for name in ("old", "new", "last")}, overwrite=True)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"old": "before"}


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
    original, first = atomic.rename_file, threading.current_thread()

    def interleaved(source: Path, target: Path) -> None:
        original(source, target)
        if threading.current_thread() is first and target == names[0]:  # the other one begins between this one's files
            second.start()
            second.join(0.5)

    def write(content: str) -> None:
        write_export(dict.fromkeys(names, content), overwrite=True)

    second = threading.Thread(target=write, args=("second",))
    monkeypatch.setattr(atomic, "rename_file", interleaved)
    write("first")
    second.join()
    assert [path.read_text() for path in names] == ["second", "second"]
