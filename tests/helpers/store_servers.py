"""Servers on loopback for the tests of stores: S3 by moto, and a proxy before it that injects faults."""

from __future__ import annotations

import contextlib
import functools
import os
import random
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

BUCKET = "bucket"
FAULTS = ("503", "reset", "cut body", "slow start", "changed etag", "wrong length", "wrong range")
_NOTICED_BY = {"changed etag": "If-Match", "wrong range": "Range"}  # a header of the request
ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "key-of-the-tests",
    "AWS_SECRET_ACCESS_KEY": "secret-of-the-tests",
    "AWS_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}


@dataclass
class FaultPlan:
    """Decides what happens to each request: nothing, or a fault; after ``delay`` seconds either way."""

    delay: float = 0.0  # seconds, for every request
    rate: float = 0.0  # of requests that fail
    faults: tuple[str, ...] = FAULTS
    slow: float = 1.0  # seconds before the first byte, for "slow start"
    seed: int = 0
    only: Callable[[str, str], bool] = lambda method, path: method == "GET"
    injected: Counter[str] = field(default_factory=Counter)
    requests: Counter[str] = field(default_factory=Counter)  # by method
    paths: list[str] = field(default_factory=list)
    at_once: int = 0  # requests that are being served
    most_at_once: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)

    @contextlib.contextmanager
    def serving(self) -> Iterator[None]:
        with self._lock:
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            yield
        finally:
            with self._lock:
                self.at_once -= 1

    def draw(self, method: str, path: str, headers: Mapping[str, str]) -> str | None:
        """Decide about a request; a fault that it could not notice is none."""
        with self._lock:
            self.requests[method] += 1
            self.paths.append(path)
            if not self.only(method, path) or self._random.random() >= self.rate:
                return None
            fault = self._random.choice(self.faults)
            if _NOTICED_BY.get(fault, "Host") not in headers:
                return None
            self.injected[fault] += 1
            return fault


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else each body waits 40 ms for the acknowledgement of its headers
    server: FaultProxy

    def log_message(self, *args: object) -> None:
        pass

    def _forward(self) -> None:
        plan = self.server.plan
        with plan.serving():
            self._serve(plan)

    def _serve(self, plan: FaultPlan) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length) if length else None
        fault = plan.draw(self.command, self.path, self.headers)
        time.sleep(plan.delay)
        if fault == "slow start":
            time.sleep(plan.slow)
        if fault == "503":
            return self._reply(503, "Slow Down", [], b"<Error><Code>SlowDown</Code></Error>")
        if fault == "conflict":
            return self._reply(409, "Conflict", [], b"<Error><Code>ConditionalRequestConflict</Code></Error>")
        if fault == "reset":
            # With no time to linger, closing sends a reset.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True
            self.connection.close()
            return None
        upstream = HTTPConnection(*self.server.upstream, timeout=60)
        headers = {name: value for name, value in self.headers.items() if name.lower() != "connection"}
        upstream.request(self.command, self.path, body=body, headers=headers)
        reply = upstream.getresponse()
        data = reply.read()
        if fault == "lost reply":
            self.close_connection = True
            return None
        kept = [
            (n, v)
            for n, v in reply.getheaders()
            if n.lower() not in ("content-length", "connection", "transfer-encoding")
        ]
        if self.command == "HEAD":
            kept.append(("Content-Length", reply.headers.get("Content-Length", "0")))
            return self._reply(reply.status, reply.reason, kept, b"", length=-1)
        upstream.close()
        if reply.status in (200, 206) and self.command == "GET":
            if fault == "cut body":
                self._reply(reply.status, reply.reason, kept, data[: len(data) // 2], length=len(data))
                self.close_connection = True
                return None
            if fault == "wrong length":
                data = data[: max(0, len(data) - 1 - len(data) // 3)]
            if fault == "changed etag":
                kept = [(n, '"00000000000000000000000000000000"' if n.lower() == "etag" else v) for n, v in kept]
            if fault == "wrong range" and reply.status == 206:
                kept = [(n, "bytes 0-0/1" if n.lower() == "content-range" else v) for n, v in kept]
        self._reply(reply.status, reply.reason, kept, data)
        return None

    def _reply(
        self, status: int, reason: str, headers: list[tuple[str, str]], data: bytes, *, length: int | None = None
    ) -> None:
        self.send_response_only(status, reason)
        for name, value in headers:
            self.send_header(name, value)
        if length != -1:
            self.send_header("Content-Length", str(len(data) if length is None else length))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _forward

    def handle(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            super().handle()


class FaultProxy(ThreadingHTTPServer):
    """An HTTP server that passes requests on to another one, and faults as its plan says."""

    daemon_threads = True
    request_queue_size = 256

    def __init__(self, upstream: tuple[str, int]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.upstream = upstream
        self.plan = FaultPlan()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


@contextlib.contextmanager
def s3_server() -> Iterator[FaultProxy]:
    """Run moto's S3 with a bucket behind a proxy; :data:`ENVIRONMENT` and ``AWS_ENDPOINT_URL`` lead to it."""
    import logging

    from boto3 import client
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    proxy = FaultProxy(server.get_host_and_port())
    threading.Thread(target=proxy.serve_forever, args=(0.05,), daemon=True).start()
    saved = {name: os.environ.get(name) for name in (*ENVIRONMENT, "AWS_ENDPOINT_URL", "AWS_PROFILE")}
    os.environ.update(ENVIRONMENT, AWS_ENDPOINT_URL=proxy.url)
    os.environ.pop("AWS_PROFILE", None)
    try:
        client("s3", region_name="us-east-1").create_bucket(Bucket=BUCKET)
        yield proxy
    finally:
        for name, value in saved.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
        proxy.shutdown()
        server.stop()


class _RangeHandler(SimpleHTTPRequestHandler):
    """A web server that knows ranges, and times of modification but no ETags."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        path = Path(self.translate_path(self.path))
        if not path.is_file():
            return self.send_error(404)
        data, status, span = path.read_bytes(), 200, None
        if wanted := self.headers.get("Range"):
            first, last = wanted.removeprefix("bytes=").split("-")
            start, stop = int(first), min(len(data), int(last) + 1)
            status, span = 206, f"bytes {start}-{stop - 1}/{len(data)}"
            data = data[start:stop]
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Last-Modified", self.date_time_string(path.stat().st_mtime))
        if span:
            self.send_header("Content-Range", span)
        self.end_headers()
        self.wfile.write(data)
        return None


@contextlib.contextmanager
def range_server(folder: Path) -> Iterator[str]:
    """Serve a folder over HTTP on loopback, and provide its address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_RangeHandler, directory=str(folder)))
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()


@pytest.fixture(scope="package")
def running_server() -> Iterator[FaultProxy]:
    """One server of S3 for the tests of a folder whose conftest imports this."""
    with s3_server() as server:
        yield server


@pytest.fixture
def server(running_server: FaultProxy) -> FaultProxy:
    """The same, without faults."""
    running_server.plan = FaultPlan()
    return running_server
