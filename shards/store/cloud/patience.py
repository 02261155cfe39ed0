"""How long requests to a store are waited for, and how often they are repeated."""

import random
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Patience:
    """How often, and after which waits, a failed request is repeated.

    The waits double from ``first_wait`` to ``longest_wait`` seconds, each multiplied by a random number from 0.5 to 1
    (so that many clients do not come back at once); by default 20 seconds in all, besides the requests' own time.
    A server that sends more slowly than ``least_rate``, or knows no ranges, is given up after ``hopeless_attempts``.
    """

    attempts: int = 8
    first_wait: float = 0.1
    longest_wait: float = 15.0
    connect_seconds: float = 5.0
    read_seconds: float = 20.0  # without a byte
    least_rate: float = 16_384.0  # bytes a second of one reply: 4 Mbit/s for 32 at once
    hopeless_attempts: int = 3

    def wait(self, attempt: int) -> float:
        """Return the seconds to wait after a failed attempt, counted from 0."""
        return float(min(self.longest_wait, self.first_wait * 2**attempt)) * random.uniform(0.5, 1)

    def limit(self, size: int) -> float:
        """Return the seconds in which so many bytes must have been sent or received."""
        return self.connect_seconds + self.read_seconds + size / self.least_rate


DEFAULT_PATIENCE: Final = Patience()
