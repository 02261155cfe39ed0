"""The engine that runs DALI's graph from bytes to tensors, on the GPU or on the CPU."""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from nvidia.dali.tensors import TensorCPU, TensorListCPU
from torch.utils.dlpack import from_dlpack

from pipeline.dali.first_read import FirstReadCheck
from pipeline.dali.graph import build_graph, graph_inputs
from pipeline.engine import BatchWork, EngineOptions
from pipeline.io.damage import DamagedSamples
from pipeline.io.members import MemberReader
from pipeline.io.raw_reader import RawReader
from pipeline.runtime.buffers import BufferPool, ordinary_memory
from pipeline.runtime.device_copies import HeldMemory, page_locked
from pipeline.runtime.threads import stop_first_at_exit

Inputs = Mapping[str, Any]
Outputs = tuple[torch.Tensor, torch.Tensor]

AHEAD = 3  # runs on a GPU that are started before the first of them is taken: the operators of several overlap


@dataclass(eq=False)
class GraphRun:
    """A run of the graph: its work, its inputs, and, once it has been collected, what came of it."""

    work: BatchWork
    inputs: Inputs
    fed: Inputs  # the same, encoded bytes as DALI's own lists
    outcome: Outputs | Exception | None = None


class DaliEngine:
    """Runs the whole graph on one device. Tensors are handed over through DLPack, without a copy.

    On the GPU the host reads bytes ahead, schedules runs before the training step on the batch before them, and binds
    the outputs to the stream that is current where the batch is taken: work queued there waits for them, the host does
    not, and the memory is reused only after that stream has finished with it.

    DALI aborts a whole pipeline for one bad sample and does not say which, nor in which of several runs. The engine
    then builds new pipelines, repeats the runs one by one, tries the samples of one that fails again one by one, and
    names those that fail. The graph does not compare sizes and mask values with what the set should hold;
    :class:`FirstReadCheck` does, on the host, once for each sample.
    """

    name = "dali"
    makers = 2
    batch_bytes: int | None = None

    def __init__(self, options: EngineOptions, reader: MemberReader, *, device: torch.device) -> None:
        self._options = options
        self._device = device
        self.ahead = AHEAD if device.type == "cuda" else 1
        self._runs: deque[GraphRun] = deque()  # started, not collected
        classes = torch.arange(options.classes, dtype=torch.uint8, device=device)
        self._classes = classes[:, None, None] if options.onehot else None
        self._reader = reader
        self._check = FirstReadCheck(
            reader, classes=options.classes, stored_size=options.stored_size, threads=options.threads
        )
        # DALI reads the inputs in place, and a device may still do so when the outputs are bound.
        spare = options.spare + self.ahead
        self._held = HeldMemory(spare)
        raw = options.stored_size if options.storage == "raw" else None
        self._raw = RawReader(reader, size=raw) if raw else None
        if raw:
            allocate = ordinary_memory if device.type == "cpu" else page_locked
            self._images, self._masks = (
                BufferPool((options.batch_size, *raw, depth), spare=2 * spare, allocate=allocate) for depth in (3, 1)
            )
        self._pipeline = self._build(options.batch_size)
        stop_first_at_exit()  # DALI is imported now

    def prepare(self, work: BatchWork) -> Any:
        """Gather the graph's inputs on the host."""
        images: Any
        masks: Any
        new = self._check.new(work)
        if self._raw:
            images, masks = self._images.take(), self._masks.take()  # a batch is never shorter
            self._raw.gather(work.indices, work.rows, images=images, masks=masks)
            self._check.pixels(work, new, masks[..., 0])
        else:
            images, masks = self._reader.encoded(work.indices, work.rows)
            self._check.encoded(work, new, images, masks)
        inputs = graph_inputs(self._options, images=images, masks=masks, parameters=work.parameters)
        return work, inputs, {name: as_tensor_list(value) for name, value in inputs.items()}

    def start(self, prepared: Any) -> GraphRun:
        """Schedule the run; decoding overlaps the caller's training step."""
        run = GraphRun(*prepared)
        self._runs.append(run)
        try:
            schedule(self._pipeline, run.fed)
        except (RuntimeError, ValueError):  # perhaps of an earlier run
            self._repeat_runs()
        return run

    def finish(self, started: GraphRun) -> Outputs:
        """Hand over a run's outputs: waits for it on the CPU, not on the GPU. Runs before it are collected too."""
        while started.outcome is None:
            try:
                self._collect(self._runs[0])
                self._runs.popleft()
            except (RuntimeError, ValueError):
                self._repeat_runs()
        if isinstance(started.outcome, Exception):
            raise started.outcome
        return started.outcome

    def close(self) -> None:
        """Drop the pipeline with its threads and buffers; tensors already handed over stay intact."""
        self._runs.clear()
        self._held.clear()
        self._check.stop()
        self._pipeline = None

    def _build(self, batch_size: int) -> Any:
        device_id = self._device.index if self._device.type == "cuda" else None
        return build_graph(self._options, batch_size=batch_size, device_id=device_id)

    def _collect(self, run: GraphRun) -> None:
        """Note the outputs of the oldest run that is scheduled."""
        stream = torch.cuda.current_stream(self._device) if self._device.type == "cuda" else None
        outputs = self._pipeline.share_outputs(stream)
        self._pipeline.release_outputs()
        if stream is not None:  # on the CPU the outputs are complete, so the inputs have been read
            self._held.hold((run.inputs, run.fed), stream.record_event())
        image, mask = (from_dlpack(output.as_tensor()) for output in outputs)
        indices = mask[..., 0]
        planes = indices if self._classes is None else (indices[:, None] == self._classes).view(torch.uint8)
        run.outcome = image.permute(0, 3, 1, 2), planes

    def _repeat_runs(self) -> None:
        """Repeat all runs that are started, each alone, after the pipeline has failed; note what comes of each."""
        waiting, self._runs, self._pipeline = list(self._runs), deque(), None
        for run in waiting:
            self._pipeline = self._pipeline or self._build(self._options.batch_size)
            try:
                schedule(self._pipeline, run.fed)
                self._collect(run)
            except (RuntimeError, ValueError) as error:
                self._pipeline = None
                damaged = self._probe(run.work, run.inputs)
                run.outcome = DamagedSamples(damaged) if damaged else error
                run.outcome.__cause__ = error if damaged else None
        self._pipeline = self._pipeline or self._build(self._options.batch_size)

    def _probe(self, work: BatchWork, inputs: Inputs) -> dict[int, str]:
        damaged: dict[int, str] = {}
        pipeline = None
        for place, index in enumerate(work.indices.tolist()):
            pipeline = pipeline or self._build(1)
            try:
                schedule(pipeline, {name: value[place : place + 1] for name, value in inputs.items()})
                pipeline.share_outputs()
                pipeline.release_outputs()
            except (RuntimeError, ValueError) as error:
                damaged[place] = self._reader.describe(index, "image", f"cannot be decoded: {first_reason(error)}")
                pipeline = None
        return damaged


def as_tensor_list(value: Any) -> Any:
    """Return a list of arrays as DALI's list of them, without a copy; anything else as it is.

    DALI would do the same, more slowly, and in the thread that iterates.
    """
    return TensorListCPU([TensorCPU(array, "") for array in value], "") if isinstance(value, list) else value


def schedule(pipeline: Any, inputs: Inputs) -> None:
    """Feed a batch and start the run."""
    for name, value in inputs.items():
        pipeline.feed_input(name, value)
    pipeline.schedule_run()


def first_reason(error: Exception) -> str:
    """Return the line of DALI's long message that says what is wrong."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    for line in lines:
        if "rror in" not in line and not line.startswith(("Traceback", "Stacktrace", "[frame")):
            return line[:200]
    return lines[0][:200] if lines else "DALI failed"
