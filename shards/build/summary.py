"""What a build tells: a summary for people, the same for programs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from shards.audit.reasons import REASONS, Note
from shards.build.pack import Built
from shards.format.layout import QUARANTINE_NAME, SPLITS

SHOWN_FINDINGS = 50


def build_json(built: Built) -> dict[str, Any]:
    """Return the outcome of a build as a JSON object."""
    manifest = built.manifest
    return {
        "path": str(built.path),
        "storage": manifest.storage,
        "size": manifest.size,
        "samples": manifest.samples,
        "splits": {name: manifest.splits[name].samples for name in SPLITS if name in manifest.splits},
        "shards": sum(len(split.shards) for split in manifest.splits.values()),
        "bytes": sum(entry.bytes for entry in manifest.files()),
        "found": manifest.audit.found,
        "mended": manifest.audit.mended,
        "left_out": manifest.audit.left_out,
        "reasons": dict(manifest.audit.reasons),
        "ignored_files": built.ignored,
        "resumed_shards": built.resumed,
        "already_complete": built.already,
        "audited": built.audited,
        "seconds": round(built.seconds, 3),
        "pictures_per_second": round(built.audited / built.seconds, 1) if built.audited else None,
        "fingerprint": manifest.fingerprint,
    }


def build_text(built: Built) -> str:
    """Return the outcome of a build for people."""
    document = build_json(built)
    lines = []
    if built.already:
        lines.append(f"{built.path} is complete already: same names, lists, sizes and options; nothing was done")
        lines.append("(--overwrite builds it again)")
    if built.forgotten:
        lines.append("unfinished work of another source or other options was thrown away")
    if built.resumed:
        lines.append(f"went on with {built.resumed} shards that were finished before")
    splits = ", ".join(f"{name} {count}" for name, count in document["splits"].items())
    lines.append(
        f"{document['samples']} of {document['found']} pictures in {document['shards']} shards "
        f"({document['bytes'] / 1e6:.1f} MB): {splits}"
    )
    if built.audited:
        rate = built.audited / built.seconds
        lines.append(f"{built.audited} pictures audited in {built.seconds:.1f} s, {rate:,.0f} pictures/s")
    if document["mended"]:
        lines.append(f"{document['mended']} were mended")
    if document["left_out"]:
        lines.append(f"{document['left_out']} were left out")
    for reason, count in document["reasons"].items():
        lines.append(f"  {count:>6}  {reason}: {REASONS[reason]}")
    if document["reasons"]:
        lines.append(f"each is a line of {built.path / QUARANTINE_NAME}")
    if built.ignored:
        lines.append(f"{built.ignored} files that are no part of the dataset were ignored")
    lines.append(f"look at it: petseg-shard preview {built.path} sheet.png")
    return "\n".join(lines)


def finding_lines(notes: Sequence[Note]) -> Iterator[str]:
    """Yield one line a finding, the first fifty."""
    for note in notes[:SHOWN_FINDINGS]:
        yield note.line()
    if len(notes) > SHOWN_FINDINGS:
        yield f"... and {len(notes) - SHOWN_FINDINGS} more; build without --strict to have them all in a file"
