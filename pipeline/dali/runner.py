"""Running a DALI pipeline, and finding out which sample made it fail.

DALI aborts a whole pipeline for one bad sample and does not say which. The runner then tries the samples of the batch
one by one on a pipeline of one, names those that fail, and builds a fresh pipeline to go on with.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from pipeline.damage import DamagedSamples
from pipeline.engine import Work
from pipeline.runtime.threads import stop_first_at_exit

Inputs = Mapping[str, Any]


class DaliRunner:
    """Owns a pipeline.

    Args:
        build: returns a built pipeline for a number of samples.
        batch_size: the most samples of a run.
        tell: says what is wrong with a sample, and where it is: (index, role, problem) -> text.
    """

    def __init__(self, build: Callable[[int], Any], *, batch_size: int, tell: Callable[[int, str, str], str]) -> None:
        self._build = build
        self._batch_size = batch_size
        self._tell = tell
        self._pipeline = build(batch_size)
        stop_first_at_exit()  # DALI is imported now

    def schedule(self, inputs: Inputs) -> None:
        """Feed a batch and start the run."""
        for name, value in inputs.items():
            self._pipeline.feed_input(name, value)
        self._pipeline.schedule_run()

    def outputs(self, stream: Any) -> Any:
        """Return the outputs of the oldest run: on the CPU waits for it, on the GPU binds them to ``stream``."""
        outputs = self._pipeline.share_outputs(stream)
        self._pipeline.release_outputs()
        return outputs

    @contextmanager
    def guard(self, work: Work, inputs: Inputs) -> Iterator[None]:
        """Turn a failure of the pipeline inside the block into ``DamagedSamples`` of the batch.

        Raises:
            DamagedSamples: which samples fail by themselves.
            RuntimeError, ValueError: DALI's own error, where each sample works by itself.
        """
        try:
            yield
        except (RuntimeError, ValueError) as error:
            self._pipeline = None
            damaged = self._probe(work, inputs)
            self._pipeline = self._build(self._batch_size)
            if not damaged:
                raise
            raise DamagedSamples(damaged) from error

    def close(self) -> None:
        """Drop the pipeline with its threads and buffers; tensors already handed over stay whole."""
        self._pipeline = None

    def _probe(self, work: Work, inputs: Inputs) -> dict[int, str]:
        damaged: dict[int, str] = {}
        pipeline = None
        for place, index in enumerate(work.indices.tolist()):
            pipeline = pipeline or self._build(1)
            try:
                for name, value in inputs.items():
                    pipeline.feed_input(name, value[place : place + 1])
                pipeline.schedule_run()
                pipeline.share_outputs()
                pipeline.release_outputs()
            except (RuntimeError, ValueError) as error:
                damaged[place] = self._tell(index, "image", f"cannot be decoded: {first_reason(error)}")
                pipeline = None
        return damaged


def first_reason(error: Exception) -> str:
    """Return the line of DALI's long message that says what is wrong."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    for line in lines:
        if "rror in" not in line and not line.startswith(("Traceback", "Stacktrace", "[frame")):
            return line[:200]
    return lines[0][:200] if lines else "DALI failed"
