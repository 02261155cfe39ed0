"""Azure Blob Storage and Google Cloud Storage, by servers on this machine (docs/stores.md): what S3 does, they do.

Google's XML API is served by google_server, of the tests; Azurite and fake-gcs-server by themselves, if on the PATH.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import json
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from email.utils import formatdate
from pathlib import Path
from urllib.parse import quote
from urllib.request import Request, urlopen

import google_server
import msgspec
import pytest
from google_server import GoogleServer
from shard_sources import stored, tree
from store_servers import FaultPlan, FaultProxy

from pipeline import Loader
from shards.build.build_set import build
from shards.build.options import PackOptions
from shards.build.tasks import TaskNumber, build_task, copy_set, join
from shards.build.tasks.publish_in_store import put_manifest
from shards.errors import FormatError, PetsegError
from shards.format.dataset import ShardSet
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


@pytest.fixture(scope="module")
def azure() -> Iterator[str]:
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
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("AZURE_STORAGE_USE_EMULATOR", "true")
            patch.setenv("AZURITE_BLOB_STORAGE_URL", url)
            yield "az://box"


@pytest.fixture(params=["gs", "az"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A folder that nobody else uses."""
    if request.param == "gs":
        request.getfixturevalue("google")
        return f"gs://{google_server.BUCKET}/{tmp_path.name}"
    return f"{request.getfixturevalue('azure')}/{tmp_path.name}"


def sums(place: Path | str, **options: Path) -> list[tuple[int, int]]:
    """What a loader delivers in two epochs, in short."""
    with Loader(place, batch_size=2, size=24, device="cpu", augment="train", seed=3, **options) as loader:
        return [(int(batch.image.sum()), int(batch.mask.sum())) for _ in range(2) for batch in loader]


def at_once(*functions: Callable[[], object]) -> list[PetsegError]:
    """Call functions in threads, and return their errors."""
    errors: list[PetsegError] = []

    def call(function: Callable[[], object]) -> None:
        try:
            function()
        except PetsegError as error:
            errors.append(error)

    threads = [threading.Thread(target=call, args=(function,)) for function in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return errors


def run_task(source: Path, out: str, chosen: PackOptions, task: int, tasks: int, *, overwrite: bool = False) -> None:
    number = TaskNumber(task=task, tasks=tasks, origin="")
    build_task(source, out, chosen, number=number, workers=1, overwrite=overwrite)


def test_a_set_there_and_back(
    place: str, gappy: Path, chosen: PackOptions, expected: dict[str, bytes], tmp_path: Path
) -> None:
    """A set is built, copied there and back, verified, and loaded."""
    build(gappy, f"{place}/set", chosen, workers=1)
    assert stored(f"{place}/set") == expected
    copy_set(f"{place}/set", f"{place}/again")
    copy_set(f"{place}/again", tmp_path / "set")
    assert stored(f"{place}/again") == tree(tmp_path / "set") == expected
    assert verify_address(f"{place}/again", mode="full").ok
    local = sums(tmp_path / "set")
    for fetch in ("range", "shard"):
        assert sums(f"{place}/set", cache=tmp_path / fetch, fetch=fetch) == local  # type: ignore[arg-type]


def test_tasks_and_joins_at_once(place: str, gappy: Path, chosen: PackOptions, expected: dict[str, bytes]) -> None:
    """Two tasks, and three that join what they have built; then the same over another set, and over unfinished work."""
    out, other = f"{place}/set", msgspec.structs.replace(chosen, seed=5)
    for overwrite in (False, True):
        if overwrite:
            build(gappy, out, other, workers=1, overwrite=True)
            run_task(gappy, out, msgspec.structs.replace(chosen, seed=6), 0, 2, overwrite=True)
        tasks = [lambda task=task: run_task(gappy, out, chosen, task, 2, overwrite=overwrite) for task in range(2)]  # noqa: B023
        assert not at_once(*tasks)
        assert not at_once(*3 * [lambda: join(out, overwrite=overwrite)])  # noqa: B023
        assert stored(out) == expected


def test_one_of_many_publishers_wins(place: str, tmp_path: Path, gappy: Path, chosen: PackOptions) -> None:
    """Of different sets, by manifests alone and as copies; those whose set is the winner's succeed, too."""
    address = f"{place}/set"
    errors = at_once(*(lambda n=n: put_manifest(open_store(address), b"%d" % (n % 2)) for n in range(8)))
    assert [type(error) for error in errors] == [PetsegError] * 4
    for seed in (1, 2):
        build(gappy, tmp_path / f"{seed}", msgspec.structs.replace(chosen, seed=seed), workers=1)
    copies = [lambda seed=seed: copy_set(tmp_path / f"{seed}", f"{place}/copy") for seed in (1, 2, 1, 2)]
    assert 0 < len(at_once(*copies)) <= 2
    assert stored(f"{place}/copy") in (tree(tmp_path / "1"), tree(tmp_path / "2"))
    with pytest.raises(FormatError):
        ShardSet.open(address)


def test_conditional_writes(place: str) -> None:
    store = open_store(f"{place}/set")
    first = store.put("x", b"1", if_absent=True)
    with pytest.raises(ObjectExistsError):
        store.put("x", b"2", if_absent=True)
    store.put("x", b"12", if_match=first)
    for outdated in (lambda: store.put("x", b"3", if_match=first), lambda: store.read("x", match=first)):
        with pytest.raises(ObjectChangedError):
            outdated()
    with pytest.raises(StoreError, match="ends before"):
        store.read_range("x", 10, 1)


def test_large_files_go_in_parts(place: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(range(256)) * (70 << 10))
    store = open_store(place)
    status = store.put("large", tmp_path / "file")
    assert store.status("large") == status
    store.copy("large", "copy")
    assert store.read("copy") == (tmp_path / "file").read_bytes()


@pytest.mark.parametrize("seed", range(2))
def test_faults_of_google_s(
    google: tuple[GoogleServer, FaultProxy],
    gappy: Path,
    chosen: PackOptions,
    expected: dict[str, bytes],
    tmp_path: Path,
    seed: int,
) -> None:
    """Replies that are lost, too: a conditional write that is repeated recognises what it has written."""
    faults, out = ("503", "reset", "cut body", "lost reply"), f"gs://{google_server.BUCKET}/{tmp_path.name}"
    google[1].plan = FaultPlan(rate=0.15, faults=faults, seed=seed, only=lambda *_: True)
    build(gappy, out, chosen, workers=1)
    assert google[1].plan.injected.keys() == set(faults)
    google[1].plan = FaultPlan()
    assert stored(out) == expected


def test_fake_gcs_server(gappy: Path, chosen: PackOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another server of Google's API; it takes no uploads in the way that obstore makes them, so it is read."""

    def options(port: int) -> list[str]:
        return f"-scheme http -host 127.0.0.1 -port {port} -public-host 127.0.0.1:{port} -backend memory".split()

    def post(url: str, data: bytes, kind: str) -> None:
        urlopen(Request(url, data=data, headers={"Content-Type": kind})).close()

    with emulator("fake-gcs-server", options) as url:
        post(f"{url}/storage/v1/b?project=test", json.dumps({"name": "box"}).encode(), "application/json")
        monkeypatch.setenv("GOOGLE_BASE_URL", url)
        monkeypatch.setenv("GOOGLE_SKIP_SIGNATURE", "true")
        monkeypatch.delenv("GOOGLE_SERVICE_ACCOUNT_KEY", raising=False)
        build(gappy, tmp_path / "set", chosen, workers=1)
        for path in (tmp_path / "set").iterdir():
            name = quote(f"set/{path.name}", safe="")
            post(f"{url}/upload/storage/v1/b/box/o?uploadType=media&name={name}", path.read_bytes(), "application/tar")
        assert stored("gs://box/set") == tree(tmp_path / "set")
        assert verify_address("gs://box/set", mode="full").ok
        copy_set("gs://box/set", tmp_path / "copy")
        local = sums(tmp_path / "copy")
        for fetch in ("range", "shard"):
            assert sums("gs://box/set", cache=tmp_path / fetch, fetch=fetch) == local  # type: ignore[arg-type]
