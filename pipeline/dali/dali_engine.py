"""The engine that is DALI from bytes to tensors: what runs on the GPU. Its graph runs on the CPU as well."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.dali.graph import build_graph, graph_inputs
from pipeline.dali.runner import DaliRunner
from pipeline.engine import Options, Work
from pipeline.io.members import MemberReader
from pipeline.io.raw_reader import RawReader

if TYPE_CHECKING:
    import torch


class DaliEngine:
    """Runs the whole graph on one device. Tensors are handed over through DLPack, without a copy.

    On the GPU the host reads bytes ahead, schedules a run before the training step on the batch before it, and binds
    the outputs to the stream that is current where the batch is taken: work queued there waits for them, the host does
    not, and the memory is used again only after that stream is done with it.
    """

    name = "dali"
    makers = 1
    has_device_part = True
    batch_bytes: int | None = None

    def __init__(
        self,
        options: Options,
        reader: MemberReader,
        *,
        batch_size: int,
        threads: int,
        device: torch.device,
    ) -> None:
        self._options = options
        self._device = device
        self._reader = reader
        # DALI reads the inputs where they lie, and a device may still be at it when the outputs are bound.
        self._kept: deque[Any] = deque(maxlen=2)
        self._raw = (
            RawReader(reader, size=options.stored_size) if options.storage == "raw" and options.stored_size else None
        )
        device_id = device.index if device.type == "cuda" else None
        self._runner = DaliRunner(
            lambda count: build_graph(options, batch_size=count, threads=threads, device_id=device_id),
            batch_size=batch_size,
            tell=reader.told,
        )

    def prepare(self, work: Work) -> Any:
        """Gather the graph's inputs on the host."""
        images: Any
        trimaps: Any
        if self._raw:
            side = self._raw.size
            images = np.empty((len(work), side, side, 3), dtype=np.uint8)
            trimaps = np.empty((len(work), side, side, 1), dtype=np.uint8)
            self._raw.gather(work.indices, work.rows, images=images, trimaps=trimaps)
        else:
            images, trimaps = self._reader.encoded(work.indices, work.rows)
        return work, graph_inputs(self._options, images=images, trimaps=trimaps, parameters=work.parameters)

    def start(self, prepared: Any) -> Any:
        """Schedule the run; decoding goes on while the caller trains."""
        work, inputs = prepared
        with self._runner.guard(work, inputs):
            self._runner.schedule(inputs)
        return prepared

    def finish(self, started: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Hand over the outputs of the oldest run."""
        import torch
        from torch.utils.dlpack import from_dlpack

        work, inputs = started
        stream = torch.cuda.current_stream(self._device) if self._device.type == "cuda" else None
        with self._runner.guard(work, inputs):
            self._kept.append(inputs)
            image, mask = (from_dlpack(output.as_tensor()) for output in self._runner.outputs(stream))
        return image.permute(0, 3, 1, 2), mask

    def close(self) -> None:
        """Drop the pipeline; tensors already handed over stay whole."""
        self._runner.close()
