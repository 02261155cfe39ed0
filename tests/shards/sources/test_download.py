"""Downloading from a server on this machine."""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import http.server
import io
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from shard_sources import options

from shards.build.build_set import build
from shards.cli import main
from shards.errors import SourceError, UsageError
from shards.sources.download import MARK, download, official_archives
from shards.store import atomic


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves a folder, and counts what it is asked for."""

    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(self.path)
        super().do_GET()

    def log_message(self, *arguments: object) -> None:
        pass


@contextlib.contextmanager
def server(folder: Path) -> Iterator[tuple[str, list[str]]]:
    asked: list[str] = []
    handler = functools.partial(type("Counting", (Handler,), {"asked": asked}), directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{running.server_port}", asked
        finally:
            running.shutdown()
            thread.join()


@pytest.fixture(scope="module")
def archives(tiny_pets: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """images.tar.gz and annotations.tar.gz as the dataset has them."""
    folder = tmp_path_factory.mktemp("served")
    for name in ("images", "annotations"):
        with tarfile.open(folder / f"{name}.tar.gz", "w:gz") as archive:
            archive.add(tiny_pets / name, arcname=name)
    return folder


def listed(folder: Path, base: str) -> list[tuple[str, str]]:
    names = ("images.tar.gz", "annotations.tar.gz")
    return [(f"{base}/{name}", hashlib.md5((folder / name).read_bytes()).hexdigest()) for name in names]


def test_what_is_downloaded_can_be_built(archives: Path, tiny_pets: Path, tmp_path: Path) -> None:
    with server(archives) as (base, _):
        assert download(tmp_path / "pets", archives=listed(archives, base))
    expected = build(tiny_pets, tmp_path / "expected", options(), workers=1).manifest.fingerprint
    assert build(tmp_path / "pets", tmp_path / "out", options(), workers=1).manifest.fingerprint == expected


def test_run_again_it_fetches_only_what_is_missing(archives: Path, tmp_path: Path) -> None:
    with server(archives) as (base, asked):
        chosen = listed(archives, base)
        with pytest.raises(SourceError, match=r"cannot download .*nothing\.tar\.gz: File not found"):
            download(tmp_path, archives=[chosen[0], (f"{base}/nothing.tar.gz", "0" * 32)])
        assert not (tmp_path / MARK).exists()
        asked.clear()
        assert not list(tmp_path.glob(".partial-*"))
        assert download(tmp_path, archives=chosen)
        assert "/images.tar.gz" not in asked
        assert "/annotations.tar.gz" in asked
        asked.clear()
        assert not download(tmp_path, archives=chosen)
        assert not asked


def test_archives_in_a_folder(archives: Path, tmp_path: Path) -> None:
    """``--mirror file:///...``."""
    assert download(tmp_path / "pets", archives=listed(archives, archives.as_uri()))
    assert (tmp_path / "pets" / "images").is_dir()
    with pytest.raises(SourceError, match=r"cannot download file:.*nothing\.tar\.gz: .*No such file"):
        download(tmp_path, archives=[((archives / "nothing.tar.gz").as_uri(), "0" * 32)])


@pytest.mark.parametrize("name", ["images.tar.gz", "annotations.tar.gz", "images/a.jpg", "annotations/trimaps/a.png"])
def test_files_of_other_origin_are_not_replaced(name: str, archives: Path, tmp_path: Path) -> None:
    own = tmp_path / name
    own.parent.mkdir(parents=True, exist_ok=True)
    own.write_bytes(b"the only copy")
    with server(archives) as (base, asked), pytest.raises(UsageError, match=r"exists already.* choose another folder"):
        download(tmp_path, archives=listed(archives, base))
    assert not asked
    assert [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()] == [b"the only copy"]


def test_what_was_unpacked_halfway_is_unpacked_again(archives: Path, tmp_path: Path) -> None:
    with server(archives) as (base, asked):
        chosen = listed(archives, base)
        assert download(tmp_path, archives=chosen)
        (tmp_path / MARK).unlink()
        next((tmp_path / "images").iterdir()).unlink()
        asked.clear()
        assert download(tmp_path, archives=chosen)
        assert not asked
    with tarfile.open(archives / "images.tar.gz") as archive:
        names = {Path(name).name for name in archive.getnames() if "/" in name}
    assert {path.name for path in (tmp_path / "images").iterdir()} == names


def test_wrong_content_is_refused(archives: Path, tmp_path: Path) -> None:
    with server(archives) as (base, _), pytest.raises(SourceError, match="not what torchvision expects"):
        download(tmp_path, archives=[(f"{base}/images.tar.gz", "0" * 32)])
    assert not [*tmp_path.iterdir()]


def test_a_file_that_is_not_an_archive_is_refused(tmp_path: Path) -> None:
    (tmp_path / "served").mkdir()
    for name in ("images.tar.gz", "annotations.tar.gz"):
        (tmp_path / "served" / name).write_bytes(io.BytesIO(b"\x1f\x8bgarbage" * 9).getvalue())
    with server(tmp_path / "served") as (base, _), pytest.raises(SourceError, match="cannot"):
        download(tmp_path / "pets", archives=listed(tmp_path / "served", base))


def test_a_server_that_breaks_off_is_named(tmp_path: Path) -> None:
    class Rude(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.wfile.write(b"what?\r\n\r\n")

        def log_message(self, *arguments: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Rude) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.05,))
        thread.start()
        try:
            with pytest.raises(SourceError, match="does not speak HTTP"):
                download(tmp_path, archives=[(f"http://127.0.0.1:{running.server_port}/images.tar.gz", "0" * 32)])
        finally:
            running.shutdown()
            thread.join()


def test_the_archives_are_torchvisions() -> None:
    names = [url.rsplit("/", 1)[1] for url, _ in official_archives()]
    assert names == ["images.tar.gz", "annotations.tar.gz"]
    moved = official_archives("http://mirror/pets/")
    assert moved[0] == ("http://mirror/pets/images.tar.gz", official_archives()[0][1])
    with pytest.raises(UsageError, match="mirror="):
        official_archives("mirror/pets")


@pytest.mark.parametrize(
    "mirror",
    [
        "https://me:secret@mirror/pets",
        "https://mirror/pets?token=secret",
        "ftp://me:secret@mirror/",
        "http://me:secret@mirror:port/",
        "http://me:secret@/ x",
        "http://:secret@[::1",
    ],
)
def test_a_password_in_the_address_of_a_mirror_is_not_shown(mirror: str) -> None:
    with pytest.raises(UsageError, match="mirror=") as error:
        official_archives(mirror)
    assert "secret" not in str(error.value)


def command(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[object, str, str]:
    """Run petseg-shard in this process, which has imported torchvision; return exit code, stdout and stderr."""
    with pytest.raises(SystemExit) as end:
        main.main([str(argument) for argument in arguments])
    return end.value.code, *capsys.readouterr()


def test_without_a_network(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """A port that nobody listens on stands for the missing network."""
    code, output, errors = command(capsys, "download", tmp_path / "pets", "--mirror", "http://127.0.0.1:9/x")
    assert code == 1
    assert errors.count("\n") == 1
    assert "Connection refused; check the network and run the same command again" in errors
    assert not output


def test_the_command_with_a_mirror_that_serves_something_else(
    capsys: pytest.CaptureFixture[str], archives: Path, tmp_path: Path
) -> None:
    with server(archives) as (base, _):
        code, _, errors = command(capsys, "download", tmp_path / "pets", "--mirror", base)
    assert code == 1
    assert errors.startswith("Error: ")  # no progress bar before it
    assert errors.count("\n") == 1, errors
    assert "not what torchvision expects" in errors


def test_an_archive_that_ends_early_is_told_from_another_one(tmp_path: Path) -> None:
    class Short(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(bytes(400))

        def log_message(self, *arguments: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Short) as running:
        threading.Thread(target=running.handle_request).start()
        url = f"http://127.0.0.1:{running.server_port}/images.tar.gz"
        with pytest.raises(SourceError, match="the server broke off after 400 of 1,000 bytes; run the same command"):
            download(tmp_path, archives=[(url, "0" * 32)])
    assert not list(tmp_path.iterdir())


def test_of_two_downloads_the_second_to_end_says_so(
    archives: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It named the file, and advised another name, of which there is none."""
    original, theirs = atomic.create_file, (archives / "images.tar.gz").read_bytes()

    def slower(source: Path, target: Path) -> None:
        target.write_bytes(theirs)
        original(source, target)

    monkeypatch.setattr(atomic, "create_file", slower)
    with server(archives) as (base, _):
        with pytest.raises(
            SourceError, match=r"images\.tar\.gz: another process has downloaded .*run the same command"
        ):
            download(tmp_path, archives=listed(archives, base))
        monkeypatch.undo()
        assert download(tmp_path, archives=listed(archives, base))


def test_a_disk_that_is_full_while_archives_are_unpacked(
    archives: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The network was named as the reason."""

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("shards.sources.download.official_archives", lambda mirror: listed(archives, mirror))
    monkeypatch.setattr("torchvision.datasets.utils.extract_archive", full)
    code, _, errors = command(capsys, "download", tmp_path, "--mirror", archives.as_uri())
    assert (code, errors) == (
        1,
        f"Error: the disk is full; free some space and run the same command again ({tmp_path})\n",
    )
