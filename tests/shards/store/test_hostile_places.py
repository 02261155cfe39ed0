"""What a server announces and what a cache holds is not believed: sizes, damaged files, links to other files, FIFOs."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import shutil
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from store_servers import BUCKET, FaultProxy

from shards.build.tasks import copy_set, join
from shards.errors import PetsegError
from shards.format.dataset import ShardSet
from shards.format.label_files import find_labels
from shards.sources.pairs.listing import read_text
from shards.store.addresses import StoreAddress
from shards.store.byte_ranges import read_regular
from shards.store.cloud import object_store
from shards.store.cloud.object_store import ObjectStore
from shards.store.cloud.patience import Patience
from shards.store.open_store import open_store
from shards.store.remote.content_cache import ContentCache
from shards.store.remote.remote_files import FileSpec, RemoteFiles
from shards.store.store_protocol import NoRangesError, StoreError

CONTENT = b"a table of samples" * 100
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class _Hostile(BaseHTTPRequestHandler):
    """Announces 50 GB and goes on sending; sends more than was asked for; or a byte at a time."""

    def log_message(self, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        ranged = "Range" in self.headers and "huge" not in self.path
        self.send_response(206 if ranged else 200)
        self.send_header("Content-Length", str(50 << 30))
        self.send_header("Last-Modified", "Fri, 27 Nov 2026 00:00:00 GMT")
        if ranged:
            self.send_header("Content-Range", "bytes 0-999/100000")
        self.end_headers()
        with contextlib.suppress(OSError):
            while True:
                if "slow" in self.path:
                    time.sleep(0.05)
                self.wfile.write(bytes(1 if "slow" in self.path else 1 << 16))
                self.server.sent += 1  # type: ignore[attr-defined]


@pytest.fixture
def hostile() -> Iterator[ThreadingHTTPServer]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Hostile)
    server.daemon_threads = True
    server.sent = 0  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    yield server
    server.shutdown()


def at(server: ThreadingHTTPServer, **patience: float) -> ObjectStore:
    address = StoreAddress("http", f"127.0.0.1:{server.server_address[1]}", "set")
    return ObjectStore(address, Patience(**{"first_wait": 0.001, **patience}))  # type: ignore[arg-type]


def test_a_size_that_no_memory_holds_is_refused(hostile: ThreadingHTTPServer) -> None:
    with pytest.raises(StoreError, match="has 53687091200 bytes, more than such a file of a set has"):
        at(hostile).read("huge/manifest.json")


def test_more_than_was_asked_for_is_not_read(hostile: ThreadingHTTPServer) -> None:
    with pytest.raises(StoreError, match="2 attempts failed, the last one with a body of another length"):
        at(hostile, attempts=2).read_range("table", 0, 1000)
    assert hostile.sent < 2 * 200  # type: ignore[attr-defined] # times 64 KiB: what sockets and a chunk hold


def test_a_server_without_ranges_is_named(hostile: ThreadingHTTPServer) -> None:
    """Such as Python's own http.server: it sends the whole file, whatever is asked for. Eight attempts take long."""
    store = at(hostile)
    with pytest.raises(NoRangesError, match=r"sends whole files where a range of bytes is asked for.*fetch='shard'"):
        store.read_range("huge/table", 0, 1000)
    assert store.failures.total() == 2


def test_a_byte_at_a_time_is_given_up(hostile: ThreadingHTTPServer) -> None:
    """Each one arrives long before a time limit for the next."""
    quick = {"connect_seconds": 0.4, "read_seconds": 0.4, "least_rate": 1e6, "hopeless_attempts": 2}
    began = time.monotonic()
    with pytest.raises(StoreError, match="2 attempts failed, the last one with a reply that is too slow"):
        at(hostile, **quick).read_range("slow", 0, 1000)
    assert time.monotonic() - began < 30  # the whole reply takes 50 seconds


class _Endless:
    """A client whose listing never ends: page after page, or the same few pages again and again."""

    def __init__(self, pages: int | None) -> None:
        self._pages = pages

    async def list(self, folder: str | None) -> AsyncIterator[list[dict[str, object]]]:
        for number in itertools.count():
            page = number if self._pages is None else number % self._pages
            yield [{"path": f"{page:09d}/{n:02d}", "size": 1, "e_tag": '"x"'} for n in range(50)]


@pytest.mark.parametrize("pages", [None, 1, 7])
def test_a_listing_without_end_is_given_up(pages: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(object_store, "MOST_LISTED", 10_000)
    store = ObjectStore(StoreAddress("s3", "bucket", "set"))
    store._clients.append(_Endless(pages))
    with pytest.raises(StoreError, match="s3://bucket/set/parts: the server's list of files has no end"):
        list(store.list("parts"))


def test_a_tar_that_no_disk_can_hold_is_an_error_of_the_cache(tmp_path: Path) -> None:
    cache = ContentCache(tmp_path, 1 << 20)
    with pytest.raises(PetsegError, match=f"the cache {tmp_path} cannot be used"):
        cache.open_ranges(SHA256, size=(1 << 62) - 10, samples=5, create=True)


@pytest.fixture
def files(server: FaultProxy, tmp_path: Path) -> RemoteFiles:
    store = open_store(f"s3://{BUCKET}/{tmp_path.name}")
    assert isinstance(store, ObjectStore)
    store.put("table", CONTENT)
    return RemoteFiles(store, ContentCache(tmp_path / "cache", 1 << 20), "auto")


def content(files: RemoteFiles) -> bytes:
    return files.local_files(FileSpec("table", len(CONTENT), SHA256))[0][:]


def link(path: Path) -> None:
    precious = path.parent.parent / "precious"
    precious.write_bytes(b"x" * len(CONTENT))
    path.symlink_to(precious)


def hard_link(path: Path) -> None:
    link(path)
    path.unlink()
    path.hardlink_to(path.parent.parent / "precious")


PLANTED = {
    "hard link": hard_link,
    "damaged": lambda path: path.write_bytes(bytes(len(CONTENT))),
    "link": link,
    "link to nothing": lambda path: path.symlink_to(path.parent / "nothing"),
    "FIFO": os.mkfifo,
    "folder": Path.mkdir,
}


@pytest.mark.timeout(20)
@pytest.mark.parametrize("kind", ["", ".fetch"])
@pytest.mark.parametrize("planted", PLANTED)
def test_what_others_put_into_a_cache(files: RemoteFiles, planted: str, kind: str) -> None:
    """It is replaced by what the store has; nothing is read or written through a link, and no FIFO is waited for."""
    plant: Callable[[Path], object] = PLANTED[planted]
    path = files.cache.path(SHA256, kind)
    path.parent.mkdir(parents=True)
    plant(path)
    assert content(files) == CONTENT
    assert not (path.parent / "nothing").exists()
    if planted in ("link", "hard link") and (kind or planted == "link"):  # a complete file is only read
        assert (files.cache.folder / "precious").read_bytes() == b"x" * len(CONTENT)


def test_samples_are_not_written_through_a_hard_link(tmp_path: Path) -> None:
    cache = ContentCache(tmp_path / "cache", 1 << 20)
    path = cache.path(SHA256, ".ranges")
    path.parent.mkdir(parents=True)
    (tmp_path / "precious").write_bytes(bytes(20))
    path.hardlink_to(tmp_path / "precious")
    file = cache.open_ranges(SHA256, size=15, samples=5, create=True)
    assert file is not None
    file.add(0, 0, b"sample")
    assert (tmp_path / "precious").read_bytes() == bytes(20)


def test_a_cache_removes_nothing_of_a_folder_that_a_link_leads_to(files: RemoteFiles, tmp_path: Path) -> None:
    """Other programs name files by their SHA-256, too; and of its own folders, only files that belong there."""
    other = tmp_path / "blobs"
    other.mkdir()
    kept = [other / SHA256, files.cache.folder / "zz" / SHA256]
    kept[1].parent.mkdir(parents=True)
    for path in kept:
        path.write_bytes(bytes(5000))
    (files.cache.folder / SHA256[:2]).symlink_to(other)
    files.cache.shrink(1 << 30, release=lambda: None)
    assert files.cache.used_bytes() == 0
    assert content(files) == CONTENT
    assert all(path.read_bytes() == bytes(5000) for path in kept)


@pytest.mark.parametrize("now", [0, 4102444800, 1])
def test_wrong_clocks_lose_nothing(files: RemoteFiles, now: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of 1970 and of 2100 are used as any others; only the order in which they are removed is another one."""
    assert content(files) == CONTENT
    os.utime(files.cache.path(SHA256), (now, now))
    monkeypatch.setattr("time.time_ns", lambda: 1_000_000_000 * (4102444800 - now))
    again = RemoteFiles(files.store, files.cache, "auto")
    files.store.delete("table")
    assert content(again) == CONTENT


def test_a_cache_that_is_removed_while_a_file_is_fetched(files: RemoteFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    publish, removed = ContentCache.publish, []

    def after_removal(cache: ContentCache, sha256: str, descriptor: int) -> bool:
        if not removed:
            removed.append(shutil.rmtree(cache.folder))
        return publish(cache, sha256, descriptor)

    monkeypatch.setattr(ContentCache, "publish", after_removal)
    assert content(files) == CONTENT
    assert removed
    assert files.cache.path(SHA256).read_bytes() == CONTENT


def test_a_folder_with_files_in_place_of_one_is_named(files: RemoteFiles) -> None:
    path = files.cache.path(SHA256)
    (path / "mine").mkdir(parents=True)
    with pytest.raises(PetsegError, match=r"cannot be removed .*; remove it, or choose another folder with cache"):
        content(files)
    assert (path / "mine").is_dir()


def sparse(path: Path, size: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.truncate(size)
    return path


READERS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "manifest": ("manifest.json", lambda path: ShardSet.open(path.parent)),
    "manifest that is copied": ("manifest.json", lambda path: copy_set(path.parent, path.parent.with_name("copy"))),
    "plan of tasks": ("set.tasks/plan", lambda path: join(path.parent.with_name("set"))),
    "labels": ("labels.toml", lambda path: find_labels(str(path))),
    "list": ("list.txt", read_text),
    "any": ("any", read_regular),
}


@pytest.mark.parametrize("name", READERS)
def test_a_local_file_of_any_size_is_not_read_whole(tmp_path: Path, name: str) -> None:
    file, read = READERS[name]
    path = sparse(tmp_path / file, 1 << 40)
    with pytest.raises((PetsegError, OSError), match=r"1099511627776 bytes"):
        read(path)
