"""Sets in an object store: the manifest is read there, the tables and samples through the cache."""

import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from operator import add
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from shards.errors import FormatError, UsageError, option, printable
from shards.format.layout import MANIFEST_NAME, ROLES, TAR_BLOCK, Rows
from shards.format.manifest import Manifest, parse_manifest, read_manifest
from shards.format.npy import ShardTable
from shards.store.addresses import expect_paths
from shards.store.cloud.object_store import ObjectStore
from shards.store.folder_store import FolderStore
from shards.store.remote.cache_place import check_bound, open_cache
from shards.store.remote.cached_tars import CachedTars
from shards.store.remote.remote_files import FETCHES, Fetch, RemoteFiles, SampleSpan, TarSpec
from shards.store.store_protocol import ObjectMissingError, Store

Indices = npt.NDArray[np.int64]
log = logging.getLogger("petseg")


def check_unused(store: FolderStore, *, fetch: Any, cache: Any, cache_bytes: Any) -> None:
    """Check what a set in a folder does not use, as for one in an object store, and say that it is not used."""
    _check_fetch(fetch)
    check_bound(cache_bytes)
    expect_paths(**({} if cache is None else {"cache": cache}))
    if cache is not None or cache_bytes is not None:
        names = f"{option('cache')} and {option('cache_bytes')}"
        log.warning("%s is a folder: %s are for sets in object stores", printable(store.address), names)


def open_remote_set(
    store: Store, *, fetch: Fetch, cache: str | Path | None, cache_bytes: int | str | None
) -> tuple[Manifest, RemoteFiles]:
    """Return the manifest of a set in an object store, and its files; see :meth:`shards.ShardSet.open`."""
    _check_fetch(fetch)
    assert isinstance(store, ObjectStore)
    files, place = RemoteFiles(store, open_cache(cache, cache_bytes), fetch), store.describe(MANIFEST_NAME)
    with contextlib.suppress(FormatError, ObjectMissingError):
        return parse_manifest(store.read(MANIFEST_NAME), place), files
    return parse_manifest(read_manifest(store), place), files  # by the server's own figure of its size


def _check_fetch(fetch: Any) -> None:
    if fetch not in FETCHES:
        raise UsageError(f"fetch {fetch!r} is unknown; use {', '.join(FETCHES)}")


def remote_tars(
    files: RemoteFiles, shards: ShardTable, starts: Indices, rows: Callable[[Any], Rows], *, total: int
) -> CachedTars:
    """Return the tars of a split of such a set.

    Args:
        files: the set's files.
        shards: the split's.
        starts: the index of each shard's first sample, shape (shards + 1,).
        rows: returns the checked records of samples by their indices, shape (n,), n at least 1.
        total: the size of the whole set in bytes.
    """

    def tar(number: int) -> TarSpec:
        entry = shards[number]
        return TarSpec(entry.file, entry.bytes, entry.sha256, entry.samples, int(starts[number]))

    def spans(indices: Sequence[int]) -> dict[int, SampleSpan]:
        found = rows(np.array(indices))
        places = np.array(indices) - starts[found["shard"].astype(np.int64)]
        return dict(zip(indices, sample_spans(found, places), strict=True))

    return CachedTars(files, lru_cache(1 << 12)(tar), spans, total)


def sample_spans(rows: Rows, places: Indices) -> Iterator[SampleSpan]:
    """Yield where samples are in their tars by their records: from the image's header to the end of the last member."""
    columns = [rows[f"{role}_{name}"].tolist() for name in ("offset", "length", "crc32") for role in ROLES]
    for place, *values in zip(places.tolist(), *columns, strict=True):
        offsets, lengths, sums = values[:3], values[3:6], values[6:]
        start, stop = min(offsets[0] - TAR_BLOCK, *offsets), max(map(add, offsets, lengths))
        yield SampleSpan(place, start, stop, tuple(zip(offsets, lengths, sums, strict=True)))
