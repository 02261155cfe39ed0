"""The report of a build: for people, and the same as JSON."""

from collections.abc import Iterator, Sequence
from typing import Any

from shards.audit.findings import REASONS, SampleFinding
from shards.build.build_set import BuildResult
from shards.format.layout import AUDIT_NAME, SPLITS

SHOWN_FINDINGS = 50


def build_json(built: BuildResult) -> dict[str, Any]:
    """Return the outcome of a build as a JSON object."""
    manifest, audit = built.manifest, built.manifest.audit
    return {
        "path": str(built.path),
        "storage": manifest.storage,
        "size": manifest.size,
        "fit": manifest.fit,
        "classes": list(manifest.labels.names),
        "samples": manifest.samples,
        "splits": {name: manifest.splits[name].samples for name in SPLITS if name in manifest.splits},
        "shards": sum(len(split.shards) for split in manifest.splits.values()),
        "bytes": sum(entry.bytes for entry in manifest.files()),
        "found": audit.found,
        "repaired": audit.repaired,
        "rejected": audit.rejected,
        "reasons": dict(audit.reasons),
        "ignored_files": built.ignored,
        "resumed_shards": built.resumed,
        "already_complete": built.already_complete,
        "audited": built.audited,
        "seconds": round(built.seconds, 3),
        "images_per_second": round(built.audited / built.seconds, 1) if built.audited else None,
        "fingerprint": manifest.fingerprint,
    }


def build_text(built: BuildResult) -> str:
    """Return the outcome of a build for people."""
    document = build_json(built)
    splits = ", ".join(f"{name} {count}" for name, count in document["splits"].items())
    lines = []
    if built.already_complete:
        lines.append(f"{built.path} is already complete: same names, lists, sizes and options; nothing was done")
        lines.append("(--overwrite builds it again)")
    if built.discarded:
        lines.append("unfinished work of another source or other options was discarded")
    if built.resumed:
        lines.append(f"resumed with {built.resumed} shards that were already finished")
    size = f"{document['shards']} shards ({document['bytes'] / 1e6:.1f} MB)"
    lines.append(f"{document['samples']} of {document['found']} images in {size}: {splits}")
    if built.audited:
        rate = built.audited / built.seconds
        lines.append(f"{built.audited} images audited in {built.seconds:.1f} s, {rate:,.0f} images/s")
    counts = (built.manifest.audit.repaired, "repaired"), (built.manifest.audit.rejected, "rejected")
    lines += [f"{count} {word}" for count, word in counts if count]
    lines += [f"  {count:>6}  {reason}: {REASONS[reason]}" for reason, count in document["reasons"].items()]
    if document["reasons"]:
        lines.append(f"each is a line of {built.path / AUDIT_NAME}")
    if built.ignored:
        lines.append(f"{built.ignored} files that are not part of the dataset were ignored")
    return "\n".join([*lines, f"look at it: petseg-shard preview {built.path} sheet.png"])


def finding_lines(findings: Sequence[SampleFinding]) -> Iterator[str]:
    """Yield one line per finding, the first fifty."""
    for finding in findings[:SHOWN_FINDINGS]:
        yield finding.line()
    if len(findings) > SHOWN_FINDINGS:
        yield f"... and {len(findings) - SHOWN_FINDINGS} more; build without --strict to get them all in a file"
