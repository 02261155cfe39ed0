"""An object store on loopback that replies as late as a distant one: moto's S3 behind a front that serves from memory.

moto answers a few hundred requests per second and core, fewer than the clients that are measured make. So it receives
the uploads and answers listings, while objects are read from the front: the bytes and headers that moto sent once, in
one thread that waits before each reply without keeping others waiting.
"""

import asyncio
import contextlib
import http.client
import logging
import os
import re
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from shards.store.open_store import open_store

BUCKET = "petseg-bench"
KEYS = {
    "AWS_ACCESS_KEY_ID": "bench",
    "AWS_SECRET_ACCESS_KEY": "bench",
    "AWS_REGION": "us-east-1",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_ALLOW_HTTP": "true",
    "AWS_EC2_METADATA_DISABLED": "true",
}
_KEPT = ("etag", "last-modified", "content-type")  # headers of moto's that the front repeats
# moto looks whether a request is signed, not by whom.
_SIGNED = "AWS4-HMAC-SHA256 Credential=bench/20200101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0"
_RANGE = re.compile(r"bytes=(\d+)-(\d*)$")


@dataclass(frozen=True)
class SlowStore:
    """A running server: where it takes uploads, and where it is read."""

    uploads: str
    reads: str

    @property
    def environment(self) -> dict[str, str]:
        """What leads a client to it, for reading."""
        return {**KEYS, "AWS_ENDPOINT_URL": self.reads, "S3_ENDPOINT_URL": self.reads}

    def upload(self, files: list[Path], folder: str) -> None:
        """Bring files into a folder of the bucket, and into the front's memory."""
        os.environ.update(KEYS, AWS_ENDPOINT_URL=self.uploads)
        store = open_store(f"s3://{BUCKET}/{folder}")
        for path in files:
            store.put(path.name, path)
            with urllib.request.urlopen(f"{self.reads}/{BUCKET}/{folder}/{path.name}", timeout=60) as reply:
                reply.read()


@contextlib.contextmanager
def slow_store(delay: float) -> Iterator[SlowStore]:
    """Run the server in a process of its own; it waits ``delay`` seconds before each reply."""
    server = subprocess.Popen([sys.executable, "-m", __name__, str(delay)], stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        yield SlowStore(*server.stdout.readline().split())
    finally:
        server.kill()
        server.wait()


class _Front:
    """Serves GET and HEAD."""

    def __init__(self, upstream: tuple[str, int], delay: float) -> None:
        self._upstream, self._delay = upstream, delay
        self._objects: dict[str, tuple[list[tuple[str, str]], bytes]] = {}  # headers and body, by path

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of one connection, until it is closed."""
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
                method, target, _ = head[0].split(" ")
                fields = (line.partition(":") for line in head[1:] if line)
                headers = {name.lower(): value.strip() for name, _, value in fields}
                await reader.readexactly(int(headers.get("content-length", 0)))
                await asyncio.sleep(self._delay)
                status, sent, body = await self._reply(method, target, headers.get("range"))
                lines = [f"HTTP/1.1 {status} {http.client.responses[status]}", *(f"{n}: {v}" for n, v in sent)]
                writer.write("\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""]).encode("latin-1"))
                if method != "HEAD":
                    writer.write(body)
                await writer.drain()
        writer.close()

    async def _reply(self, method: str, target: str, wanted: str | None) -> tuple[int, list[tuple[str, str]], bytes]:
        if method not in ("GET", "HEAD"):
            return 405, [], b""
        parts = urlsplit(target)
        if parts.query and "X-Amz-Signature=" not in parts.query:  # a listing, or of the bucket
            return await asyncio.to_thread(self._ask, target)
        if parts.path not in self._objects:
            status, headers, body = await asyncio.to_thread(self._ask, parts.path)
            if status != 200:
                return status, headers, body
            self._objects[parts.path] = headers, body
        headers, body = self._objects[parts.path]
        headers = [*headers, ("Accept-Ranges", "bytes")]
        found = _RANGE.match(wanted or "")
        if found is None:
            return 200, headers, body
        start, stop = int(found[1]), min(len(body), int(found[2] or len(body)) + 1)
        if start >= stop:
            return 416, headers, b""
        return 206, [*headers, ("Content-Range", f"bytes {start}-{stop - 1}/{len(body)}")], body[start:stop]

    def _ask(self, target: str) -> tuple[int, list[tuple[str, str]], bytes]:
        """Pass a request on to moto."""
        connection = http.client.HTTPConnection(*self._upstream, timeout=60)
        try:
            connection.request("GET", target, headers={"Authorization": _SIGNED})
            reply = connection.getresponse()
            body = reply.read()
            return reply.status, [(name, value) for name, value in reply.getheaders() if name.lower() in _KEPT], body
        finally:
            connection.close()


async def _serve(delay: float) -> None:
    """Be the server: print both addresses, and run until the process is killed."""
    from boto3 import client
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    moto.start()
    host, port = moto.get_host_and_port()
    s3 = client("s3", endpoint_url=f"http://{host}:{port}", aws_access_key_id="bench", aws_secret_access_key="bench")
    s3.create_bucket(Bucket=BUCKET)
    server = await asyncio.start_server(_Front((host, port), delay).serve, "127.0.0.1", 0, backlog=512)
    reads = server.sockets[0].getsockname()[1]
    print(f"http://{host}:{port} http://127.0.0.1:{reads}", flush=True)  # noqa: T201 - for the process that started it
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_serve(float(sys.argv[1])))
