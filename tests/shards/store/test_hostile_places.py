"""What a server announces and what a cache holds is not believed: sizes, damaged files, links to other files, FIFOs."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from store_servers import BUCKET, FaultProxy

from shards.store.cloud.object_store import ObjectStore
from shards.store.open_store import open_store
from shards.store.remote.content_cache import ContentCache
from shards.store.remote.remote_files import FileSpec, RemoteFiles
from shards.store.store_protocol import StoreError

CONTENT = b"a table of samples" * 100
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class _Announces(BaseHTTPRequestHandler):
    """Announces 50 GB, and goes on sending."""

    def log_message(self, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(50 << 30))
        self.send_header("Last-Modified", "Fri, 27 Nov 2026 00:00:00 GMT")
        self.end_headers()
        try:
            while True:
                self.wfile.write(bytes(1 << 16))
        except OSError:
            return


@pytest.fixture
def endless() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Announces)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}/set"
    server.shutdown()


def test_a_size_that_no_memory_holds_is_refused(endless: str) -> None:
    with pytest.raises(StoreError, match="has 53687091200 bytes, more than such a file of a set has"):
        open_store(endless).read("manifest.json")


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


PLANTED = {
    "damaged": lambda path: path.write_bytes(bytes(len(CONTENT))),
    "link": link,
    "link to nothing": lambda path: path.symlink_to(path.parent / "nothing"),
    "FIFO": os.mkfifo,
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
    if planted == "link":
        assert (files.cache.folder / "precious").read_bytes() == b"x" * len(CONTENT)
