"""What ``verify`` finds: one problem, and the report of all of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Literal, TypeAlias

Kind: TypeAlias = Literal[
    "manifest",  # manifest.json is missing, damaged, edited, or contradicts itself
    "missing",  # a file of the set is not there, or cannot be read
    "size",  # a file has another size than the manifest says
    "checksum",  # a file's SHA-256 is not the manifest's
    "table",  # a record of the table is damaged or contradicts the tar
    "index",  # DALI's index is not that of the tar
    "header",  # a tar header is not the one that belongs there
    "member",  # a member's CRC-32 is not the table's
    "padding",  # bytes between members are not zero
    "meta",  # KEY.json contradicts table or manifest
    "decode",  # a member does not decode (--full)
    "count",  # counts in the manifest are not those of the samples
    "stray",  # a file that is named like a part of the set, and is none
]

MAX_PER_FILE: Final = 20  # a file of another set differs everywhere; the first places say enough


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Something wrong, and where.

    Attributes:
        kind: what sort of problem.
        file: the file's name in the set.
        message: what is wrong.
        shard: number of the shard in its split.
        key: the sample's key.
        member: the member's file name in the tar.
        offset: byte in ``file``.
    """

    kind: Kind
    file: str
    message: str
    shard: int | None = None
    key: str | None = None
    member: str | None = None
    offset: int | None = None

    def line(self) -> str:
        """Return the problem for people, the place first."""
        place = self.file
        if self.offset is not None:
            place += f", byte {self.offset}"
        if self.member or self.key:
            place += f", {self.member or self.key}"
        return f"{place}: {self.message}"


@dataclass
class Report:
    """The outcome of a verification.

    Attributes:
        path: the set's folder.
        mode: ``quick``, ``default`` or ``full``.
        problems: what was found, at most :data:`MAX_PER_FILE` a file.
        dropped: how many more were found.
        files: number of files looked at.
        samples: number of samples looked at, one by one.
        bytes: number of bytes read.
    """

    path: str
    mode: str
    problems: list[Problem] = field(default_factory=list)
    dropped: int = 0
    files: int = 0
    samples: int = 0
    bytes: int = 0
    _seen: Counter[str] = field(default_factory=Counter)

    @property
    def ok(self) -> bool:
        """Whether nothing was found."""
        return not self.problems

    def add(self, problems: Iterable[Problem]) -> None:
        """Take problems over, the first of each file."""
        for problem in problems:
            self._seen[problem.file] += 1
            if self._seen[problem.file] <= MAX_PER_FILE:
                self.problems.append(problem)
            else:
                self.dropped += 1

    def as_json(self) -> dict[str, Any]:
        """Return the report as a JSON object."""
        return {
            "path": self.path,
            "ok": self.ok,
            "mode": self.mode,
            "files": self.files,
            "samples": self.samples,
            "bytes": self.bytes,
            "problems": [asdict(problem) for problem in self.problems],
            "problems_not_listed": self.dropped,
        }

    def text(self) -> str:
        """Return the report for people."""
        if self.ok:
            depth = {
                "quick": "sizes and structure fit (contents were not read)",
                "default": "every byte is what was packed",
                "full": "every byte is what was packed, and every sample decodes",
            }[self.mode]
            return f"{self.path}: {self.samples} samples in {self.files} files, {depth}"
        lines = [problem.line() for problem in self.problems]
        if self.dropped:
            lines.append(f"... and {self.dropped} more places in the same files")
        return "\n".join(lines)
