"""Reads the bytes of samples from the tars of a shard set, by offset, and verifies their checksums.

Encoded members (``source``, ``jpeg``) and pixels (``raw``) of a whole batch are read in one system call where possible.
"""

from pipeline.io.members import MemberReader
from pipeline.io.raw_reader import RawReader
from pipeline.io.scratch import Scratch

__all__ = ["MemberReader", "RawReader", "Scratch"]
