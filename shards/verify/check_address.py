"""Checking a set in an object store: its small files are fetched, then each shard for the time of its check."""

import contextlib
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from shards.errors import FormatError, UsageError, option
from shards.format.layout import MANIFEST_NAME, is_set_file
from shards.format.manifest import parse_manifest, read_manifest
from shards.store.open_store import open_store
from shards.store.owner_files import scratch_folder
from shards.store.store_protocol import ObjectMissingError, Store
from shards.verify.check_set import verify
from shards.verify.check_shard import ShardCheck
from shards.verify.problems import Mode, Report

_PART: Final = 1 << 24  # bytes that are fetched at a time


def verify_address(
    address: str, *, mode: Mode = "default", workers: int = 1, progress: Callable[[int, int], None] | None = None
) -> Report:
    """Check a set in a store as :func:`shards.verify.check_set.verify` checks a folder.

    Every byte is fetched once; a temporary folder holds the tables, and ``workers`` shards at a time.

    Raises ``FormatError`` if there is no set, ``UsageError`` for ``quick``, which reads too little to be worth a copy,
    and ``StoreError`` where the store cannot be read: then nothing is known.
    """
    if mode == "quick":
        raise UsageError(
            f"{option('quick')} is for folders; in a store, petseg-shard info {shlex.quote(address)} checks the "
            "manifest"
        )
    store = open_store(address)
    manifest = read_manifest(store)
    with scratch_folder("verify") as folder:
        (folder / MANIFEST_NAME).write_bytes(manifest)
        with contextlib.suppress(FormatError):  # is a problem of the report
            small = parse_manifest(manifest, store.describe(MANIFEST_NAME)).files()
            for entry in small:
                _fetch(store, entry.file, folder)
        if not store.read_only:
            for name, _ in store.list():
                if is_set_file(name) and not (folder / name).exists():
                    (folder / name).touch()  # so that what does not belong to the set is seen

        @contextlib.contextmanager
        def fetched(check: ShardCheck) -> Iterator[None]:
            names = (check.entry.file, check.entry.index.file)
            for name in names:
                _fetch(store, name, folder)
            try:
                yield
            finally:
                for name in names:
                    (folder / name).unlink(missing_ok=True)

        report = verify(folder, mode=mode, workers=workers, progress=progress, around=fetched)
    report.path, report.repeated = address, store.failures
    return report


def _fetch(store: Store, name: str, folder: Path) -> None:
    """Fetch a file, all of one version; where there is none, none is left in the folder."""
    path = folder / name
    path.unlink(missing_ok=True)
    with contextlib.suppress(ObjectMissingError):
        status = store.status(name)
        with path.open("xb") as handle:
            for start in range(0, status.size, _PART):
                handle.write(store.read_range(name, start, min(_PART, status.size - start), match=status))
