"""Proof that a shard set is as its manifest says: every byte is checked, every problem is reported with its place.

:func:`verify` is the entry point; ``check_shard`` checks one shard with its samples.
"""

from shards.verify.check_set import verify
from shards.verify.problems import Kind, Mode, Problem, Report

__all__ = ["Kind", "Mode", "Problem", "Report", "verify"]
