"""The report of a build: for people, and the same as JSON."""

import shlex
from collections.abc import Iterator, Sequence
from typing import Any

from shards.audit.findings import SampleFinding, reason_text
from shards.build.outcome.build_result import BuildResult
from shards.build.outcome.unclaimed import values_text
from shards.errors import counted, listed, printable
from shards.format.label_files import has_placeholders
from shards.format.layout import AUDIT_NAME, SPLITS, Split
from shards.format.manifest import Manifest
from shards.store.byte_sizes import bytes_text

SHOWN_FINDINGS = 50
SHOWN_CLASSES = 12


def build_json(built: BuildResult) -> dict[str, Any]:
    """Return the outcome of a build as a JSON object."""
    manifest, audit = built.manifest, built.manifest.audit
    return {
        "path": str(built.path),
        "layout": manifest.options.layout,
        "layout_reason": built.reason,
        "storage": manifest.storage,
        "size": manifest.size,
        "fit": manifest.fit,
        "classes": list(manifest.labels.names),
        "samples": manifest.samples,
        "splits": {name: manifest.splits[name].samples for name in SPLITS if name in manifest.splits},
        "shards": sum(split.shards for split in manifest.splits.values()),
        "bytes": manifest.bytes,
        "found": audit.found,
        "repaired": audit.repaired,
        "rejected": audit.rejected,
        "reasons": dict(audit.reasons),
        "unclaimed": {value: {"masks": masks, "pixels": px} for value, (masks, px) in built.unclaimed.items()},
        "missing_classes": missing_classes(manifest),
        "palettes_disagree": built.palettes.json(),
        "ignored_files": built.ignored,
        "unread_files": list(built.unread),
        "resumed_shards": built.resumed,
        "already_complete": built.already_complete,
        "audited": built.audited,
        "seconds": round(built.seconds, 3),
        "images_per_second": round(built.audited / built.seconds, 1) if built.audited else None,
        "fingerprint": manifest.fingerprint,
    }


def build_text(built: BuildResult, *, joined: bool = False) -> str:
    """Return the outcome of a build, or of a join, for people."""
    document = build_json(built)
    splits = ", ".join(f"{name} {count}" for name, count in document["splits"].items())
    manifest, audit = built.manifest, built.manifest.audit
    names = manifest.labels.names
    because = f" ({built.reason})" if built.reason else ""
    lines = [
        f"layout {manifest.options.layout}{because}; "
        f"{counted(len(names), 'class', 'classes')}: {listed(names, most=SHOWN_CLASSES)}"
    ]
    lines += _nothing_done(built, joined=joined)
    if built.discarded:
        lines.append("unfinished work of another source or other options was discarded")
    if built.resumed:
        finished = "that was" if built.resumed == 1 else "that were"
        lines.append(f"resumed with {counted(built.resumed, 'shard')} {finished} already finished")
    size = f"{counted(document['shards'], 'shard')} ({bytes_text(document['bytes'])})"
    lines.append(f"{document['samples']:,} of {counted(document['found'], 'image')} in {size}: {splits}")
    if built.audited:
        rate = built.audited / built.seconds
        lines.append(f"{counted(built.audited, 'image')} audited in {built.seconds:.1f} s, {rate:,.0f} images/s")
    counts = (audit.repaired, "repaired"), (audit.rejected, "rejected")
    lines += [f"{counted(count, 'image')} {word}" for count, word in counts if count]
    lines += [f"  {count:>6}  {reason}: {reason_text(reason)}" for reason, count in document["reasons"].items()]
    if built.unclaimed:
        lines.append(f"values that no class claims: {values_text(built.unclaimed)}")
    for split, missing in missing_classes(manifest).items():
        lines.append(f"{split}: no pixel of {listed(missing)}")
    absent = [set(missing) for missing in missing_classes(manifest).values()]
    everywhere: set[str] = set.intersection(*absent) if len(absent) == len(manifest.splits) else set()
    present = set(names) - everywhere
    if len(present) == 1:
        lines.append(f"all labelled pixels are {present.pop()}: give what is around it a class, too (labels.toml)")
    if has_placeholders(manifest.labels):
        lines.append("the classes still have the placeholder names of petseg-shard labels")
    if built.palettes.disagreeing:
        lines.append(f"warning: {built.palettes.text()}")
    if document["reasons"]:
        lines.append(f"{counted(sum(audit.reasons.values()), 'finding')} in {built.path}/{AUDIT_NAME}, one a line")
    if built.unread:
        what = "is not read, being neither an image nor a mask"
        if len(built.unread) > 1:
            what = "are not read, being neither images nor masks"
        lines.append(f"{counted(len(built.unread), 'file')} {what}: {listed(built.unread)}")
    if built.ignored:
        files = "file that is" if built.ignored == 1 else "files that are"
        lines.append(f"{built.ignored:,} {files} not part of the dataset: ignored")
    last = f"look at it: petseg-shard preview {shlex.quote(str(built.path))} page.html"
    return "\n".join(map(printable, [*lines, last]))


def _nothing_done(built: BuildResult, *, joined: bool) -> list[str]:
    """Return why nothing was done, if nothing was."""
    if not built.already_complete:
        return []
    if joined:
        return [f"{built.path} is a finished set; there are no shards of tasks to join: nothing was done"]
    what = f"{built.path} is already complete: same names, lists, sizes and options; nothing was done"
    return [what, "(--overwrite builds it again)"]


def missing_classes(manifest: Manifest) -> dict[Split, list[str]]:
    """Return, by split, the classes that have no pixel in it; only splits that lack any."""
    found = {
        name: [each for each, pixels in zip(manifest.labels.names, split.class_pixels, strict=True) if not pixels]
        for name in SPLITS
        if (split := manifest.splits.get(name)) is not None
    }
    return {name: missing for name, missing in found.items() if missing}


def finding_lines(findings: Sequence[SampleFinding]) -> Iterator[str]:
    """Yield one line per finding, the first fifty."""
    for finding in findings[:SHOWN_FINDINGS]:
        yield finding.line()
    if len(findings) > SHOWN_FINDINGS:
        yield f"... and {len(findings) - SHOWN_FINDINGS} more; build without --strict to get them all in a file"
