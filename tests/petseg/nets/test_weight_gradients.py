"""One thread for the gradients at which two wait for each other: when, and that they are the same gradients."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import torch
from msgspec.structs import replace
from torch import nn

from petseg.host.device import Placement
from petseg.nets.model_config import ModelConfig
from petseg.nets.weight_gradients import use_one_thread_where_two_wait
from petseg.runs.recipe import default_recipe
from petseg.training.step import TrainStep

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def gradients(net: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    """Of the input, and of the weights of each layer."""
    x = x.clone().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = net(x)
    assert y.dtype == torch.bfloat16
    y.float().square().sum().backward()
    return [tensor.grad for tensor in (x, *net.parameters()) if tensor.grad is not None]


@pytest.mark.parametrize(("stride", "kernel"), [(1, 1), (1, 3), (2, 3)])
def test_gradients_are_those_of_one_thread(stride: int, kernel: int) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(8, 192, 1, bias=False), nn.Conv2d(192, 96, kernel, stride, kernel // 2, bias=False)
    ).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    changed = copy.deepcopy(net)
    assert use_one_thread_where_two_wait(changed) == [changed[1]]
    x = torch.randn(4, 8, 8, 8).contiguous(memory_format=torch.channels_last)
    ours = gradients(changed, x)
    assert torch.get_num_threads() == 2
    torch.set_num_threads(1)
    theirs = gradients(net, x)
    assert torch.equal(ours[2], theirs[2])  # of the wide layer's weights: to the bit
    for a, b in zip(ours, theirs, strict=True):
        assert (a - b).norm() < 0.01 * b.norm()
    for training in (True, False):  # without autocast nothing is computed in bf16
        with torch.no_grad():
            assert torch.equal(changed.train(training)(x), net.train(training)(x))


def test_one_thread_computes_them_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = list[tuple[list[bool], int]]()
    compute = torch.ops.aten.convolution_backward

    def counted(*arguments: object) -> object:
        seen.append((list(arguments[-1]), torch.get_num_threads()))  # type: ignore[call-overload]
        return compute(*arguments)

    net = nn.Conv2d(192, 192, 3, padding=1, bias=False)
    use_one_thread_where_two_wait(net)
    monkeypatch.setattr(torch.ops.aten, "convolution_backward", counted)
    gradients(net, torch.randn(2, 192, 4, 4))
    assert seen == [([True, False, False], 2), ([False, True, False], 1)]


@pytest.mark.parametrize(
    ("precision", "threads", "compiled", "count"),
    [("bf16", 2, False, 1), ("fp32", 2, False, 0), ("bf16", 1, False, 0), ("bf16", 2, True, 0)],
)
def test_where_it_is_used(
    monkeypatch: pytest.MonkeyPatch, precision: str, threads: int, compiled: bool, count: int
) -> None:
    monkeypatch.setattr(torch, "compile", lambda network: network)
    torch.set_num_threads(threads)
    recipe = replace(default_recipe("unet"), model=ModelConfig(widths=(8, 192)))
    step = TrainStep(recipe, total_steps=9, placement=Placement(CPU, precision), compile_model=compiled)  # type: ignore[arg-type]
    changed = [one for one in step.model.modules() if "forward" in vars(one)]
    assert len(changed) == count
    assert step.average is not None
    assert not [one for one in step.average.model.modules() if "forward" in vars(one)]
