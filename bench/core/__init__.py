"""How benchmark subjects are measured: their processes, the check of what they deliver, rounds, the clock, limits.

Everything here runs subjects; what was found goes into the records of :mod:`bench.results`.
"""

from bench.core.rounds import Run, Subject

__all__ = ["Run", "Subject"]
