"""Dropout by sample: its masks against its definition, its rate, and what they do not depend on."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from petseg.nets.sample_dropout import SampleDropout2d, sample_numbers, step_key

pytestmark = pytest.mark.usefixtures("one_thread")


def kept(seed: int, step: int, positions: torch.Tensor, *, channels: int, p: float = 0.5) -> torch.Tensor:
    """Which channels a step keeps: bool (B, C)."""
    dropout = SampleDropout2d(p).train()
    dropout.samples = sample_numbers(torch.tensor(step_key(seed, step)), positions)
    out = dropout(torch.ones(len(positions), channels, 2, 3))
    assert torch.equal(out, out[:, :, :1, :1].expand_as(out))  # whole channels
    torch.testing.assert_close(out[out > 0], torch.full_like(out[out > 0], 1 / (1 - p)))
    return out[:, :, 0, 0] > 0


def hashed(x: int) -> int:
    for _ in range(2):
        x = (x >> 16 ^ x) * 0x45D9F3B % 2**32
    return x >> 16 ^ x


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**63 - 1), step=st.integers(0, 10**9), first=st.integers(0, 65535))
def test_masks_are_those_of_the_definition(seed: int, step: int, first: int) -> None:
    found = kept(seed, step, torch.arange(first, first + 2), channels=5, p=0.3)
    key = step_key(seed, step)
    assert 0 <= key < 2**32
    for row, position in enumerate((first, first + 1)):
        sample = hashed((key + position * 0x9E3779B9) % 2**32)
        for channel in range(5):
            number = hashed((sample + channel * 0x9E3779B9) % 2**32)
            assert bool(found[row, channel]) == (number >= 0.3 * 2**32)


def test_an_image_has_its_mask_wherever_it_is_computed() -> None:
    whole = kept(3, 7, torch.arange(12), channels=64)
    parts = [kept(3, 7, torch.arange(a, a + 4), channels=64) for a in (0, 4, 8)]
    assert torch.equal(torch.cat(parts), whole)


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_the_rate_and_independence(p: float) -> None:
    """Over images, channels and steps; also of neighbours, whose numbers differ by a constant before they are mixed."""
    masks = torch.stack([kept(0, step, torch.arange(32), channels=96, p=p) for step in range(60)]).double()
    assert masks.mean().item() == pytest.approx(1 - p, abs=0.004)
    for axis in range(3):
        assert masks.mean(dim=axis).sub(1 - p).abs().max() < 0.35
        a, b = masks.narrow(axis, 1, masks.shape[axis] - 1), masks.narrow(axis, 0, masks.shape[axis] - 1)
        both = ((a - (1 - p)) * (b - (1 - p))).mean() / (p * (1 - p))
        assert abs(both) < 0.02, f"neighbours along axis {axis} are correlated"


def test_without_training_or_rate_nothing_happens() -> None:
    x = torch.rand(2, 3, 4, 4)
    assert SampleDropout2d(0.5).eval()(x) is x
    assert SampleDropout2d(0.0).train()(x) is x


def test_without_numbers_it_is_torchs() -> None:
    x = torch.rand(2, 64, 4, 4)
    torch.manual_seed(0)
    ours = SampleDropout2d(0.5).train()(x)
    torch.manual_seed(0)
    assert torch.equal(ours, F.dropout2d(x, 0.5))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_type_and_layout_stay(dtype: torch.dtype) -> None:
    dropout = SampleDropout2d(0.5).train()
    dropout.samples = torch.arange(2)
    x = torch.rand(2, 8, 4, 4, dtype=dtype).contiguous(memory_format=torch.channels_last)
    out = dropout(x)
    assert out.dtype == dtype
    assert out.is_contiguous(memory_format=torch.channels_last)
