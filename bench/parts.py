"""How long each part of a run took, so that a run that is too long can say where its time went."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Parts:
    """Adds up seconds by the name of a part.

    Attributes:
        seconds: of each part, in the order of first use.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def of(self, name: str) -> Iterator[None]:
        """Count the time that the block takes, whether it ends well or not."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.add(name, time.perf_counter() - start)

    def add(self, name: str, seconds: float) -> None:
        """Count so many seconds."""
        self.seconds[name] = self.seconds.get(name, 0.0) + seconds

    def rounded(self) -> dict[str, float]:
        """Return the seconds of each part, to the hundredth."""
        return {name: round(seconds, 2) for name, seconds in self.seconds.items()}
