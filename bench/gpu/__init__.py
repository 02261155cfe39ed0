"""What needs a GPU, in one command: tests, trainings and benchmarks, and how the host's threads scale there."""

__all__: list[str] = []
