"""Decoding with DALI's CPU backend, a batch at a time."""

from __future__ import annotations

from collections.abc import Iterator
from threading import Lock
from typing import Any

import numpy as np

from pipeline.cpu.pixel_ops import Pixels
from pipeline.dali.graph import build_decoder
from pipeline.dali.runner import DaliRunner
from pipeline.engine import Work
from pipeline.io.members import MemberReader


class DaliDecoder:
    """Decodes JPEG pictures and PNG trimaps in DALI's threads."""

    chunks_per_thread = 4
    fills = False

    def __init__(self, reader: MemberReader, *, batch_size: int, threads: int) -> None:
        self._reader = reader
        self._one = Lock()  # DALI's threads work on one batch at a time
        self._runner = DaliRunner(
            lambda count: build_decoder(batch_size=count, threads=threads),
            batch_size=batch_size,
            tell=reader.told,
        )

    def open(self, work: Work) -> Any:
        """Decode a whole batch."""
        images, trimaps = self._reader.encoded(work.indices, work.rows)
        inputs = {"image": images, "trimap": trimaps}
        with self._one, self._runner.guard(work, inputs):
            self._runner.schedule(inputs)
            return self._runner.outputs(None)

    def decode(self, opened: Any, work: Work, places: slice) -> Iterator[tuple[Pixels, Pixels]]:
        """View some of the decoded samples, without a copy."""
        images, trimaps = opened
        for place in range(len(work))[places]:
            yield np.asarray(images[place]), np.asarray(trimaps[place])[:, :, 0]

    def close(self) -> None:
        """Drop the pipeline."""
        self._runner.close()
