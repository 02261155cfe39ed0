"""Google Cloud Storage on loopback, as far as obstore speaks to it: https://cloud.google.com/storage/docs/xml-api.

Every content that a name gets has another generation, a number; ``x-goog-if-generation-match`` lets a request pass for
that generation alone, or with 0 where the name has none. Objects can be written in parts, and copied by the server.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit
from xml.etree import ElementTree
from xml.sax.saxutils import escape

import pytest
from store_servers import FaultPlan, FaultProxy

BUCKET = "box"
PAGE = 50  # names in a list; Google's are of 1,000
# Credentials for requests without a token; with GOOGLE_SKIP_SIGNATURE, obstore 0.12 asks for one before it writes.
NOBODY = {"disable_oauth": True, "client_email": "", "private_key": "", "private_key_id": ""}
LEAST_PART = 5 << 20  # bytes of all parts but the last


class Refusal(Exception):
    """A status with the code that its XML names."""


@dataclass(frozen=True)
class Stored:
    """An object's content."""

    data: bytes = field(repr=False)
    generation: int
    etag: str
    modified: float

    def headers(self) -> dict[str, str]:
        return {
            "ETag": self.etag,
            "Last-Modified": formatdate(self.modified, usegmt=True),
            "x-goog-generation": str(self.generation),
        }


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: GoogleServer

    def log_message(self, *args: object) -> None:
        pass

    def _serve(self) -> None:
        url = urlsplit(self.path)
        bucket, _, name = unquote(url.path.removeprefix("/")).partition("/")
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        query = {key: values[0] for key, values in parse_qs(url.query, keep_blank_values=True).items()}
        try:
            if bucket != BUCKET:
                raise Refusal(404, "NoSuchBucket")
            with self.server.lock:
                status, headers, data = getattr(self, f"_{self.command.lower()}")(name, query, body)
        except Refusal as refusal:
            status, code = refusal.args
            headers, data = {"Content-Type": "application/xml"}, f"<Error><Code>{code}</Code></Error>".encode()
        self.send_response_only(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(b"" if self.command == "HEAD" else data)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _serve

    def _found(self, name: str) -> Stored:
        if (found := self.server.objects.get(name)) is None:
            raise Refusal(404, "NoSuchKey")
        if self.headers.get("If-Match", found.etag) != found.etag:
            raise Refusal(412, "PreconditionFailed")
        return found

    def _get(self, name: str, query: dict[str, str], _: bytes) -> tuple[int, dict[str, str], bytes]:
        if not name:
            return 200, {}, self.server.listed(query.get("prefix", ""), query.get("continuation-token", ""))
        found = self._found(name)
        if not (wanted := re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))):
            return 200, found.headers(), found.data
        start, stop = int(wanted[1]), min(int(wanted[2]) + 1, len(found.data))
        if start >= len(found.data):
            raise Refusal(416, "InvalidRange")
        span = {"Content-Range": f"bytes {start}-{stop - 1}/{len(found.data)}"}
        return 206, {**found.headers(), **span}, found.data[start:stop]

    def _head(self, name: str, query: dict[str, str], body: bytes) -> tuple[int, dict[str, str], bytes]:
        return self._get(name, query, body)

    def _put(self, name: str, query: dict[str, str], body: bytes) -> tuple[int, dict[str, str], bytes]:
        if upload := query.get("uploadId"):
            self.server.upload(name, upload)[int(query["partNumber"])] = body
            return 200, {"ETag": _etag(body)}, b""
        if source := self.headers.get("x-goog-copy-source"):
            bucket, _, original = unquote(source).partition("/")
            if bucket != BUCKET or original not in self.server.objects:
                raise Refusal(404, "NoSuchKey")
            body = self.server.objects[original].data
        expected = self.headers.get("x-goog-if-generation-match")
        return 200, self.server.store(name, body, expected).headers(), b""

    def _post(self, name: str, query: dict[str, str], body: bytes) -> tuple[int, dict[str, str], bytes]:
        if "uploads" in query:
            upload = f"upload-{next(self.server.numbers)}"
            self.server.uploads[name, upload] = {}
            answer = f"<Bucket>{BUCKET}</Bucket><Key>{escape(name)}</Key><UploadId>{upload}</UploadId>"
            return 200, {}, f"<InitiateMultipartUploadResult>{answer}</InitiateMultipartUploadResult>".encode()
        parts = self.server.upload(name, query["uploadId"])
        named = [part for part in ElementTree.fromstring(body) if part.tag.endswith("Part")]
        chosen = [parts.get(int(part.findtext("{*}PartNumber", "0")), b"") for part in named]
        if not named or [_etag(data) for data in chosen] != [part.findtext("{*}ETag") for part in named]:
            raise Refusal(400, "InvalidPart")
        if any(len(part) < LEAST_PART for part in chosen[:-1]):
            raise Refusal(400, "EntityTooSmall")
        stored = self.server.store(name, b"".join(chosen), None)
        del self.server.uploads[name, query["uploadId"]]
        answer = f"<Bucket>{BUCKET}</Bucket><Key>{escape(name)}</Key><ETag>{escape(stored.etag)}</ETag>"
        answer = f"<CompleteMultipartUploadResult>{answer}</CompleteMultipartUploadResult>"
        return 200, {"x-goog-generation": str(stored.generation)}, answer.encode()

    def _delete(self, name: str, query: dict[str, str], _: bytes) -> tuple[int, dict[str, str], bytes]:
        if upload := query.get("uploadId"):
            self.server.upload(name, upload)
            del self.server.uploads[name, upload]
        else:
            self._found(name)
            del self.server.objects[name]
        return 204, {}, b""

    def handle(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            super().handle()


class GoogleServer(ThreadingHTTPServer):
    """A bucket in memory."""

    daemon_threads = True
    request_queue_size = 256

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.objects: dict[str, Stored] = {}
        self.uploads: dict[tuple[str, str], dict[int, bytes]] = {}
        self.numbers = itertools.count(1_700_000_000_000_000)
        self.lock = threading.Lock()

    def store(self, name: str, data: bytes, expected: str | None) -> Stored:
        """Give a name a content, if it has the expected generation."""
        there = self.objects.get(name)
        if expected is not None and int(expected) != (there.generation if there else 0):
            raise Refusal(412, "PreconditionFailed")
        self.objects[name] = Stored(data, next(self.numbers), _etag(data), time.time())
        return self.objects[name]

    def upload(self, name: str, number: str) -> dict[int, bytes]:
        """Return the parts of an object that is being written."""
        try:
            return self.uploads[name, number]
        except KeyError:
            raise Refusal(404, "NoSuchUpload") from None

    def listed(self, prefix: str, after: str) -> bytes:
        """Return a page of the names that begin with ``prefix``."""
        names = sorted(name for name in self.objects if name.startswith(prefix) and name > after)
        page = names[:PAGE]
        text = "".join(
            f"<Contents><Key>{escape(name)}</Key><Generation>{self.objects[name].generation}</Generation>"
            f"<LastModified>{time.strftime('%Y-%m-%dT%H:%M:%S.000Z', time.gmtime(self.objects[name].modified))}"
            f"</LastModified><ETag>{escape(self.objects[name].etag)}</ETag>"
            f"<Size>{len(self.objects[name].data)}</Size></Contents>"
            for name in page
        )
        more = f"<NextContinuationToken>{escape(page[-1])}</NextContinuationToken>" if len(names) > PAGE else ""
        return f"<?xml version='1.0'?><ListBucketResult>{text}{more}</ListBucketResult>".encode()


def _etag(data: bytes) -> str:
    return f'"{hashlib.md5(data).hexdigest()}"'


@contextlib.contextmanager
def google_server() -> Iterator[tuple[GoogleServer, FaultProxy]]:
    """Serve the bucket :data:`BUCKET` behind a proxy that may inject faults, and lead ``gs://`` there."""
    server = GoogleServer()
    proxy = FaultProxy(("127.0.0.1", server.server_address[1]))
    for each in (server, proxy):
        threading.Thread(target=each.serve_forever, args=(0.05,), daemon=True).start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GOOGLE_BASE_URL", proxy.url)
        patch.setenv("GOOGLE_SERVICE_ACCOUNT_KEY", json.dumps({**NOBODY, "gcs_base_url": proxy.url}))
        yield server, proxy
    for each in (proxy, server):
        each.shutdown()
        each.server_close()


@pytest.fixture(scope="package")
def running_google() -> Iterator[tuple[GoogleServer, FaultProxy]]:
    """One such server for the tests of a folder whose conftest imports this."""
    with google_server() as running:
        yield running


@pytest.fixture
def google(running_google: tuple[GoogleServer, FaultProxy]) -> tuple[GoogleServer, FaultProxy]:
    """The same, without faults."""
    running_google[1].plan = FaultPlan()
    return running_google
