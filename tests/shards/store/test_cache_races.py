"""Several processes in one cache, at the moments at which one undoes what another one is about to do."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from shards.errors import CacheTooSmallError, PetsegError
from shards.store.remote.cache_place import open_cache
from shards.store.remote.cached_file import CachedFile
from shards.store.remote.content_cache import ContentCache

CONTENT = bytes(range(256)) * 40
SHA256 = hashlib.sha256(CONTENT).hexdigest()
SIZE = len(CONTENT)


@pytest.fixture
def cache(tmp_path: Path) -> ContentCache:
    return ContentCache(tmp_path / "cache", 1 << 20)


def fetch(cache: ContentCache, content: bytes = CONTENT) -> str:
    """Bring a file into a cache, and return its SHA-256."""
    sha256 = hashlib.sha256(content).hexdigest()
    with cache.fetching(sha256) as descriptor:
        assert descriptor is not None
        os.pwrite(descriptor, content, 0)
        assert cache.publish(sha256, descriptor)
    return sha256


def before(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, event: Callable[[], object]) -> None:
    """Have something happen once, just before a function is called."""
    real, left = getattr(owner, name), [event]

    def late(*arguments: Any, **named: Any) -> Any:
        if left:
            left.pop()()
        return real(*arguments, **named)

    monkeypatch.setattr(owner, name, late)


@pytest.mark.parametrize("opened", ["the cache", "a file"])
def test_a_folder_that_is_removed_while_it_is_made(
    cache: ContentCache, monkeypatch: pytest.MonkeyPatch, opened: str
) -> None:
    """It is there when it is to be made, and gone when that is looked at."""
    real, removed = os.mkdir, 0

    def late(path: Any, *arguments: Any) -> None:
        nonlocal removed
        try:
            real(path, *arguments)
        except FileExistsError:
            if removed < 3:
                removed += 1
                shutil.rmtree(cache.folder)
            raise

    cache.path(SHA256).parent.mkdir(parents=True)
    monkeypatch.setattr(os, "mkdir", late)
    if opened == "the cache":
        assert open_cache(cache.folder, None).folder == cache.folder
    else:
        fetch(cache)
        assert cache.open(SHA256, size=SIZE)
    assert removed


def test_a_cache_that_is_removed_while_it_is_looked_at(cache: ContentCache, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("access", "statvfs"):
        cache.folder.mkdir(exist_ok=True)
        before(monkeypatch, os, name, lambda: shutil.rmtree(cache.folder))
        assert open_cache(cache.folder, None).folder == cache.folder


def test_a_file_in_place_of_a_folder_is_named(cache: ContentCache) -> None:
    cache.folder.mkdir()
    cache.path(SHA256).parent.touch()
    with pytest.raises(PetsegError, match=f"the cache {cache.folder} cannot be used: File exists; choose another"):
        fetch(cache)


def test_what_another_process_fetches_is_not_published(cache: ContentCache) -> None:
    """The cache was removed, and the other one began anew, under the same name."""
    with cache.fetching(SHA256) as mine:
        assert mine is not None
        os.pwrite(mine, CONTENT, 0)
        shutil.rmtree(cache.folder)
        with cache.fetching(SHA256) as other:
            assert other is not None
            os.ftruncate(other, SIZE)
            assert not cache.publish(SHA256, mine)
            assert cache.open(SHA256, size=SIZE) is None
            os.pwrite(other, CONTENT, 0)
            assert cache.publish(SHA256, other)
    found = cache.open(SHA256, size=SIZE)
    assert found is not None
    assert found[:] == CONTENT


@pytest.mark.parametrize("moment", ["before its status is read", "before it is removed"])
def test_a_file_that_is_published_while_space_is_counted(
    cache: ContentCache, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """It has another name by then, and still takes its space."""
    small = ContentCache(cache.folder, SIZE)
    with cache.fetching(SHA256) as descriptor, cache.fetching("f" * 64) as other:
        assert descriptor is not None
        assert other is not None
        os.pwrite(descriptor, CONTENT, 0)
        os.ftruncate(other, SIZE)
        name = "stat" if moment.endswith("read") else "open"
        real, left, published = getattr(os, name), [descriptor], []

        def late(path: Any, *arguments: Any, **named: Any) -> Any:
            if left and str(path).endswith(f"{SHA256}.fetch"):
                published.append(cache.publish(SHA256, left.pop()))
            return real(path, *arguments, **named)

        monkeypatch.setattr(os, name, late)
        if name == "stat":
            assert small.used_bytes() >= 2 * SIZE
        else:
            with pytest.raises(CacheTooSmallError, match=r"give more with cache_bytes"):
                small.make_room(SIZE, release=lambda: None)
        assert published == [True]


@pytest.mark.parametrize("moment", ["open", "lock"])
def test_two_make_room_at_once(cache: ContentCache, monkeypatch: pytest.MonkeyPatch, moment: str) -> None:
    """What another process has removed meanwhile is gone: nothing else is removed for it, and there is room."""
    first, second = fetch(cache, b"a" * SIZE), fetch(cache, b"b" * SIZE)
    for place, sha256 in enumerate((first, second)):
        os.utime(cache.path(sha256), (place, place))
    here = ContentCache(cache.folder, cache.used_bytes())
    owner, name = (os, "open") if moment == "open" else (fcntl, "flock")
    before(monkeypatch, owner, name, cache.path(first).unlink)
    here.make_room(SIZE, release=lambda: None)
    assert cache.path(second).exists()


def test_what_is_made_anew_is_not_removed(cache: ContentCache, monkeypatch: pytest.MonkeyPatch) -> None:
    """One process is about to remove a file, another one has done so, and a third one uses it again."""
    fetch(cache)
    used: list[CachedFile | None] = []

    def meanwhile() -> None:
        cache.path(SHA256).unlink()
        fetch(cache)
        used.append(cache.open(SHA256, size=SIZE))

    here = ContentCache(cache.folder, SIZE)
    before(monkeypatch, fcntl, "flock", meanwhile)
    here.make_room(SIZE, release=lambda: None)
    assert used[0] is not None
    assert cache.path(SHA256).exists()


def test_a_tar_that_has_just_been_begun_is_not_damaged(cache: ContentCache, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process finds it before it has its size."""
    before(
        monkeypatch, os, "ftruncate", lambda: cache.open_ranges(SHA256, size=SIZE, samples=4, create=False)
    )  # fmt: skip
    begun = cache.open_ranges(SHA256, size=SIZE, samples=4, create=True)
    assert begun is not None
    begun.add(0, 0, CONTENT)
    found = cache.open_ranges(SHA256, size=SIZE, samples=4, create=False)
    assert found is not None
    assert found.present.tolist() == [1, 0, 0, 0]


def test_two_discard_the_same(cache: ContentCache, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder in the place of a file."""
    path = cache.path(SHA256)
    path.mkdir(parents=True)
    real = os.rmdir
    before(monkeypatch, os, "rmdir", lambda: real(path))
    assert cache.open(SHA256, size=SIZE) is None


def test_a_fork_keeps_nobody_waiting(cache: ContentCache) -> None:
    """A process that was forked meanwhile has the file open, too, and its lock."""
    with cache.fetching(SHA256) as descriptor:
        assert descriptor is not None
        os.pwrite(descriptor, CONTENT, 0)
        inherited = os.dup(descriptor)  # as a fork has it
        assert cache.publish(SHA256, descriptor)
    found: list[CachedFile | None] = []
    reader = threading.Thread(target=lambda: found.append(cache.open(SHA256, size=SIZE)), daemon=True)
    reader.start()
    reader.join(20)
    os.close(inherited)
    assert found, "the reader waits for the fork"
    assert found[0] is not None
    assert found[0][:] == CONTENT


def test_damage_that_is_found_while_others_look(cache: ContentCache, monkeypatch: pytest.MonkeyPatch) -> None:
    """One thread asks which samples are there, when another one records that a sample is damaged."""
    file = cache.open_ranges(SHA256, size=SIZE, samples=4, create=True)
    assert file is not None
    file.add(0, 0, CONTENT)
    real = os.pread

    def slow(*arguments: Any) -> bytes:
        known = real(*arguments)
        marking = threading.Thread(target=file.mark, args=(0, 0))
        marking.start()
        marking.join(0.2)
        return known

    with monkeypatch.context() as patch:
        patch.setattr(os, "pread", slow)
        file.refresh()
    for _ in range(100):
        if not file.present[0]:
            break
        threading.Event().wait(0.05)
    assert not file.present[0]


@pytest.mark.parametrize("gone", [PermissionError, FileNotFoundError])
def test_folders_that_cannot_be_listed_are_left_out(
    cache: ContentCache, monkeypatch: pytest.MonkeyPatch, gone: type[OSError]
) -> None:
    """Another user's, or one that is removed meanwhile; all others count."""
    for number in range(8):
        fetch(cache, bytes([number]) * SIZE)
    before_all = cache.used_bytes()
    folders = sorted(path.name for path in cache.folder.iterdir())
    real = Path.iterdir

    def listing(path: Path) -> Any:
        if path.name == folders[0]:
            raise gone
        return real(path)

    monkeypatch.setattr(Path, "iterdir", listing)
    assert cache.used_bytes() >= before_all * 6 // 8
    ContentCache(cache.folder, before_all).make_room(SIZE, release=lambda: None)
