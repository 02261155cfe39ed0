"""Checking whether a shard set is as it was built: manifest, tables, indices and tars against each other."""

import math
import os
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from shards.audit.mask import Counts
from shards.build.options import options_of
from shards.errors import FormatError
from shards.format.geometry import Size, size_text
from shards.format.labels import IGNORE
from shards.format.layout import MANIFEST_NAME, SPLITS, Split, index_name, is_set_file, shard_name
from shards.format.manifest import Manifest, load_manifest
from shards.format.npy import SampleTable, ShardTable
from shards.verify.check_shard import ShardCheck
from shards.verify.check_tables import check_audit_file, check_raw_layout, check_shard_table, check_table
from shards.verify.exchanged import file_finder, shard_problems
from shards.verify.problems import Mode, Problem, Report

Progress: TypeAlias = Callable[[int, int], None]
Tables: TypeAlias = dict[Split, tuple[SampleTable | None, ShardTable | None]]


@dataclass
class SplitSums:
    """What the samples of a split add up to."""

    largest: Size = (0, 0)  # height and width of its source images, pixels
    area: int = 0  # of its source images, pixels
    attributes: dict[str, Counter[str]] = field(default_factory=dict)
    pixels: Counts = field(default_factory=lambda: np.zeros(256, np.int64))  # of its masks, of each index

    def add(self, check: ShardCheck) -> None:
        """Add those of a shard."""
        self.largest = (max(self.largest[0], check.largest[0]), max(self.largest[1], check.largest[1]))
        self.area += check.area
        self.pixels += check.pixels
        for attribute, counts in check.attributes.items():
            self.attributes.setdefault(attribute, Counter()).update(counts)


def verify(
    path: str | Path,
    *,
    mode: Mode = "default",
    workers: int = 1,
    progress: Progress | None = None,
    around: Callable[[ShardCheck], AbstractContextManager[None]] = lambda _: nullcontext(),
) -> Report:
    """Check a shard set; never raises, whatever is in the folder. Takes the memory of a few shards' tables.

    Args:
        path: the set's folder.
        mode: ``quick`` checks sizes and structure only, in constant time per shard. ``default`` reads every byte and
            finds any that changed. ``full`` also decodes every sample.
        workers: threads that check shards at the same time.
        progress: called with (shards done, all shards).
        around: entered for the time of each shard's check, in its thread: brings its files, see check_address.
    """
    folder, quick = Path(path), mode == "quick"
    report = Report(path=str(path), mode=mode)
    try:
        manifest = load_manifest(folder)
    except (FormatError, OSError) as error:
        report.add([Problem(kind="manifest", file=MANIFEST_NAME, message=str(error))])
        with suppress(OSError):
            report.no_set = not folder.is_dir() or not any(is_set_file(each.name) for each in folder.iterdir())
        return report
    report.options = options_of(manifest)
    report.files = 1 + len(manifest.files()) + sum(2 * split.shards for split in manifest.splits.values())
    report.add(_stray_files(folder, manifest))
    report.add(check_audit_file(folder, manifest, quick=quick))
    tables: Tables = {}
    for split in (name for name in SPLITS if name in manifest.splits):
        samples, problems = check_table(folder, manifest, split, quick=quick)
        report.add(problems)
        shards, problems = check_shard_table(folder, manifest, split, samples)
        report.add(problems)
        tables[split] = samples, shards
    if report.ok:
        report.add(check_raw_layout(folder, manifest))
    sums = {split: SplitSums() for split in tables}
    total = sum(len(shards or ()) for _, shards in tables.values())
    checks = _checks(folder, manifest, tables)

    file_of = file_finder(manifest, {split: shards for split, (_, shards) in tables.items()})

    def run(check: ShardCheck) -> ShardCheck:
        with around(check):
            check.run(mode)
            if check.problems:
                first = None if check.table is None else int(check.table[check.first]["key_hash"])
                intact = None if quick else check.intact
                found = shard_problems(folder, check.entry, check.problems, file_of, first=first, intact=intact)
                check.problems = list(found)
            return check

    with ThreadPoolExecutor(max(workers, 1)) as executor:
        running: deque[Future[ShardCheck]] = deque()
        for done in range(1, total + 1):
            running += [executor.submit(run, check) for check in islice(checks, 2 * workers - len(running))]
            check = running.popleft().result()
            report.add(check.problems)
            sums[check.split].add(check)
            if progress is not None:
                progress(done, total)
    report.samples = manifest.samples
    report.bytes = 0 if quick else manifest.bytes
    if not quick and report.ok:
        report.add(_check_counts(manifest, sums, decoded=mode == "full"))
    return report


def _checks(folder: Path, manifest: Manifest, tables: Tables) -> Iterator[ShardCheck]:
    """Yield the check of each shard, when it is asked for: there may be a hundred thousand."""
    for split, (samples, shards) in tables.items():
        start = 0
        for number, shard in enumerate(shards or ()):
            yield ShardCheck(folder, manifest, split, number, shard, samples, start)
            start += shard.samples


def _check_counts(manifest: Manifest, sums: dict[Split, SplitSums], *, decoded: bool) -> Iterator[Problem]:
    """Compare the manifest's counts with those of the samples; only of a set without other problems."""
    if manifest.storage == "source":
        height, width = (max(each.largest[axis] for each in sums.values()) for axis in (0, 1))
        if (height, width) != manifest.largest:
            counted = size_text((height, width))
            message = f"largest: the manifest says {size_text(manifest.largest)}, the samples say {counted}"
            yield Problem(kind="count", file=MANIFEST_NAME, message=message)
    for name, split in manifest.splits.items():
        own = sums[name]
        pairs: list[tuple[str, Any, Any]] = [
            (attribute, counts, dict(own.attributes.get(attribute, {})))
            for attribute, counts in split.attributes.items()
        ]
        if decoded:
            pairs.append(("class_pixels", list(split.class_pixels), own.pixels[: len(manifest.labels)].tolist()))
            pairs.append(("ignored_pixels", split.ignored_pixels, int(own.pixels[IGNORE])))
        else:
            area = own.area if manifest.size is None else split.samples * math.prod(manifest.size)
            pairs.append(("pixels", sum(split.class_pixels) + split.ignored_pixels, area))
        for what, claimed, counted in pairs:
            if claimed != counted:
                message = f"{what} of {name}: the manifest says {claimed}, the samples say {counted}"
                yield Problem(kind="count", file=MANIFEST_NAME, message=message)


def _stray_files(folder: Path, manifest: Manifest) -> Iterator[Problem]:
    """Yield files that a reader of ``train-*.tar`` would take for a part of the set."""
    known = {entry.file for entry in manifest.files()}
    for name in sorted(entry.name for entry in os.scandir(folder) if is_set_file(entry.name)):
        if name not in known and not _is_shard_file(name, manifest):
            yield Problem(kind="stray", file=name, message="is named like a part of the set, but is not one")


def _is_shard_file(name: str, manifest: Manifest) -> bool:
    split, _, rest = name.partition("-")
    entry, number = manifest.splits.get(split), rest.partition(".")[0]  # type: ignore[call-overload]
    if entry is None or not number.isdecimal() or int(number) >= entry.shards:
        return False
    return name in (shard_name(split, int(number)), index_name(split, int(number)))  # type: ignore[arg-type]
