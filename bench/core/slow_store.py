"""An object store on loopback that replies as late as a distant one: as much of S3 as clients need that read from it.

One thread serves everything from memory, and waits before each reply without keeping others waiting. Nobody is asked to
sign a request.
"""

import asyncio
import contextlib
import email.utils
import http.client
import os
import re
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

BUCKET = "petseg-bench"
KEYS = {
    "AWS_ACCESS_KEY_ID": "bench",
    "AWS_SECRET_ACCESS_KEY": "bench",
    "AWS_REGION": "us-east-1",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_ALLOW_HTTP": "true",
    "AWS_EC2_METADATA_DISABLED": "true",
}
STARTED = email.utils.formatdate(usegmt=True)
_RANGE = re.compile(r"bytes=(\d+)-(\d*)$")


@dataclass(frozen=True)
class SlowStore:
    """A running server."""

    url: str

    @property
    def environment(self) -> dict[str, str]:
        return {**KEYS, "AWS_ENDPOINT_URL": self.url, "S3_ENDPOINT_URL": self.url}

    def upload(self, files: list[Path], folder: str) -> None:
        """Bring files into a folder of the bucket."""
        for path in files:
            address = f"{self.url}/{BUCKET}/{folder}/{path.name}"
            with urllib.request.urlopen(urllib.request.Request(address, path.read_bytes(), method="PUT")):
                pass


@contextlib.contextmanager
def slow_store(delay: float) -> Iterator[SlowStore]:
    """Run the server in a process of its own; it waits ``delay`` seconds before each reply."""
    server = subprocess.Popen(
        [sys.executable, "-m", __name__, str(delay)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        start_new_session=True,  # Ctrl-C reaches only the benchmark
    )  # fmt: skip
    try:
        assert server.stdout is not None
        yield SlowStore(server.stdout.readline().strip())
    finally:
        server.kill()
        server.wait()


class _Server:
    """Serves PUT, GET, HEAD and listings of one bucket."""

    def __init__(self, delay: float) -> None:
        self._delay, self._objects = delay, dict[str, bytes]()  # by path

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of one connection, until it is closed."""
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
                method, target, _ = head[0].split(" ")
                fields = (line.partition(":") for line in head[1:] if line)
                headers = {name.lower(): value.strip() for name, _, value in fields}
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                await asyncio.sleep(self._delay)
                status, more, body = self._reply(method, target, body, headers.get("range"))
                sent = {"Content-Length": str(len(body)), "Last-Modified": STARTED, "Accept-Ranges": "bytes", **more}
                lines = [f"HTTP/1.1 {status} {http.client.responses[status]}", *(f"{n}: {v}" for n, v in sent.items())]
                writer.write("\r\n".join([*lines, "", ""]).encode("latin-1") + body * (method != "HEAD"))
                await writer.drain()
        writer.close()

    def _reply(self, method: str, target: str, body: bytes, wanted: str | None) -> tuple[int, dict[str, str], bytes]:
        parts = urlsplit(target)
        path, query = unquote(parts.path), parse_qs(parts.query)
        if method == "PUT":
            self._objects[path] = body
            return 200, {"ETag": f'"{len(body)}"'}, b""
        if "list-type" in query:
            return 200, {"Content-Type": "application/xml"}, self._listing(query.get("prefix", [""])[0])
        if path not in self._objects:
            return 404, {}, b""
        found, match = self._objects[path], _RANGE.match(wanted or "")
        tag = {"ETag": f'"{len(found)}"'}
        if match is None:
            return 200, tag, found
        start, stop = int(match[1]), min(len(found), int(match[2] or len(found)) + 1)
        if start >= stop:
            return 416, tag, b""
        return 206, {**tag, "Content-Range": f"bytes {start}-{stop - 1}/{len(found)}"}, found[start:stop]

    def _listing(self, prefix: str) -> bytes:
        """Return all objects with a prefix, in whatever folders."""
        keys = {path.removeprefix(f"/{BUCKET}/"): len(body) for path, body in sorted(self._objects.items())}
        entries = [
            f"<Contents><Key>{escape(key)}</Key><Size>{size}</Size><ETag>{size}</ETag>"
            "<LastModified>2020-01-01T00:00:00.000Z</LastModified></Contents>"
            for key, size in keys.items() if key.startswith(prefix)
        ]  # fmt: skip
        about = f"<Name>{BUCKET}</Name><Prefix>{escape(prefix)}</Prefix><KeyCount>{len(entries)}</KeyCount>"
        text = f"{about}<MaxKeys>{len(entries)}</MaxKeys><IsTruncated>false</IsTruncated>{''.join(entries)}"
        return f"<ListBucketResult>{text}</ListBucketResult>".encode()


async def _serve(delay: float) -> None:
    """Be the server: print its address, and run until the process is killed, or that which started it ends."""
    threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
    server = await asyncio.start_server(_Server(delay).serve, "127.0.0.1", 0, backlog=512)
    host, port = server.sockets[0].getsockname()
    print(f"http://{host}:{port}", flush=True)  # noqa: T201 - for the process that started it
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_serve(float(sys.argv[1])))
