"""The same behaviour of a local folder and of a bucket, addresses, and what is said where a store fails."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import google_server
import pytest
from store_servers import BUCKET, ENVIRONMENT, FaultPlan, FaultProxy
from waiting import wait_until

from shards.errors import PetsegError, UsageError
from shards.store.addresses import StoreAddress, parse_address, without_secrets
from shards.store.cloud.object_store import ObjectStore
from shards.store.cloud.patience import Patience
from shards.store.cloud.request_errors import passing_reason
from shards.store.cloud.request_loop import run
from shards.store.open_store import open_store
from shards.store.store_protocol import (
    ObjectChangedError,
    ObjectExistsError,
    ObjectMissingError,
    ObjectStatus,
    Store,
    StoreError,
    repeated_text,
)

NAME = "parts/a b ä.bin"  # percent-encoded in URLs
FAST = Patience(attempts=8, first_wait=0.001, read_seconds=30)


@pytest.fixture(params=["folder", "s3", "gs"])
def store(request: pytest.FixtureRequest, tmp_path: Path, server: FaultProxy, google: object) -> Store:
    places = {"folder": tmp_path / "set", "s3": f"s3://{BUCKET}/{tmp_path.name}/set"}
    return open_store(places.get(request.param, f"gs://{google_server.BUCKET}/{tmp_path.name}/set"))


def test_what_is_put_is_read(store: Store, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"from a file" * 1000)
    status = store.put(NAME, b"0123456789")
    assert status == store.status(NAME)
    assert status.size == 10
    assert store.read(NAME, match=status) == b"0123456789"
    assert store.read_range(NAME, 2, 3, match=status) == b"234"
    assert store.read_range(NAME, 2, 0) == b""
    store.put("large", tmp_path / "file")
    assert store.read("large") == b"from a file" * 1000
    assert dict(store.list()) == {NAME: status, "large": store.status("large")}
    assert [name for name, _ in store.list("parts")] == [NAME]
    again = pickle.loads(pickle.dumps(store))
    assert again == store
    assert again.read(NAME) == b"0123456789"
    for _ in range(2):
        store.delete(NAME)
    with pytest.raises(ObjectMissingError, match="a b ä"):
        store.status(NAME)
    with pytest.raises(ObjectMissingError):
        store.read(NAME)
    with pytest.raises(StoreError, match="ends before byte 11001"):
        store.read_range("large", 10999, 2)


def test_conditional_writes(store: Store, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"second")
    first = store.put(NAME, b"first", if_absent=True)
    for data in (b"second", tmp_path / "file"):
        with pytest.raises(ObjectExistsError):
            store.put(NAME, data, if_absent=True)
    assert store.read(NAME) == b"first"
    second = store.put(NAME, b"second one", if_match=first)
    with pytest.raises(ObjectChangedError):
        store.put(NAME, b"third", if_match=first)
    for read in (store.read, lambda name, match: store.read_range(name, 0, 1, match=match)):
        with pytest.raises(ObjectChangedError) as caught:
            read(NAME, match=first)
        for part in ("a b ä", first.stamp, second.stamp):
            assert part in str(caught.value)


@pytest.mark.parametrize("change", ["if_absent", "if_match"])
def test_a_conflict_is_no_file(server: FaultProxy, tmp_path: Path, change: str) -> None:
    """S3 answers so while another conditional write of the name goes on, whatever becomes of that."""
    store = bucket(tmp_path)
    options = {"if_match": store.put("x", b"old")} if change == "if_match" else {"if_absent": True}
    server.plan = FaultPlan(rate=0.6, faults=("conflict",), only=lambda method, path: method == "PUT", seed=1)
    for number in range(4):
        name = f"{number}" if change == "if_absent" else "x"
        written = store.put(name, b"%d" % number, **options)  # type: ignore[arg-type]
        options = {"if_match": written} if change == "if_match" else options
        assert store.read(name) == b"%d" % number
    assert store.failures == {"status 409": server.plan.injected["conflict"]}
    assert server.plan.injected.total() > 2


def test_one_of_many_writers_wins(store: Store) -> None:
    won: list[int] = []

    def write(number: int) -> None:
        try:
            store.put("manifest", f"{number}".encode(), if_absent=True)
            won.append(number)
        except ObjectExistsError:
            pass

    threads = [threading.Thread(target=write, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert store.read("manifest") == str(won[0]).encode()


def bucket(tmp_path: Path, **patience: float) -> ObjectStore:
    return ObjectStore(StoreAddress("s3", BUCKET, tmp_path.name), Patience(**{**vars(FAST), **patience}))  # type: ignore[arg-type]


def test_faults_are_repeated_and_counted(server: FaultProxy, tmp_path: Path) -> None:
    store, content = bucket(tmp_path), os.urandom(100_000)
    status = store.put("x", content)
    faults = ("503", "reset", "cut body", "wrong length", "wrong range")
    server.plan = plan = FaultPlan(rate=0.4, faults=faults, seed=1)
    for start in range(0, 50_000, 1000):
        assert store.read_range("x", start, 999, match=status) == content[start : start + 999]
    assert set(plan.injected) == set(faults)
    assert store.failures.total() == plan.injected.total()


@pytest.mark.parametrize("sent", ["as asked for", "faulty", "too long"])
def test_what_is_written_as_it_arrives(
    server: FaultProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sent: str
) -> None:
    """In parts, each where it belongs; from the start again after a fault, and never beyond what was asked for."""
    store, content, start, stop = bucket(tmp_path), os.urandom(3_000_000), 1000, 2_700_000
    status, found, sizes = store.put("x", content), bytearray(len(content)), list[int]()
    if sent == "faulty":
        faults = ("503", "reset", "cut body", "wrong length", "wrong range")
        server.plan = FaultPlan(rate=0.6, faults=faults, seed=1)
    if sent == "too long":
        chunks = store._chunks

        def longer(self: ObjectStore, reply: Any, size: int) -> AsyncIterator[memoryview]:
            return chunks(reply, size - 1)

        monkeypatch.setattr(ObjectStore, "_chunks", longer)

    async def write(at: int, data: memoryview) -> None:
        sizes.append(len(data))
        found[at : at + len(data)] = data

    read = store.read_range_async("x", start, stop - start, match=status, write=write)
    if sent == "too long":
        with pytest.raises(StoreError, match="a body of another length"):
            run(read)
    else:
        assert run(read)[0] == status
        assert found[start:stop] == content[start:stop]
        assert max(sizes) < stop - start
    assert not any(found[:start])
    assert not any(found[stop - (sent == "too long") :])


@pytest.mark.parametrize("fault", ["503", "reset", "cut body", "wrong length", "slow start"])
def test_what_does_not_pass_is_reported(server: FaultProxy, tmp_path: Path, fault: str) -> None:
    status = bucket(tmp_path).put("x", b"0123456789" * 100)
    store = bucket(tmp_path, attempts=3, **({"read_seconds": 0.2} if fault == "slow start" else {}))
    server.plan = plan = FaultPlan(rate=1, faults=(fault,), slow=0.5)
    for read in (lambda: store.read("x", match=status), lambda: store.read_range("x", 0, 100)):
        with pytest.raises(StoreError, match=rf"s3://{BUCKET}/{tmp_path.name}/x cannot be reached: 3 attempts"):
            read()
    wait_until(lambda: plan.injected[fault] >= 6)  # the server may be late for a request that was given up
    assert plan.injected[fault] == 6


def test_a_repeated_put_recognises_its_own_file(server: FaultProxy, tmp_path: Path) -> None:
    """The reply to the first attempt is lost, so the second one finds the file."""
    store = bucket(tmp_path)
    server.plan = FaultPlan(rate=0.4, faults=("lost reply",), only=lambda method, path: method == "PUT", seed=3)
    for number in range(8):
        store.put(f"x{number}", b"mine", if_absent=True)
    assert store.failures.total() == server.plan.injected.total() > 0
    server.plan = FaultPlan()
    with pytest.raises(ObjectExistsError):
        store.put("x1", b"mine", if_absent=True)


def test_messages(server: FaultProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    patience = Patience(attempts=2, first_wait=0.001)
    missing = ObjectStore(StoreAddress("s3", "missing", ""), patience)
    for request in (missing.read, missing.status, missing.list, lambda name: missing.put(name, b"x")):
        with pytest.raises(StoreError, match="no such bucket") as caught:
            list(request("x"))  # type: ignore[operator]
        assert not isinstance(caught.value, ObjectMissingError)  # nothing is known of the file
    bucket(tmp_path).put("x", b"private")
    web = open_store(f"{server.url}/{BUCKET}/{tmp_path.name}")
    with pytest.raises(StoreError, match=r"permission denied.*readable without credentials"):
        web.read("x")
    for refused in (lambda: web.put("x", b""), lambda: list(web.list()), lambda: web.delete("x")):
        with pytest.raises(StoreError, match="read only"):
            refused()
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(StoreError, match=r"cannot be reached.*\(Connection refused\); check the network"):
        ObjectStore(StoreAddress("s3", BUCKET, ""), patience).read("x")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(PetsegError, match=r"no credentials were found; .*aws configure"):
        open_store(f"s3://{BUCKET}").read("x")


def test_why_there_was_no_answer(server: FaultProxy) -> None:
    port = server.server_address[1]
    patience = Patience(attempts=1, connect_seconds=20)
    for scheme, host, cause in (
        ("http", "127.0.0.1:9", "Connection refused"),
        ("https", f"127.0.0.1:{port}", "the server does not speak TLS"),
        ("https", "no-such-host.invalid", "(failed to lookup address|dns error)"),
    ):
        with pytest.raises(StoreError, match=rf"1 attempts failed, the last one with .*{cause}"):
            ObjectStore(StoreAddress(scheme, host, "set"), patience).read("x")


def test_a_profile_is_read(server: FaultProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    open_store(f"s3://{BUCKET}/{tmp_path.name}").put("x", b"content")
    (tmp_path / ".aws").mkdir()
    keys = f"aws_access_key_id = a\naws_secret_access_key = {ENVIRONMENT['AWS_SECRET_ACCESS_KEY']}\n"
    (tmp_path / ".aws/credentials").write_text(f"[work]\n{keys}")
    (tmp_path / ".aws/config").write_text(f"[profile work]\nregion = eu-west-1\nendpoint_url = {server.url}\n")
    for name in (*ENVIRONMENT, "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_PROFILE", "work")
    assert open_store(f"s3://{BUCKET}/{tmp_path.name}").read("x") == b"content"


@pytest.mark.parametrize(
    "value", ["127.0.0.1:9000", "ftp://host", "http://", "http://host:x", "http:/host", "http://a b"]
)
def test_an_endpoint_that_is_no_url(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    for name, keys in (("AWS_ENDPOINT_URL", ENVIRONMENT), ("GOOGLE_BASE_URL", {"GOOGLE_SKIP_SIGNATURE": "true"})):
        for variable, text in {**keys, name: value}.items():
            monkeypatch.setenv(variable, text)
        scheme = "gs" if name.startswith("G") else "s3"
        with pytest.raises(PetsegError, match=rf"the endpoint .* \({name}.*is no URL"):
            open_store(f"{scheme}://{BUCKET}/set").read("x")


@pytest.mark.parametrize("name", ["AWS_REGION", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"])
def test_a_variable_with_the_line_end_of_a_file(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    for variable, text in ENVIRONMENT.items():
        monkeypatch.setenv(variable, text)
    monkeypatch.setenv(name, "text\r")
    with pytest.raises(PetsegError, match=f"{name} holds a line end"):
        open_store(f"s3://{BUCKET}/set").read("x")


def _read_in_child(store: Store, results: multiprocessing.SimpleQueue[str]) -> None:
    try:
        results.put(str(store.read("x")))
    except PetsegError as error:
        results.put(str(error))


@pytest.mark.parametrize(("method", "expected"), [("fork", "connections do not survive"), ("spawn", "b'content'")])
def test_other_processes(server: FaultProxy, tmp_path: Path, method: str, expected: str) -> None:
    store = bucket(tmp_path)
    store.put("x", b"content")
    context = multiprocessing.get_context(method)
    results = context.SimpleQueue()
    child = context.Process(target=_read_in_child, args=(store, results))
    child.start()
    assert expected in results.get()
    child.join()


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    store = open_store(tmp_path / "set")
    with pytest.raises(StoreError):
        store.put("x", tmp_path / "missing", if_absent=True)
    with pytest.raises(StoreError):
        store.put("x", tmp_path / "missing")
    assert not list((tmp_path / "set").iterdir())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("s3://bucket/a//b/", StoreAddress("s3", "bucket", "a/b")),
        ("gs://bucket", StoreAddress("gs", "bucket", "")),
        ("AZ://container/x", StoreAddress("az", "container", "x")),
        ("https://Example.org:8443/x y", StoreAddress("https", "example.org:8443", "x y")),
        ("http://[::1]:80/x", StoreAddress("http", "[::1]:80", "x")),
        ("http://[::1]/x", StoreAddress("http", "[::1]", "x")),
        ("folder/s3", Path("folder/s3")),
    ],
)
def test_addresses(text: str, expected: StoreAddress | Path) -> None:
    assert parse_address(text) == expected


@pytest.mark.parametrize(
    ("place", "problem"),
    [
        ("s3://user:secret@bucket/x", "must not hold a user"),
        ("https://example.org/x?sig=secret", "must not hold a user"),
        ("https://example.org/x#secret", "must not hold a user"),
        ("ftp://example.org/x", "begins with s3://"),
        ("http://example.org/x", "not encrypted"),
        ("http://127.0.0.1.example.org/x", "not encrypted"),
        ("s3:///x", "bucket is missing"),
        ("https://[::1/x", "not a valid address"),
        (Path("s3://bucket/x"), "give addresses as text"),
    ],
)
def test_addresses_that_are_refused(place: str | Path, problem: str) -> None:
    with pytest.raises(UsageError, match=problem) as caught:
        open_store(place)
    assert "secret" not in str(caught.value)


def test_secrets_are_removed_from_messages() -> None:
    text = "GET https://me:secret@host/x?sig=secret&y=1#z in 3 ms (http://b/c?secret)"
    assert without_secrets(text) == "GET https://host/x in 3 ms (http://b/c)"


def test_without_the_extra(server: FaultProxy, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "obstore", None)
    with pytest.raises(PetsegError, match=r"pip install 'petseg\[s3\]'"):
        open_store(f"s3://{BUCKET}").read("x")


def test_a_stamp_differs_after_a_change(store: Store) -> None:
    found: Callable[[], ObjectStatus] = lambda: store.status("x")  # noqa: E731
    store.put("x", b"1")
    before = found()
    store.put("x", b"2")
    assert found() != before


def test_repeated_requests_are_said_by_reason() -> None:
    assert repeated_text({}) == ""
    assert repeated_text({"status 503": 1}) == "1 failed request to the object store repeated: 1 x status 503"
    assert repeated_text({"a": 1, "b": 2}) == "3 failed requests to the object store repeated: 2 x b, 1 x a"


def test_a_name_with_a_line_break_is_no_matter_of_the_network() -> None:
    name, said = "\n\x1b[31mx.jpg", 'Encountered illegal character sequence "\n" whilst parsing path segment'
    what = f'Error parsing Path "src/{name}": {said} "{name}"'
    error = Exception(f"Generic S3 error: Encountered object with invalid path: {what}")
    with pytest.raises(StoreError, match=r"there is an object whose name is no path .*rename or remove it") as caught:
        passing_reason(error, "s3://bucket/src")
    assert str(caught.value).isprintable()
