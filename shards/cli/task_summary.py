"""The reports of a task and of a copy: for people, and the same as JSON."""

import shlex
from typing import Any

from shards.build.tasks.set_copy import CopyResult
from shards.build.tasks.task_build import TaskResult
from shards.errors import counted, printable
from shards.store.byte_sizes import bytes_text


def task_json(done: TaskResult) -> dict[str, Any]:
    """Return the outcome of a task as a JSON object."""
    return {
        "path": str(done.path),
        "task": done.number.task,
        "tasks": done.number.tasks,
        "numbers_from": done.number.origin or "options",
        "parts": done.parts,
        "shards": done.shards,
        "resumed_shards": done.resumed,
        "already_complete": done.already_complete,
        "discarded": done.discarded,
        "ignored_files": done.ignored,
        "audited": done.audited,
        "seconds": round(done.seconds, 3),
        "images_per_second": round(done.audited / done.seconds, 1) if done.audited else None,
    }


def task_text(done: TaskResult) -> str:
    """Return the outcome of a task for people."""
    lines = [str(done.number)]
    if done.already_complete:
        return f"{lines[0]}\n{printable(done.path)} is already complete; nothing was done"
    if done.discarded:
        lines.append("unfinished work of another source or other options was discarded")
    already = f", {done.resumed} of them already finished" if done.resumed else ""
    lines.append(f"{counted(done.shards, 'shard')} of this task in {done.parts}{already}")
    if done.audited:
        rate = done.audited / done.seconds
        lines.append(f"{counted(done.audited, 'image')} audited in {done.seconds:.1f} s, {rate:,.0f} images/s")
    last = f"when all tasks are done: petseg-shard join {shlex.quote(str(done.path))}"
    return "\n".join(map(printable, [*lines, last]))


def copy_json(copied: CopyResult) -> dict[str, Any]:
    """Return the outcome of a copy as a JSON object."""
    return {
        "source": str(copied.source),
        "path": str(copied.target),
        "samples": copied.manifest.samples,
        "files": copied.files,
        "bytes": copied.bytes,
        "skipped_files": copied.skipped,
        "already_complete": copied.already_complete,
        "fingerprint": copied.manifest.fingerprint,
    }


def copy_text(copied: CopyResult) -> str:
    """Return the outcome of a copy for people."""
    if copied.already_complete:
        more = "petseg-shard verify checks its bytes, --overwrite copies them again"
        return f"{copied.target} is already the same set; nothing was copied ({more})"
    kept = f", {copied.skipped} of them were there already" if copied.skipped else ""
    size = f"{counted(copied.files, 'file')} ({bytes_text(copied.bytes)})"
    return f"{counted(copied.manifest.samples, 'sample')} in {size}{kept}: {copied.target}"
