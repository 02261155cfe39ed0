"""``raw`` storage on the CPU: nothing to decode, only to gather."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pipeline.cpu.pixel_ops import Pixels
from pipeline.engine import Work
from pipeline.io.raw_reader import RawReader
from pipeline.runtime.buffers import Scratch


class RawDecoder:
    """Gathers pixels out of the tars, each thread its part of the batch."""

    chunks_per_thread = 1
    fills = True

    def __init__(self, raw: RawReader) -> None:
        self.raw = raw
        self._scratch = Scratch()

    def open(self, work: Work) -> Any:
        """Nothing is done for the whole batch."""

    def fill(self, opened: Any, work: Work, places: slice, *, images: Pixels, trimaps: Pixels) -> None:
        """Read some of the samples straight into a batch."""
        self.raw.gather(work.indices[places], work.rows[places], images=images, trimaps=trimaps)

    def decode(self, opened: Any, work: Work, places: slice) -> Iterator[tuple[Pixels, Pixels]]:
        """Read some of the samples into this thread's scratch memory, and yield them."""
        indices, size = work.indices[places], self.raw.size
        images = self._scratch.take("images", (len(indices), size, size, 3))
        trimaps = self._scratch.take("trimaps", (len(indices), size, size))
        self.raw.gather(indices, work.rows[places], images=images, trimaps=trimaps)
        return zip(images, trimaps, strict=True)

    def close(self) -> None:
        """Nothing is held."""
