"""What a step launches and what it never does: few operations, no reading from the device, no change of layout."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from msgspec.structs import replace
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from petseg.host.device import choose_placement
from petseg.nets.factory import build_model, place
from petseg.nets.model_config import ModelConfig, default_model_config
from petseg.runs.checkpoint import Checkpoint
from petseg.runs.recipe import Recipe, default_recipe
from petseg.training.step import TrainStep
from pipeline import Batch
from shards.format.builtin_labels import PETS

CPU = torch.device("cpu")
MOST_OPERATIONS = 600  # version 1 issued 1,881


pytestmark = pytest.mark.usefixtures("one_thread")


def make_batch(size: int = 64, count: int = 8) -> Batch:
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=generator)
    return Batch(
        image=image.contiguous(memory_format=torch.channels_last),
        mask=torch.randint(0, 3, (count, size, size), dtype=torch.uint8, generator=generator),
        index=torch.arange(count),
        valid=torch.ones(count, dtype=torch.bool),
        epoch=0,
        number=0,
    )


def make_step(recipe: Recipe) -> TrainStep:
    return TrainStep(recipe, total_steps=50, placement=choose_placement(CPU, recipe.precision))


def small_recipe(**changes: Any) -> Recipe:
    small = {"size": (64, 64), "batch_size": 8, "model": ModelConfig(widths=(8, 16))}
    return replace(default_recipe("unet"), **(small | changes))


def resumed(step: TrainStep) -> TrainStep:
    """The same run in another process: what a checkpoint holds, loaded into a new step."""
    again = make_step(step.recipe)
    parts = {"config": {}, "labels": PETS, "position": {}, "history": [], "loader": None}
    again.load(Checkpoint(**parts, **step.state()))
    return again


class Operations(TorchDispatchMode):
    """Counts the operations that do something: not those that only look at a tensor in another way."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not function.is_view and not str(function).startswith("profiler."):
            self.found[str(function)] += 1
        return function(*args, **(kwargs or {}))


def test_a_step_of_the_default_network_launches_few_operations() -> None:
    """Forward, backward, clipping, update, average and confusion; not fewer where the images are larger."""
    step = make_step(replace(default_recipe("unet"), size=(64, 64)))
    for number in range(2):
        step.run(make_batch(), global_valid=8, step=number)
    with Operations() as operations:
        step.run(make_batch(), global_valid=8, step=2)
    assert operations.found.total() <= MOST_OPERATIONS, operations.found.most_common(12)
    assert operations.found["aten.convolution_backward.default"] == 28  # else nothing was counted
    # Muon's products: for each width and for the head, not for each of the 28 kernels.
    assert operations.found["aten.bmm.default"] + operations.found["aten.bmm.out"] == 14 * 6


def forbid_reading(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Everything by which the host reads a tensor's values is refused; return what was tried."""
    tried = list[str]()

    def refuse(name: str) -> Callable[..., Any]:
        def refused(self: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            tried.append(name)
            raise AssertionError(f"Tensor.{name} makes the host wait for the device")

        return refused

    for name in ("item", "tolist", "cpu", "numpy", "nonzero", "__bool__", "__float__", "__int__", "__index__"):
        monkeypatch.setattr(torch.Tensor, name, refuse(name))
    return tried


class NoReading(TorchDispatchMode):
    """Refuses the operations behind them, also where no method of a tensor was called."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(function)
        assert "_local_scalar_dense" not in name, "a value is read"
        assert "nonzero" not in name, "the shape depends on values"
        assert "is_nonzero" not in name
        assert "masked_select" not in name
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("resume", [False, True], ids=["warm", "resumed"])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"optimizer": "adamw"},
        {"optimizer": "adam", "weight_decay": 0.0},
        {"accumulate": 2, "model": ModelConfig(widths=(8, 16), dropout=0.3)},
        {"precision": "bf16"},
    ],
    ids=["muon", "adamw", "adam", "micro-batches and dropout", "bf16"],
)
def test_a_step_reads_nothing(monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], resume: bool) -> None:
    step = make_step(small_recipe(**changes))
    batch = make_batch()
    for number in range(2):
        step.run(batch, global_valid=8, step=number)
    if resume:
        step = resumed(step)
    with monkeypatch.context() as patch, NoReading():
        tried = forbid_reading(patch)
        for number in range(2, 4):
            result = step.run(batch, global_valid=8, step=number)
    assert not tried
    assert float(result.loss) > 0
    assert not result.skipped


def test_reading_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        forbid_reading(patch)
        with pytest.raises(AssertionError, match="host wait"):
            torch.ones(()).item()
    with NoReading(), pytest.raises(AssertionError, match="a value is read"):
        float(torch.ones(()))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e30])
@pytest.mark.parametrize("optimizer", ["muon", "adamw", "adam"])
def test_a_bad_step_changes_nothing(optimizer: str, bad: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither weights, running statistics, optimiser nor average's weights become non-finite; training goes on."""
    changes = {"optimizer": optimizer, "weight_decay": 0.0} if optimizer == "adam" else {"optimizer": optimizer}
    steps = [make_step(small_recipe(ema_decay=0.0, **changes)) for _ in range(2)]
    batch = make_batch()
    for number, step in enumerate(steps):
        step.run(batch, global_valid=8, step=0)
        if number:
            before = {name: value.clone() for name, value in step.model.state_dict().items()}
            with monkeypatch.context() as patch:
                # A network whose activations, and so its statistics, are bad too.
                patch.setattr(step, "_network", lambda image, net=step._network: net(image.float() * bad) * bad)
                result = step.run(batch, global_valid=8, step=1)
            assert result.skipped
            for name, value in step.model.state_dict().items():
                assert name.endswith("num_batches_tracked") or torch.equal(value, before[name]), name
        assert not step.run(batch, global_valid=8, step=2).skipped
    for ours, theirs in zip(steps[1].model.parameters(), steps[0].model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize(
    "config",
    [
        default_model_config("unet"),
        default_model_config("tutorial"),
        ModelConfig(widths=(8, 16, 32), upsample="transposed", norm="group"),
        ModelConfig(encoder="resnet18"),
    ],
    ids=["unet", "tutorial", "transposed", "encoder"],
)
@pytest.mark.parametrize("training", [True, False])
def test_channels_last_is_kept_through_the_network(config: ModelConfig, training: bool) -> None:
    """No convolution converts its input; sizes that need padding too."""
    model = place(build_model(config), CPU).train(training)
    seen = list[str]()

    def check(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
            seen.append(name)
            for what, tensor in (("input", inputs[0]), ("output", output)):
                assert tensor.is_contiguous(memory_format=torch.channels_last), f"the {what} of {name}"

        return hook

    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            assert module.weight.is_contiguous(memory_format=torch.channels_last)
            module.register_forward_hook(check(name))
    for size in (64, 50):
        model(make_batch(size=size, count=2).image)
    assert len(seen) >= 2 * 7
