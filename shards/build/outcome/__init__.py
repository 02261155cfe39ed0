"""What a build says: its result, why there is none, labels that do not fit, the libraries that its bytes depend on."""

from shards.build.outcome.build_result import BuildResult, StrictError

__all__ = ["BuildResult", "StrictError"]
