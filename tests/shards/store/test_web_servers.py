"""Web servers that compress what they send, or know no ranges."""

from __future__ import annotations

import functools
import gzip
import shutil
import threading
from collections.abc import Callable, Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

from shards.errors import PetsegError
from shards.format.dataset import ShardSet
from shards.store.cloud.replies import status_of
from shards.store.remote import remote_files
from shards.store.store_protocol import NoRangesError, StoreError
from shards.verify.check_address import verify_address

Serve = Callable[..., str]


class _Handler(SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    compresses: ClassVar[str] = "never"  # always; or unless it is told not to
    ranges: ClassVar[bool] = True

    def log_message(self, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._reply(body=False)

    def do_GET(self) -> None:
        self._reply(body=True)

    def _reply(self, *, body: bool) -> None:
        path = Path(self.translate_path(self.path))
        if not path.is_file():
            return self.send_error(404)
        data, status, span = path.read_bytes(), 200, None
        asked = self.headers.get("Accept-Encoding") or ""
        compressed = self.compresses == "always" or (self.compresses == "unless told" and "identity" not in asked)
        data = gzip.compress(data) if compressed else data
        if self.ranges and (wanted := self.headers.get("Range")):
            first, last = (int(part) for part in wanted.removeprefix("bytes=").split("-"))
            status, span = 206, f"bytes {first}-{min(last, len(data) - 1)}/{len(data)}"
            data = data[first : last + 1]
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Last-Modified", self.date_time_string(path.stat().st_mtime))
        for name, value in (("Content-Encoding", "gzip" if compressed else None), ("Content-Range", span)):
            if value:
                self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(data)
        return None


@pytest.fixture
def serve(tiny_sets: dict[str, Path]) -> Iterator[Serve]:
    """``serve(ranges=False)``: the address of a set on a web server that is so."""
    servers = []

    def serve(folder: Path = tiny_sets["source"], **manners: object) -> str:
        handler = type("Handler", (_Handler,), manners)
        server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(handler, directory=str(folder)))
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_address[1]}"

    yield serve
    for server in servers:
        server.shutdown()


def opened(address: str, cache: Path, fetch: remote_files.Fetch = "auto") -> ShardSet:
    return ShardSet.open(address, cache=cache, cache_bytes="1GB", fetch=fetch)


def test_a_server_that_compresses_is_no_damage(serve: Serve, tmp_path: Path) -> None:
    address = serve(compresses="always")
    for attempt in (lambda: opened(address, tmp_path / "cache"), lambda: verify_address(address)):
        with pytest.raises(StoreError, match=r"changes the bytes in transit \(Content-Encoding: gzip\); have it send"):
            attempt()


def test_compression_is_not_asked_for(serve: Serve, tmp_path: Path) -> None:
    assert opened(serve(compresses="unless told"), tmp_path / "cache").split("train").read(0, "image")


def test_a_manifest_that_was_stored_compressed_is_named(
    tiny_sets: dict[str, Path], serve: Serve, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(tiny_sets["source"], tmp_path / "set"))
    path = folder / "manifest.json"
    path.write_bytes(gzip.compress(path.read_bytes()))
    for place in (folder, serve(folder)):
        with pytest.raises(PetsegError, match="is compressed; the files of a set have to be stored, and served, as"):
            ShardSet.open(place)


def test_a_page_in_the_place_of_a_manifest_is_no_damage(
    serve: Serve, tiny_sets: dict[str, Path], tmp_path: Path
) -> None:
    folder = tmp_path / "set"
    shutil.copytree(tiny_sets["source"], folder)
    (folder / "manifest.json").write_bytes(b"\n<!DOCTYPE html><title>Sign in</title>")
    with pytest.raises(PetsegError, match="is a web page and no manifest: check the address"):
        opened(serve(folder), tmp_path / "cache")


def test_a_server_without_ranges_serves_whole_shards(
    tiny_sets: dict[str, Path], serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also those that are otherwise fetched in several parts."""
    monkeypatch.setattr(remote_files, "PART", 1000)
    local = ShardSet.open(tiny_sets["source"]).split("train")
    address = serve(ranges=False)
    with pytest.raises(NoRangesError, match="with fetch='shard'"):
        opened(address, tmp_path / "samples", "range").split("train").read(0, "image")
    whole = opened(address, tmp_path / "whole", "shard").split("train")
    for index in range(len(local)):
        assert whole.read(index, "image") == local.read(index, "image")


@pytest.mark.parametrize("stamp", ['"a\nb"', '"\x1b[2J"', '"é"'])
def test_a_version_that_no_header_can_hold_is_refused(stamp: str) -> None:
    """As the condition of a request it made obstore panic, whose backtrace fills the screen."""
    with pytest.raises(StoreError, match="characters that no ETag has") as caught:
        status_of({"size": 1, "e_tag": stamp})
    assert str(caught.value).isprintable()
