"""A training step as one CUDA graph: the host launches one graph instead of hundreds of kernels."""

from collections.abc import Callable
from typing import Generic, TypeVar

import torch

from petseg.host.device import Placement
from petseg.host.distributed import World
from shards.errors import UsageError, first_line, option, spelled

T = TypeVar("T")

_EAGER_STEPS = 3  # of each image size, before it is captured: lazy initialisation and cudnn's search happen there


def check_graph(placement: Placement, world: World) -> None:
    """Raise ``UsageError`` where a step cannot be captured."""
    if reason := why_no_graph(placement, world):
        raise UsageError(f"{option('cuda_graph')} {reason}")


def why_no_graph(placement: Placement, world: World) -> str:
    """Return why a step cannot be captured, and what to do; an empty text where it can."""
    if not placement.on_gpu:
        return "needs a CUDA device: there are no graphs on a CPU; omit it"
    if world.size > 1:
        return f"works in one process, not in {world.size}: omit it, or omit torchrun"
    return spelled("works with --precision=bf16 and fp32, not with fp16") if placement.precision == "fp16" else ""


def chooses_graph(asked: bool | None, placement: Placement, world: World, *, compiled: bool) -> bool:
    """Whether steps are captured: as ``asked``, or where nothing is, wherever they can be, unless the network is
    compiled, since both together have not been measured.
    """
    return not (compiled or why_no_graph(placement, world)) if asked is None else asked


class GraphedStep(Generic[T]):
    """Calls ``compute`` with copies of its inputs, tensors on one CUDA device; first eagerly, then as a captured graph.

    ``compute`` must neither read from the device nor depend on anything on the host that changes between steps. Its
    results are the same tensors in each step. For inputs of other shapes it is captured anew. Where it cannot be
    captured it is computed eagerly, and ``note`` receives the reason.
    """

    def __init__(self, compute: Callable[..., T], *, note: Callable[[str], None]) -> None:
        self._compute, self._note = compute, note
        self._inputs: tuple[torch.Tensor, ...] = ()
        self._eager_steps = 0
        self._graph: torch.cuda.CUDAGraph | None = None
        self._results: T | None = None
        self._possible = True

    def __call__(self, *inputs: torch.Tensor) -> T:
        """Take one step."""
        if not self._possible:
            return self._compute(*inputs)
        if [x.shape for x in inputs] != [x.shape for x in self._inputs]:
            self._graph = self._results = None  # frees its memory
            self._inputs, self._eager_steps = tuple(torch.empty_like(x) for x in inputs), 0
        for ours, theirs in zip(self._inputs, inputs, strict=True):
            ours.copy_(theirs, non_blocking=True)
        if self._eager_steps < _EAGER_STEPS:
            self._eager_steps += 1
            return self._compute_aside()
        if self._graph is None and not self._capture():
            return self._compute(*inputs)
        assert self._graph is not None
        assert self._results is not None
        self._graph.replay()
        return self._results

    def _compute_aside(self) -> T:
        """Compute on a stream of its own, as a capture requires of what precedes it."""
        current, aside = torch.cuda.current_stream(), torch.cuda.Stream()  # type: ignore[no-untyped-call]
        aside.wait_stream(current)
        with torch.cuda.stream(aside):
            results = self._compute(*self._inputs)
        current.wait_stream(aside)
        return results

    def _capture(self) -> bool:
        graph = torch.cuda.CUDAGraph()
        try:
            # thread_local: the loader's threads go on using the device meanwhile.
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                self._results = self._compute(*self._inputs)
        except RuntimeError as error:  # torch's, cudnn's or a library's refusal
            self._possible, self._results = False, None
            self._note(
                f"{option('cuda_graph')}: the step cannot be captured ({first_line(error)}); it runs without a graph"
            )
            return False
        self._graph = graph
        return True
