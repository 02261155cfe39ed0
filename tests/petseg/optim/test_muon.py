import copy

import pytest
import torch
from torch import nn

from petseg.optim.muon import Muon, orthogonalise


@pytest.mark.parametrize("shape", [(16, 144), (144, 16), (32, 32), (3, 1)])
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


def test_vectors_take_the_steps_of_adam() -> None:
    ours, theirs = nn.Parameter(torch.ones(5)), nn.Parameter(torch.ones(5))
    muon, adam = Muon([ours], lr=0.1, weight_decay=0.01), torch.optim.AdamW([theirs], lr=0.1, weight_decay=0.01)
    for step in range(5):
        gradient = torch.arange(5.0) - step
        ours.grad, theirs.grad = gradient.clone(), gradient.clone()
        muon.step()
        adam.step()
    torch.testing.assert_close(ours, theirs)


def test_a_kernels_step_has_the_size_of_an_adamw_step() -> None:
    kernel = nn.Parameter(torch.zeros(32, 16, 3, 3).to(memory_format=torch.channels_last))
    kernel.grad = torch.randn_like(kernel)
    Muon([kernel], lr=0.01).step()
    size = (kernel.detach() / 0.01).square().mean().sqrt().item()
    assert size == pytest.approx(0.2, rel=0.3)


def test_state_survives_saving() -> None:
    def start() -> tuple[nn.Conv2d, Muon]:
        torch.manual_seed(0)
        net = nn.Conv2d(3, 8, 3)
        return net, Muon(net.parameters(), lr=0.01, weight_decay=0.1)

    def go(net: nn.Conv2d, optimizer: Muon, steps: range) -> None:
        for step in steps:
            optimizer.zero_grad()
            torch.manual_seed(step)
            net(torch.randn(2, 3, 8, 8)).square().sum().backward()
            optimizer.step()

    net, optimizer = start()
    go(net, optimizer, range(3))
    fresh, other = start()
    fresh.load_state_dict(net.state_dict())
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    go(net, optimizer, range(3, 6))
    go(fresh, other, range(3, 6))
    assert torch.equal(net.weight, fresh.weight)
    assert torch.equal(net.bias, fresh.bias)
