"""How the ranks of a run start together, or not at all: each says what it has found, and all learn of the first error.

Without this, a rank that refuses to start leaves those of other machines waiting for it.
"""

import contextlib
import itertools
import json
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

from torch.distributed import PrefixStore, Store  # type: ignore[attr-defined]

from petseg.host.distributed import World
from petseg.host.meeting_store import MeetingError, meeting_store, wait_for_one
from shards.errors import PetsegError, TerminatedError, UsageError, first_line

_VERDICT: Final = "verdict"
_starts = itertools.count()  # a program may train several times
_SHORT = timedelta(seconds=5)  # for what concerns only who prints a message


class RefusedStartError(PetsegError):
    """Another rank has refused to start. Rank 0 prints this; the rank that is named prints its own error."""

    def __init__(self, message: str, *, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code


@dataclass(frozen=True)
class _Fact:
    value: Any  # of JSON
    text: str  # the value, as part of "rank 1 on HOST ..."
    advice: str


class JointStart:
    """What a rank says to the others while it starts; see :func:`joint_start`."""

    def __init__(self, world: World) -> None:
        self.world = world
        self._facts = dict[str, _Fact]()
        self._number, self._decisions = next(_starts), itertools.count()

    def first_decides(self, decide: Callable[[], Any]) -> Any:
        """Return what ``decide`` returns on rank 0, a JSON value, on every rank; every rank must call this."""
        if self.world.size == 1:
            return decide()
        key = f"decision/{next(self._decisions)}"
        if self.world.first:
            decided = decide()
            self._store.set(key, json.dumps(decided))
            return decided
        if wait_for_one(self._store, key, _VERDICT, rank=0) == _VERDICT:  # rank 0 has failed
            raise _refusal(self._verdict())
        return json.loads(self._store.get(key))

    def must_agree(self, name: str, value: Any, *, text: str, advice: str) -> None:
        """State a JSON value that must be the same on every rank; where it is not, nobody starts.

        The message is "rank 1 on HOST ``text``, rank 0 on HOST ``text``; ``advice``".
        """
        self._facts[name] = _Fact(value, text, advice)

    @property
    def _store(self) -> Store:
        return PrefixStore(f"start-{self._number}", meeting_store(self.world.rank, self.world.size))

    def succeed(self) -> None:
        """Wait until every rank has come as far; raise if one has failed or found something else than rank 0."""
        facts = {name: [fact.value, fact.text, fact.advice] for name, fact in self._facts.items()}
        own = json.dumps({"host": socket.gethostname(), "error": None, "code": 0, "facts": facts})
        if not self.world.first:
            self._store.set(f"start/{self.world.rank}", own)
            wait_for_one(self._store, _VERDICT, rank=0)
            verdict = self._verdict()
        else:
            said = {0: json.loads(own)}
            for rank in range(1, self.world.size):
                said[rank] = json.loads(self._store.get(wait_for_one(self._store, f"start/{rank}", rank=rank)))
            verdict = _judge(said)
            self._publish(verdict)
        if verdict is not None:
            raise _refusal(verdict)

    def fail(self, error: BaseException) -> None:
        """Let the others know; raise ``RefusedStartError`` instead of an error that rank 0 prints as well."""
        own = {"host": socket.gethostname(), "error": first_line(error), "code": getattr(error, "exit_code", 1)}
        if self.world.first:
            self._publish({"rank": 0, **own})
            return
        self._store.set(f"start/{self.world.rank}", json.dumps(own))
        self._store.wait([_VERDICT], _SHORT)
        verdict = self._verdict()
        if verdict and verdict["rank"] == 0 and verdict["error"] == own["error"]:
            raise _refusal(verdict)

    def _verdict(self) -> Any:
        """Return what rank 0 has published; let it know, because it waits for that."""
        verdict = json.loads(self._store.get(_VERDICT))
        self._store.set(f"seen/{self.world.rank}", "")
        return verdict

    def _publish(self, verdict: dict[str, Any] | None) -> None:
        """Let the others know; wait until they do, because the store may end with this process."""
        self._store.set(_VERDICT, json.dumps(verdict))
        with contextlib.suppress(RuntimeError):
            self._store.wait([f"seen/{rank}" for rank in range(1, self.world.size)], _SHORT)


@contextlib.contextmanager
def joint_start(world: World) -> Iterator[JointStart]:
    """The block in which each rank makes its checks; it ends on all ranks together.

    Raises:
        RefusedStartError: another rank has raised an error in the block, or differs in what must agree.
    """
    start = JointStart(world)
    try:
        yield start
    except BaseException as error:
        known = (RefusedStartError, MeetingError, KeyboardInterrupt, TerminatedError)  # signals reach all ranks
        if world.size > 1 and not isinstance(error, known):
            # Where they cannot be reached, this rank's own error is what matters.
            with contextlib.suppress(RuntimeError, MeetingError, UsageError):
                start.fail(error)
        raise
    if world.size > 1:
        start.succeed()


def _judge(said: dict[int, dict[str, Any]]) -> dict[str, Any] | None:
    """Return the error of the first rank that has one, or that differs from rank 0, or None."""
    for rank, document in said.items():
        if document["error"] is not None:
            return {"rank": rank, "host": document["host"], "error": document["error"], "code": document["code"]}
    first = said[0]
    for rank, document in said.items():
        for name, (value, text, advice) in document["facts"].items():
            expected, expected_text, _ = first["facts"].get(name, [None, "does not say", ""])
            if value != expected:
                error = f"{text}, rank 0 on {first['host']} {expected_text}; {advice}"
                return {"rank": rank, "host": document["host"], "error": error, "code": UsageError.exit_code}
    return None


def _refusal(verdict: dict[str, Any]) -> RefusedStartError:
    return RefusedStartError(
        f"rank {verdict['rank']} on {verdict['host']}: {verdict['error']}", exit_code=verdict["code"]
    )
