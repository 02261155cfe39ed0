"""The engine on NVIDIA DALI: CPU and GPU in one graph."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipeline.engine import Work
from pipeline.graph import GraphOptions, build_graph, graph_inputs

if TYPE_CHECKING:
    import torch


class DaliEngine:
    """Runs the graph on one device. Tensors are handed over through DLPack, without a copy."""

    name = "dali"

    def __init__(self, options: GraphOptions, *, batch_size: int, threads: int, device: torch.device) -> None:
        self._options = options
        self.overlaps = device.type == "cuda"
        self._device = device
        self._pipeline = build_graph(
            options,
            batch_size=batch_size,
            threads=threads,
            device_id=device.index if device.type == "cuda" else None,
        )

    def prepare(self, work: Work) -> Any:
        """On the CPU run the graph at once, in this thread; on the GPU gather its inputs."""
        inputs = graph_inputs(self._options, images=work.images, trimaps=work.trimaps, parameters=work.parameters)
        if self._device.type == "cpu":
            self._schedule(inputs)
            return self._outputs(None)
        return inputs

    def start(self, prepared: Any) -> Any:
        """On the GPU schedule the run; decoding goes on while the caller trains."""
        if self._device.type == "cuda":
            self._schedule(prepared)
            return None
        return prepared

    def finish(self, started: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """On the GPU bind the outputs to the current stream: work queued on it later waits for them, the host not."""
        if self._device.type == "cuda":
            import torch

            return self._outputs(torch.cuda.current_stream(self._device))
        image, mask = started
        return image, mask

    def close(self) -> None:
        """Drop the pipeline with its threads and buffers; tensors already handed over stay whole."""
        self._pipeline = None

    def _schedule(self, inputs: dict[str, Any]) -> None:
        for name, value in inputs.items():
            self._pipeline.feed_input(name, value)
        self._pipeline.schedule_run()

    def _outputs(self, stream: Any) -> tuple[torch.Tensor, torch.Tensor]:
        from torch.utils.dlpack import from_dlpack

        outputs = self._pipeline.share_outputs(stream)
        image, mask = (from_dlpack(output.as_tensor()) for output in outputs)
        self._pipeline.release_outputs()
        return as_channels(image), as_channels(mask) if mask.ndim == 4 else mask


def as_channels(pixels: torch.Tensor) -> torch.Tensor:
    """View (B, S, S, C) as (B, C, S, S) in channels_last memory format, without a copy."""
    return pixels.permute(0, 3, 1, 2)
