"""Azure Blob Storage and Google Cloud Storage against emulators, where these are on the PATH (docs/stores.md)."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import json
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from email.utils import formatdate
from pathlib import Path
from urllib.parse import quote
from urllib.request import Request, urlopen

import pytest

from pipeline import Loader
from shards.build.build_set import build
from shards.build.options import PackOptions
from shards.build.tasks import copy_set
from shards.build.tasks.publish_in_store import PublishedError, put_manifest
from shards.store.open_store import open_store
from shards.store.store_protocol import ObjectChangedError, ObjectExistsError, StoreError
from shards.verify.check_address import verify_address

# Azurite's account and key, which its documentation gives: learn.microsoft.com, "Use the Azurite emulator".
ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="


@contextlib.contextmanager
def emulator(program: str, options: Callable[[int], list[str]]) -> Iterator[str]:
    """Run an emulator on a free port, and provide its URL."""
    if (path := shutil.which(program)) is None:
        pytest.skip(f"there is no {program} on the PATH")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen([path, *options(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(600):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def azure(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A container of Azurite (npm install -g azurite)."""
    options = ["--silent", "--inMemoryPersistence", "--skipApiVersionCheck", "--disableTelemetry"]
    with emulator("azurite-blob", lambda port: [*options, "--blobPort", str(port)]) as url:
        date, version = formatdate(usegmt=True), "2021-08-06"
        headers = f"x-ms-date:{date}\nx-ms-version:{version}"
        signed = f"PUT{12 * chr(10)}{headers}\n/{ACCOUNT}/{ACCOUNT}/box\nrestype:container"
        digest = hmac.new(base64.b64decode(KEY), signed.encode(), hashlib.sha256).digest()
        fields = {
            "x-ms-date": date,
            "x-ms-version": version,
            "Authorization": f"SharedKey {ACCOUNT}:{base64.b64encode(digest).decode()}",
            "Content-Length": "0",
        }
        urlopen(Request(f"{url}/{ACCOUNT}/box?restype=container", method="PUT", headers=fields)).close()
        monkeypatch.setenv("AZURE_STORAGE_USE_EMULATOR", "true")
        monkeypatch.setenv("AZURITE_BLOB_STORAGE_URL", url)
        yield "az://box"


@pytest.fixture
def google(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, str]]:
    """A bucket of fake-gcs-server, and its URL."""

    def options(port: int) -> list[str]:
        return f"-scheme http -host 127.0.0.1 -port {port} -public-host 127.0.0.1:{port} -backend memory".split()

    with emulator("fake-gcs-server", options) as url:
        post(f"{url}/storage/v1/b?project=test", json.dumps({"name": "box"}).encode(), "application/json")
        monkeypatch.setenv("GOOGLE_BASE_URL", url)
        monkeypatch.setenv("GOOGLE_SKIP_SIGNATURE", "true")
        yield "gs://box", url


def post(url: str, data: bytes, kind: str) -> None:
    urlopen(Request(url, data=data, headers={"Content-Type": kind})).close()


def sums(place: Path | str, **options: Path) -> list[tuple[int, int]]:
    """What a loader delivers in two epochs, in short."""
    with Loader(place, batch_size=2, size=24, device="cpu", augment="train", seed=3, **options) as loader:
        return [(int(batch.image.sum()), int(batch.mask.sum())) for _ in range(2) for batch in loader]


def test_azure(azure: str, gappy: Path, chosen: PackOptions, expected: dict[str, bytes], tmp_path: Path) -> None:
    """A set is built, copied there and back, verified, and loaded; one publisher wins; versions are told apart."""
    build(gappy, f"{azure}/set", chosen, workers=1)
    store = open_store(f"{azure}/set")
    assert {name: store.read(name, match=status) for name, status in store.list()} == expected
    copy_set(f"{azure}/set", f"{azure}/again")
    copy_set(f"{azure}/again", tmp_path / "set")
    assert verify_address(f"{azure}/again", mode="full").ok
    local = sums(tmp_path / "set")
    for fetch in ("range", "shard"):
        assert sums(f"{azure}/set", cache=tmp_path / fetch, fetch=fetch) == local  # type: ignore[arg-type]
    first = store.put("x", b"1", if_absent=True)
    with pytest.raises(ObjectExistsError):
        store.put("x", b"2", if_absent=True)
    store.put("x", b"12", if_match=first)
    for outdated in (lambda: store.put("x", b"3", if_match=first), lambda: store.read("x", match=first)):
        with pytest.raises(ObjectChangedError):
            outdated()
    with pytest.raises(PublishedError):
        put_manifest(store, b"another manifest")
    with pytest.raises(StoreError, match="ends before"):
        store.read_range("x", 10, 1)


def test_google(google: tuple[str, str], gappy: Path, chosen: PackOptions, tmp_path: Path) -> None:
    """A set is read; this emulator takes no uploads in the way that obstore makes them."""
    address, url = google
    build(gappy, tmp_path / "set", chosen, workers=1)
    for path in (tmp_path / "set").iterdir():
        name = quote(f"set/{path.name}", safe="")
        post(f"{url}/upload/storage/v1/b/box/o?uploadType=media&name={name}", path.read_bytes(), "application/tar")
    store = open_store(f"{address}/set")
    found = {name: store.read(name, match=status) for name, status in store.list()}
    assert found == {path.name: path.read_bytes() for path in (tmp_path / "set").iterdir()}
    assert verify_address(f"{address}/set", mode="full").ok
    copy_set(f"{address}/set", tmp_path / "copy")
    local = sums(tmp_path / "copy")
    for fetch in ("range", "shard"):
        assert sums(f"{address}/set", cache=tmp_path / fetch, fetch=fetch) == local  # type: ignore[arg-type]
