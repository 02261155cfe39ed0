"""The result of ``verify``: problems, each with its place, and a report of them."""

import shlex
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Literal, TypeAlias

from shards.errors import counted, printable

Kind: TypeAlias = Literal[
    "manifest",  # manifest.json is missing, damaged, edited, or contradicts itself
    "missing",  # a file of the set does not exist or cannot be read
    "size",  # a file's size is not the manifest's
    "checksum",  # a file's SHA-256 is not the manifest's
    "exchanged",  # a file is intact, but another one of the set, or of another set or build
    "table",  # a record of the table is damaged or contradicts the tar
    "index",  # DALI's index does not match the tar
    "header",  # a tar header is damaged or another sample's
    "member",  # a member's CRC-32 is not the table's
    "padding",  # bytes between members are not zero
    "meta",  # KEY.json contradicts the table or the manifest
    "decode",  # a member does not decode (--full)
    "count",  # counts in the manifest are not those of the samples
    "stray",  # a file is named like a part of the set, but is not one
]

Mode: TypeAlias = Literal["quick", "default", "full"]

MAX_PER_FILE: Final = 20  # a file of another set differs everywhere; the first places are enough
MAX_PROBLEMS: Final = 1000  # of all files; a set may lack a hundred thousand
_CONCLUSIONS: Final[dict[Mode, str]] = {
    "quick": "sizes and structure are right (contents were not read)",
    "default": "every byte is as the manifest says (no sample was decoded)",
    "full": "every byte is as the manifest says, and every sample decodes",
}
_ADVICE: Final = (
    "what to do: replace the set by an intact copy (petseg-shard copy SET {path} --overwrite), or build it again"
    "{unknown} (petseg-shard build SOURCE {path} --overwrite{options})"
)
_EXCHANGED: Final = (
    "what to do: give the files that were exchanged their own names again, and copy those that are of another build "
    "from where this set is intact (petseg-shard copy SET {path} --overwrite brings all of them); then check again: "
    "petseg-shard verify {path}"
)
_MEANWHILE: Final = (
    "; until then, petseg-train --on-error replace goes on without samples that cannot be read, and --max-damaged N "
    "says how many"
)
# A loader opens the set all the same where these are the only problems.
_OF_SAMPLES: Final[frozenset[Kind]] = frozenset({"header", "member", "padding", "meta", "decode"})
_NOT_READ: Final[frozenset[Kind]] = frozenset({"index", "stray"})


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Something wrong, and its place."""

    kind: Kind
    file: str  # name in the set
    message: str
    shard: int | None = None  # number in its split
    key: str | None = None  # of the sample
    member: str | None = None  # file name in the tar
    offset: int | None = None  # byte in `file`

    def line(self) -> str:
        """Return the problem as one line of text, the place first, without what a terminal would obey."""
        offset = None if self.offset is None else f"byte {self.offset}"
        place = ", ".join(part for part in (self.file, offset, self.member or self.key) if part)
        return printable(f"{place}: {self.message}")


@dataclass
class Report:
    """The outcome of a verification."""

    path: str
    mode: Mode
    problems: list[Problem] = field(default_factory=list)  # at most MAX_PER_FILE per file, MAX_PROBLEMS in all
    dropped: int = 0  # how many more were found
    files: int = 1  # number checked, the manifest included
    samples: int = 0  # number checked
    bytes: int = 0  # number read
    repeated: Mapping[str, int] = field(default_factory=dict)  # failed requests to an object store, by reason
    options: list[str] | None = None  # of a build that makes the set again; None where the manifest does not say
    no_set: bool = False  # no file there is of a set: nothing is to be replaced
    _seen: Counter[str] = field(default_factory=Counter)

    @property
    def ok(self) -> bool:
        """Whether no problem was found."""
        return not self.problems

    def add(self, problems: Iterable[Problem]) -> None:
        """Add problems, the first ones of each file."""
        for problem in problems:
            self._seen[problem.file] += 1
            if self._seen[problem.file] <= MAX_PER_FILE and len(self.problems) < MAX_PROBLEMS:
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
            "repeated_requests": dict(self.repeated),
            "problems": [asdict(problem) for problem in self.problems],
            "problems_not_listed": self.dropped,
        }

    def text(self) -> str:
        """Return the report as text."""
        if self.ok:
            where = f"{counted(self.samples, 'sample')} in {counted(self.files, 'file')}"
            return f"{printable(self.path)}: {where}, {_CONCLUSIONS[self.mode]}"
        lines = [problem.line() for problem in self.problems]
        if self.dropped:
            lines.append(f"... and {counted(self.dropped, 'more place')}")
        if self.no_set:
            return "\n".join(lines)
        kinds = {problem.kind for problem in self.problems}
        opens = not self.dropped and kinds & _OF_SAMPLES and kinds <= _OF_SAMPLES | _NOT_READ
        advice = _EXCHANGED if "exchanged" in kinds else _ADVICE
        text = advice.format(
            path=shlex.quote(self.path),
            options="".join(f" {shlex.quote(word)}" for word in self.options or ()),
            unknown=" with the options that it was built with" if self.options is None else "",
        )
        return "\n".join([*lines, printable(text + _MEANWHILE * bool(opens))])
