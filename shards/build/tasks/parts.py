"""Where finished shards are while several tasks build a set: beside a folder OUT, or inside an OUT in a store.

=====================  ===================================================================================
``plan``               which set is being built (:class:`ClaimedPlan`): created by the first task, if it is not there
``DIGEST/``            of that plan (16 hex digits): tar, index and record of each finished shard
``DIGEST/of-N``        empty: N tasks divide the plan, so that what is missing can be named by task
=====================  ===================================================================================

They are in the folder ``OUT.tasks``, or below ``OUT/.work/`` in a store. A shard is finished when its record is there,
which is written last: by a rename, or by one conditional request. Nothing is locked, since locks do not hold on every
network file system; a task that is run twice writes the same bytes twice.
"""

import contextlib
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self, TypeAlias

import msgspec

from shards.build.outcome.library_versions import which_differ
from shards.build.outcome.shard_records import read_record
from shards.build.plan import PlannedShard, PlanOutline
from shards.build.write_shard import ShardRecord, record_name
from shards.errors import FormatError, UsageError, option
from shards.format.layout import MANIFEST_NAME
from shards.format.manifest import Manifest, parse_manifest
from shards.format.readers.output_places import LOOKED_AT, is_manifest
from shards.store.atomic import PARTIAL_PREFIX
from shards.store.open_store import open_store
from shards.store.store_protocol import (
    ObjectChangedError,
    ObjectExistsError,
    ObjectMissingError,
    ObjectStatus,
    Store,
    StoreError,
)

PLAN: Final = "plan"
_IN_STORE: Final = ".work/"
_BESIDE: Final = ".tasks"
_NUMBER: Final = re.compile(r"of-([1-9][0-9]{0,8})")
_OWN_FOLDER: Final = re.compile(r"[0-9a-f]{16}")
CONCURRENT: Final = 16  # requests, or files, at a time


class ClaimedPlan(msgspec.Struct, frozen=True, kw_only=True, tag="build"):
    """A set that tasks build: what all of them have to agree about."""

    outline: PlanOutline
    versions: dict[str, str]  # of the libraries that the bytes depend on

    @property
    def digest(self) -> str:
        """The plan's digest."""
        return self.outline.digest


class ClaimedCopy(msgspec.Struct, frozen=True, kw_only=True, tag="copy"):
    """A set that is being copied; ``digest`` is the SHA-256 (hex) of its manifest."""

    digest: str


Claim: TypeAlias = ClaimedPlan | ClaimedCopy


@dataclass(frozen=True)
class Parts:
    """The finished shards of the set that is to be at ``target``; can be pickled."""

    target: Store
    store: Store
    prefix: str  # of all names in ``store``

    @classmethod
    def of(cls, out: str | Path) -> Self:
        """Return the parts of an OUT; follows symbolic links, so that a link to a set remains one."""
        target = open_store(out)
        if target.local_path("") is None:
            return cls(target, target, _IN_STORE)
        real = Path(os.path.realpath(out))
        return cls(open_store(real), open_store(real.with_name(real.name + _BESIDE)), "")

    @property
    def address(self) -> str:
        """Where they are, for messages."""
        return self.store.describe(self.prefix).rstrip("/")

    @property
    def is_local(self) -> bool:
        """Whether the set is to be in a folder."""
        return self.target.local_path("") is not None

    @property
    def folder_path(self) -> Path:
        """The set's folder, where it is to be in one."""
        path = self.target.local_path("")
        assert path is not None
        return path

    def local_folder(self, digest: str) -> Path:
        """Return the folder of a plan's shards, where it is a local one."""
        path = self.store.local_path(self.folder(digest))
        assert path is not None
        return path

    def folder(self, digest: str) -> str:
        """Return the folder of a plan's shards, with ``/`` at its end."""
        return f"{self.prefix}{digest[:16]}/"

    def expect_outside(self) -> None:
        """Raise ``UsageError`` if the set would be inside another one in a store; folders: :func:`check_target`."""
        scheme, _, path = self.target.address.partition("://")
        names = [] if self.is_local else path.split("/")
        for end in range(1, len(names)):  # the bucket, and each folder in it
            store = open_store(f"{scheme}://{'/'.join(names[:end])}")
            with contextlib.suppress(StoreError):  # nothing is there, or it is another's
                size = store.status(MANIFEST_NAME).size
                if is_manifest(store.read_range(MANIFEST_NAME, 0, min(size, LOOKED_AT))):
                    raise UsageError(
                        f"{store.address} is a shard set, which keeps its folder to itself; choose another address"
                    )

    def published(self, *, overwrite: bool) -> Manifest | None:
        """Return the manifest of the finished set at the target; None if there is none.

        A damaged one is none, either, with ``overwrite``; without it, it raises ``UsageError``.
        """
        try:
            data = self.target.read(MANIFEST_NAME)
            return parse_manifest(data, self.target.describe(MANIFEST_NAME))
        except ObjectMissingError:
            return None
        except FormatError as error:
            if overwrite:
                return None
            raise UsageError(f"{error} ({option('overwrite', True)} replaces it)") from None

    def claimed(self) -> tuple[Claim, ObjectStatus] | None:
        """Return whose files these are, and the version of the file that says so; None if nothing has begun."""
        name = self.prefix + PLAN
        try:
            status = self.store.status(name)
            data = self.store.read(name, match=status)
        except (ObjectMissingError, ObjectChangedError):
            return None
        try:
            claimed: Claim = msgspec.msgpack.decode(data, type=Claim)
            if not isinstance(claimed, ClaimedPlan) or claimed.outline.is_sound():
                return claimed, status
            raise UsageError("it contradicts itself")
        except (msgspec.DecodeError, RecursionError, UsageError):
            raise FormatError(
                f"{self.store.describe(name)} is damaged, or of another version of petseg; remove {self.address} and "
                "build again"
            ) from None

    def claim(self, mine: Claim, *, overwrite: bool) -> bool:
        """Say that these are the files of a plan or a copy, if nobody has; return whether other work was discarded.

        Raises ``UsageError`` where they are those of another one (``overwrite`` discards those), or where the first
        task has other versions of the libraries that the bytes depend on.
        """
        self._refuse_foreign_files()
        data = msgspec.msgpack.encode(mine)
        while True:
            with contextlib.suppress(ObjectExistsError):
                self.store.put(self.prefix + PLAN, data, if_absent=True)
                return False
            if (found := self.claimed()) is None:
                continue  # removed meanwhile
            claimed, status = found
            if claimed.digest == mine.digest:
                _check_versions(claimed, mine)
                return False
            if not overwrite:
                raise UsageError(
                    f"{self.address} holds the unfinished work of another source or other options; every task needs "
                    f"the same ones, and {option('overwrite', True)} discards what is there"
                )
            with contextlib.suppress(ObjectChangedError, ObjectMissingError):
                self.store.put(self.prefix + PLAN, data, if_match=status)
                self.clear_others(mine.digest)
                return True

    def check_claim(self, digest: str) -> None:
        """Raise ``UsageError`` unless these are still the files of a plan or copy."""
        found = self.claimed()
        if found is None or found[0].digest != digest:
            raise UsageError(f"{self.address} now holds the work of another command; this one is given up")

    def announce(self, digest: str, tasks: int) -> None:
        """Say that so many tasks divide the plan."""
        with contextlib.suppress(ObjectExistsError):
            self.store.put(f"{self.folder(digest)}of-{tasks}", b"", if_absent=True)

    @staticmethod
    def announced(listed: Iterable[str]) -> set[int]:
        """Return into how many tasks the plan was divided, according to the names that :meth:`list` returned."""
        return {int(found[1]) for name in listed if (found := _NUMBER.fullmatch(name))}

    def list(self, digest: str) -> dict[str, ObjectStatus]:
        """Return the files of a plan's shards, by name."""
        folder = self.folder(digest)
        return {name.removeprefix(folder): status for name, status in self._files(folder)}

    def records(
        self, digest: str, shards: Mapping[int, PlannedShard], listed: Mapping[str, ObjectStatus]
    ) -> dict[int, ShardRecord]:
        """Return the records of those of some shards that are finished, by the same numbers."""
        names = {index: record_name(shard.split, shard.number) for index, shard in shards.items()}
        found = {index: name for index, name in names.items() if name in listed}
        with ThreadPoolExecutor(CONCURRENT, "records") as readers:
            read = readers.map(lambda item: self._record(self.folder(digest) + item[1], shards[item[0]]), found.items())
            return {index: record for index, record in zip(found, read, strict=True) if record is not None}

    def clear(self, digest: str) -> None:
        """Remove everything, the plan first; only what is of this plan where it is not the one that is claimed."""
        found = self.claimed()
        if found is None or found[0].digest != digest:
            self.clear_plan(digest)
        else:
            self.store.delete(self.prefix + PLAN)
            self._remove(lambda _: True)

    def clear_plan(self, digest: str) -> None:
        """Remove what is of one plan."""
        self._remove(lambda name: name.startswith(self.folder(digest)))

    def clear_others(self, digest: str) -> None:
        """Remove what is not of one plan."""
        kept = self.prefix + PLAN, self.folder(digest)
        self._remove(lambda name: not name.startswith(kept))

    def _remove(self, chosen: Callable[[str], bool]) -> None:
        names = [name for name, _ in self._files(self.prefix) if chosen(name)]
        with ThreadPoolExecutor(CONCURRENT, "remove") as removers:
            list(removers.map(self.store.delete, filter(self._is_own, names)))
        folder = self.store.local_path("")
        if folder is not None and folder.is_dir():
            _remove_empty(folder)

    def _is_own(self, name: str) -> bool:
        first, _, rest = name.removeprefix(self.prefix).partition("/")
        return first == PLAN if not rest else _OWN_FOLDER.fullmatch(first) is not None

    def _record(self, name: str, shard: PlannedShard) -> ShardRecord | None:
        with contextlib.suppress(ObjectMissingError):
            data = self.store.read(name)
            return read_record(data, split=shard.split, number=shard.number, planned=shard.samples)
        return None

    def _files(self, folder: str) -> Iterator[tuple[str, ObjectStatus]]:
        with contextlib.suppress(ObjectMissingError):
            yield from self.store.list(folder.rstrip("/"))

    def _refuse_foreign_files(self) -> None:
        """Raise ``UsageError`` where a folder of this name holds something that no task has written."""
        folder = self.store.local_path("")
        if folder is not None and folder.exists():
            names = [path.name for path in folder.iterdir()] if folder.is_dir() else [folder.name]
            for name in names:
                if not (name.startswith(PARTIAL_PREFIX) or name == PLAN or _OWN_FOLDER.fullmatch(name)):
                    raise UsageError(f"{folder} holds files that no build created ({name}); move it away")


def _check_versions(first: Claim, here: Claim) -> None:
    if isinstance(first, ClaimedPlan) and isinstance(here, ClaimedPlan):
        other = which_differ(here.versions, first.versions)
        if other:
            raise UsageError(f"this machine has {other}; the tasks of a set need the same versions everywhere")


def _remove_empty(folder: Path) -> None:
    """Remove the empty folders in a folder, and itself if it is empty then."""
    for parent, _, names in os.walk(folder, topdown=False):
        for name in names:
            if name.startswith(PARTIAL_PREFIX):  # of a task that was killed while it wrote
                Path(parent, name).unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            Path(parent).rmdir()
