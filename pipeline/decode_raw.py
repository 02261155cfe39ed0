"""``raw`` storage on the CPU: nothing to decode, only to gather."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pipeline.engine import Work
from pipeline.host import Pixels
from pipeline.raw import RawReader


class RawDecoder:
    """Gathers pixels out of the tars, each thread its part of the batch."""

    chunks_per_thread = 1

    def __init__(self, raw: RawReader) -> None:
        self._raw = raw

    def open(self, work: Work) -> Any:
        """Nothing is done for the whole batch."""

    def pixels(self, opened: Any, work: Work, places: slice) -> tuple[Sequence[Pixels], Sequence[Pixels]]:
        """Read some of the samples."""
        images, trimaps = self._raw.gather(work.indices[places], work.rows[places])
        return list(images), list(trimaps)

    def close(self) -> None:
        """Nothing is held."""
