"""What the host learns of the steps: read in blocks, long after they were launched, without making the device wait."""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch

from petseg.host.distributed import World
from petseg.training.step import StepResult

_DELAY = 1  # on a GPU: blocks that are launched before the oldest is read


@dataclass(frozen=True)
class LaunchedStep:
    """A step that was launched and whose result may not have been read yet."""

    index: torch.Tensor  # this rank's samples of the batch: int64 on the CPU
    batch: int  # number of the batch in its epoch, from 0
    valid: int  # valid images in the global batch, as far as this rank knows when the step is launched
    step: int  # number in the run, from 1
    epoch: int  # from 0


@dataclass(frozen=True)
class StepFacts:
    """What was read of a step: the global batch's loss and gradient norm, and what became of its update."""

    launched: LaunchedStep
    loss: float
    grad_norm: float
    skipped: bool  # the update, because loss or gradient were non-finite or too large
    scale: float  # of the loss in fp16, after the step; else 1
    valid: int  # valid images in the global batch, as the ranks counted them


@dataclass(frozen=True)
class LogBlock:
    """Consecutive steps that are read together, and what any rank requests after them."""

    steps: list[StepFacts]
    confusion: torch.Tensor  # of this rank's epoch so far: int64 (N, N) on the CPU
    stop: bool
    save: bool


@dataclass
class _Copies:
    """Copies on the host, complete once ``event`` has passed."""

    steps: list[LaunchedStep]
    facts: torch.Tensor
    confusion: torch.Tensor
    requests: torch.Tensor
    event: torch.cuda.Event | None = None


@dataclass
class StepLog:
    """Collects the results of ``every`` steps on the device, copies them to pinned memory, and reads them later.

    On a GPU a block is read when the next one is complete: then the device is done with it, and nobody waits. On a CPU
    it is read at once. Every rank reads the same blocks at the same steps.
    """

    device: torch.device
    world: World
    every: int
    _facts: torch.Tensor = field(init=False)
    _steps: list[LaunchedStep] = field(init=False, default_factory=list)
    _copies: deque[_Copies] = field(init=False, default_factory=deque)

    def __post_init__(self) -> None:
        self._facts = torch.zeros(self.every, len(StepResult.FACTS), device=self.device)

    def add(self, result: StepResult, launched: LaunchedStep) -> bool:
        """Add a step; return whether the block is complete, and :meth:`finish_block` due."""
        self._facts[len(self._steps)].copy_(result.facts)
        self._steps.append(launched)
        return len(self._steps) == self.every

    def finish_block(self, confusion: torch.Tensor, *, stop: bool, save: bool) -> None:
        """Start to copy the steps since the last block, the epoch's ``confusion`` and this rank's requests."""
        requests = torch.tensor([stop, save], dtype=torch.float32)
        if self.world.size > 1:
            pinned = requests.pin_memory() if self.device.type == "cuda" else requests
            requests = self.world.sum(pinned.to(self.device, non_blocking=True))
        copies = _Copies(
            self._steps, self._to_host(self._facts), self._to_host(confusion), requests=self._to_host(requests)
        )
        if self.device.type == "cuda":
            copies.event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            copies.event.record()
        self._copies.append(copies)
        self._steps = []

    def read_blocks(self, *, all_of_them: bool = False) -> Iterator[LogBlock]:
        """Yield the blocks that are due, oldest first; ``all_of_them`` waits for the device."""
        keep = 0 if all_of_them or self.device.type == "cpu" else _DELAY
        while len(self._copies) > keep:
            yield _read(self._copies.popleft())

    @property
    def partial(self) -> bool:
        """Whether there are steps that belong to no block yet."""
        return bool(self._steps)

    @property
    def unread_images(self) -> int:
        """Valid images of the steps that were not read yet."""
        return sum(step.valid for steps in (self._steps, *(c.steps for c in self._copies)) for step in steps)

    def _to_host(self, tensor: torch.Tensor) -> torch.Tensor:
        if self.device.type == "cpu" or tensor.device.type == "cpu":
            return tensor.clone()
        host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
        return host.copy_(tensor, non_blocking=True)


def default_steps(device: torch.device) -> int:
    """Return how many steps are read together by default: one on a CPU, where that costs nothing."""
    return 25 if device.type == "cuda" else 1


def _read(copies: _Copies) -> LogBlock:
    if copies.event is not None:
        copies.event.synchronize()
    stop, save = (bool(value) for value in copies.requests.tolist())
    steps = [
        StepFacts(launched, loss=loss, grad_norm=norm, skipped=bool(skipped), scale=scale, valid=int(valid))
        for launched, (loss, norm, skipped, scale, valid) in zip(copies.steps, copies.facts.tolist(), strict=False)
    ]
    return LogBlock(steps, copies.confusion, stop=stop, save=save)
