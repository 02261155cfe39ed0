"""Lines of audit.jsonl that are longer, or nested deeper, than most: a build's own, and forged ones."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest
from forging import sealed

from shards.errors import FormatError
from shards.format.dataset import ShardSet
from shards.preview.page_samples import read_findings
from shards.verify import check_tables
from shards.verify.check_set import verify


def with_line(original: Path, folder: Path, line: bytes) -> Path:
    """Return a copy of a set with one more line in the audit file, and a manifest that says so."""
    shutil.copytree(original, folder)
    path = folder / "audit.jsonl"
    path.write_bytes(path.read_bytes() + line)
    document = json.loads((folder / "manifest.json").read_text())
    file = document["audit"]["file"]
    file["bytes"], file["sha256"] = path.stat().st_size, hashlib.sha256(path.read_bytes()).hexdigest()
    reasons = document["audit"]["reasons"]
    reasons["image-grey"] = reasons.get("image-grey", 0) + 1
    document["audit"]["reasons"] = dict(sorted(reasons.items()))
    (folder / "manifest.json").write_bytes(sealed(document))
    return folder


def test_a_name_as_long_as_tables_hold_them(tiny_sets: dict[str, Path], tmp_path: Path) -> None:
    """131,072 characters, the most of a cell of a table, in a name and in a detail, as ASCII."""
    name = "\U0001f408" * 131_072
    line = json.dumps({"name": name, "action": "warning", "reason": "image-grey", "detail": name, "split": None})
    folder = with_line(tiny_sets["source"], tmp_path / "set", f"{line}\n".encode())
    assert read_findings(ShardSet.open(folder))[-1].name == name
    assert verify(folder, workers=1).ok


def test_a_line_without_end_is_not_read_whole(
    tiny_sets: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line of gigabytes of zeros takes some kilobytes of a disk; decoded, it would take the memory twice."""
    folder = with_line(tiny_sets["source"], tmp_path / "set", bytes(1 << 26))
    longest = 0
    decode = check_tables.msgspec.json.decode

    def measured(line: str, **types: type) -> object:
        nonlocal longest
        longest = max(longest, len(line))
        return decode(line, **types)

    monkeypatch.setattr(check_tables.msgspec.json, "decode", measured)
    assert "audit.jsonl: cannot be read" in verify(folder, workers=1).text()
    assert 0 < longest < 1 << 25


def test_a_line_that_is_nested_deeply(tiny_sets: dict[str, Path], tmp_path: Path) -> None:
    folder = with_line(tiny_sets["source"], tmp_path / "set", b'{"x": ' + b"[" * 100_000 + b"\n")
    assert "audit.jsonl: cannot be read" in verify(folder, workers=1).text()
    with pytest.raises(FormatError, match="is damaged"):
        read_findings(ShardSet.open(folder))
