"""The result of a finished build, and the error of one whose audit found something."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from shards.audit.findings import SampleFinding, reason_text
from shards.audit.palettes import PaletteTally
from shards.build.write_shard import ShardRecord
from shards.errors import PetsegError, UsageError, counted, option, printable
from shards.format.layout import AUDIT_NAME
from shards.format.manifest import Manifest


class StrictError(PetsegError):
    """``--strict`` was given, and the audit found something. ``findings`` says what."""

    def __init__(self, message: str, findings: Sequence[SampleFinding] = ()) -> None:
        super().__init__(message)
        self.findings = tuple(findings)


@dataclass(frozen=True)
class BuildResult:
    """A finished build."""

    path: Path | str  # str: the address of an object store
    manifest: Manifest
    resumed: int = 0  # shards that an earlier, interrupted build had finished
    already_complete: bool = False  # a complete set of the same source and options existed; nothing was done
    ignored: int = 0  # files of the source that are not part of a dataset
    unread: tuple[str, ...] = ()  # files among images and masks that are neither, nor known litter
    discarded: bool = False  # unfinished work of another source or other options was discarded
    audited: int = 0  # images that this call audited, packed or rejected; not those of ``resumed`` shards
    seconds: float = 0.0  # from scanning the source to the finished set on the disk
    reason: str = ""  # why the source's layout was taken, as a clause for people
    unclaimed: dict[str, tuple[int, int]] = field(default_factory=dict)  # masks and pixels by value, of rejected masks
    palettes: PaletteTally = field(default_factory=PaletteTally)  # of packed masks; empty where nothing was packed

    def __repr__(self) -> str:
        audit, place = self.manifest.audit, printable(str(self.path))
        return f"<BuildResult: {audit.packed} of {counted(audit.found, 'image')} in {place}>"


def check_finished_set(existing: Manifest, digest: str, where: Path | str, *, strict: bool) -> None:
    """Raise an error unless a finished set is the one of a plan's digest: the same source and options.

    Raises ``UsageError``, or ``StrictError`` if its audit found anything although ``strict`` is asked for.
    """
    if existing.plan != digest:
        raise UsageError(
            f"{where} holds a finished set of another source or other options; "
            f"use {option('overwrite', True)} to replace it, or choose another folder"
        )
    if strict and existing.audit.reasons:
        raise StrictError(
            f"{where} was built without {option('strict')}: {describe_reasons(existing.audit.reasons)}, listed in its "
            f"{AUDIT_NAME}; correct them, then build it again with {option('overwrite', True)}"
        )


def check_outcome(manifest: Manifest, *, strict: bool, findings: Sequence[SampleFinding]) -> None:
    """Raise ``UsageError`` for a set without samples, and ``StrictError`` if the audit found anything it must not."""
    if not manifest.samples:
        raise UsageError(f"no sample passed the audit: {describe_reasons(manifest.audit.reasons)}; nothing was built")
    if strict and manifest.audit.reasons:
        raise StrictError(
            f"{option('strict')}: {describe_reasons(manifest.audit.reasons)}; nothing was built", findings
        )


def merged_palettes(records: Iterable[ShardRecord]) -> PaletteTally:
    """Return the palettes of the masks of some shards."""
    tally = PaletteTally()
    for record in records:
        tally.merge(record.palette_masks, record.palettes)
    return tally


def describe_reasons(reasons: dict[str, int]) -> str:
    """Return counts by reason in one line: ``2 not-listed (no list names the image), ...``."""
    return ", ".join(f"{count} {reason} ({reason_text(reason)})" for reason, count in reasons.items())
