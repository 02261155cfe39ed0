import copy

import pytest
import torch
from torch import nn

from petseg.nets.factory import build_model, place
from petseg.nets.model_config import ModelConfig
from petseg.optim.muon import Muon
from petseg.optim.newton_schulz import newton_schulz_factor
from petseg.optim.parameter_groups import current_state, parameter_groups

SHAPES = [(16, 8, 3, 3), (8, 16, 1, 1), (8, 8, 3, 3), (16, 16, 3, 3), (32, 4, 1, 1), (24, 2, 4, 4), (5, 7)]


def orthogonalise(matrix: torch.Tensor) -> torch.Tensor:
    """One matrix, no higher than wide, as a stack of one."""
    x = matrix.unsqueeze(0).clone()
    return (newton_schulz_factor(x, torch.eye(len(matrix))) @ x)[0]


def version_1(matrix: torch.Tensor) -> torch.Tensor:
    """The update that version 1 computed for each matrix by itself, in float64."""
    x = matrix.double() / (matrix.double().norm() + 1e-7)
    x = x.T if x.shape[0] > x.shape[1] else x
    for _ in range(5):
        gram = x @ x.T
        x = (3.4445 * torch.eye(len(x), dtype=x.dtype) - 4.7750 * gram + 2.0315 * gram @ gram) @ x
    return (x.T if matrix.shape[0] > matrix.shape[1] else x) * 0.2 * max(matrix.shape) ** 0.5


def kernels(shapes: list[tuple[int, ...]]) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(3)
    tensors = [torch.randn(shape, generator=generator) for shape in shapes]
    return [nn.Parameter(t.to(memory_format=torch.channels_last) if t.ndim == 4 else t) for t in tensors]


def hidden(params: list[nn.Parameter], **options: float) -> Muon:
    return Muon([{"params": params, "use_muon": True}], lr=0.01, **options)


def set_gradients(params: list[nn.Parameter], seed: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    for parameter in params:
        parameter.grad = torch.randn(parameter.shape, generator=generator).mul_(1e-3)
    return [parameter.grad.clone() for parameter in params]


@pytest.mark.parametrize("shape", [(16, 144), (32, 32), (1, 3)])
def test_singular_values_become_about_one_and_directions_stay(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 1e-3
    left, values, right = torch.linalg.svd(matrix.double(), full_matrices=False)
    turned = left.T @ orthogonalise(matrix).double() @ right.T
    off = turned - torch.diag(turned.diag())
    assert off.abs().max() < 1e-3  # the same directions
    large = values > 0.05 * values.norm()  # the tiniest need more rounds
    assert turned.diag()[large].min() > 0.5
    assert turned.diag().max() < 1.35


def test_zeros_stay_zeros() -> None:
    assert torch.equal(orthogonalise(torch.zeros(4, 9)), torch.zeros(4, 9))


def test_stacked_kernels_take_the_steps_of_single_ones() -> None:
    """Of all shapes together, high and wide, in both memory formats, with momentum and weight decay."""
    params = kernels(SHAPES)
    optimizer = hidden(params, weight_decay=0.3)
    expected = [parameter.detach().double().clone() for parameter in params]
    means = [torch.zeros_like(value) for value in expected]
    for step in range(4):
        gradients = [gradient.double() for gradient in set_gradients(params, step)]
        optimizer.step()
        for value, mean, gradient in zip(expected, means, gradients, strict=True):
            mean.lerp_(gradient, 0.05)
            update = version_1(gradient.lerp(mean, 0.95).flatten(1)).view_as(value)
            value.mul_(1 - 0.01 * 0.3).sub_(0.01 * update)
    for parameter, value in zip(params, expected, strict=True):
        torch.testing.assert_close(parameter.detach().double(), value, rtol=1e-4, atol=1e-5)


def test_others_take_the_steps_of_adamw() -> None:
    ours, theirs = nn.Parameter(torch.ones(5)), nn.Parameter(torch.ones(5))
    muon = Muon([{"params": [ours], "use_muon": False}], lr=0.1, weight_decay=0.01)
    adam = torch.optim.AdamW([theirs], lr=0.1, weight_decay=0.01)
    for step in range(5):
        gradient = torch.arange(5.0) - step
        ours.grad, theirs.grad = gradient.clone(), gradient.clone()
        muon.step()
        adam.step()
    torch.testing.assert_close(ours, theirs)


def test_a_kernels_step_has_the_size_of_an_adamw_step() -> None:
    (kernel,) = kernels([(32, 16, 3, 3)])
    before = kernel.detach().clone()
    set_gradients([kernel], 0)
    hidden([kernel]).step()
    size = ((kernel.detach() - before) / 0.01).square().mean().sqrt().item()
    assert size == pytest.approx(0.2, rel=0.3)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e30])
def test_a_step_that_found_infinities_changes_nothing(bad: float) -> None:
    """Nor is anything left of it in later steps."""
    nets = [build_model(ModelConfig(widths=(8, 16))) for _ in range(2)]
    nets[1].load_state_dict(nets[0].state_dict())
    optimizers = [Muon(parameter_groups(net, weight_decay=0.1), lr=0.01) for net in nets]
    for step in range(3):
        for number, (net, optimizer) in enumerate(zip(nets, optimizers, strict=True)):
            params = [*net.parameters()]
            if number and step:
                before = copy.deepcopy(optimizer.state_dict()["state"])
                set_gradients(params, 9)
                [p for p in params if p.ndim > 1][step].grad.view(-1)[0] = bad
                params[-1].grad[0] = bad
                optimizer.found_inf = torch.ones(())
                optimizer.step()
                for key, values in optimizer.state_dict()["state"].items():
                    assert all(torch.equal(values[name], before[key][name]) for name in values)
            set_gradients(params, step)
            optimizer.found_inf = torch.zeros(())
            optimizer.step()
    for ours, theirs in zip(nets[1].parameters(), nets[0].parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_state_survives_saving() -> None:
    def start() -> tuple[nn.Module, Muon]:
        torch.manual_seed(0)
        net = place(build_model(ModelConfig(widths=(8, 16))), torch.device("cpu"))
        return net, Muon(parameter_groups(net, weight_decay=0.1), lr=0.01)

    def go(net: nn.Module, optimizer: Muon, steps: range) -> None:
        for step in steps:
            set_gradients([*net.parameters()], step)
            optimizer.step()

    net, optimizer = start()
    go(net, optimizer, range(3))
    fresh, other = start()
    fresh.load_state_dict(net.state_dict())
    saved = copy.deepcopy(optimizer.state_dict())
    assert all(
        value.is_contiguous() for state in saved["state"].values() for value in state.values() if value.ndim == 2
    )
    other.load_state_dict(saved)
    go(net, optimizer, range(3, 6))
    go(fresh, other, range(3, 6))
    for ours, theirs in zip(net.parameters(), fresh.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_states_of_version_1_are_continued() -> None:
    """Momentum and moments go on under their parameters, and the bias correction under its step."""
    model = build_model(ModelConfig(widths=(8, 16)))
    kernels_ = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    vectors = [parameter for parameter in model.parameters() if parameter.ndim <= 1]
    old = {number: {"mean": torch.randn_like(kernel)} for number, kernel in enumerate(kernels_)}
    for number, vector in enumerate(vectors, start=len(kernels_)):
        moments = {"mean": torch.randn_like(vector), "square": torch.rand_like(vector)}
        old[number] = {**moments, "steps": torch.tensor(7.0)}
    groups = [
        {"lr": 0.1, "weight_decay": 0.02, "momentum": 0.95, "params": [*range(len(kernels_))]},
        {"lr": 0.1, "weight_decay": 0.0, "momentum": 0.95, "params": [*range(len(kernels_), len(old))]},
    ]
    optimizer = Muon(parameter_groups(model, weight_decay=0.02), lr=0.01)
    saved = copy.deepcopy(old)
    optimizer.load_state_dict(current_state({"state": saved, "param_groups": groups}, optimizer))
    for number, kernel in enumerate(kernels_):
        assert torch.equal(optimizer.state[kernel]["mean"], old[number]["mean"])
    for number, vector in enumerate(vectors, start=len(kernels_)):
        state = optimizer.state[vector]
        assert torch.equal(state["exp_avg"], old[number]["mean"])
        assert torch.equal(state["exp_avg_sq"], old[number]["square"])
        assert state["step"] == 7
    # The next step uses them: the direction of the vectors is mostly the old moments'.
    vector, start = vectors[0], vectors[0].detach().clone()
    set_gradients([*model.parameters()], 0)
    optimizer.step()
    gradient, moments = vector.grad, old[len(kernels_)]
    mean = moments["mean"].lerp(gradient, 0.1) / (1 - 0.9**8)
    square = (moments["square"] * 0.999 + 0.001 * gradient**2) / (1 - 0.999**8)
    torch.testing.assert_close(vector.detach(), start - 0.01 * mean / (square.sqrt() + 1e-8))
