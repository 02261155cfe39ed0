"""What sets of millions of samples take: sets written by the format's own functions, opened and read once."""

from bench.scale.scale_set import write_scale_set

__all__ = ["write_scale_set"]
