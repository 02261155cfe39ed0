"""What a run changes in its process ends with the run."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from petseg.host.device import cpu_threads


def subnormals_survive() -> bool:
    return float(np.float64(2.0**-1022) * np.float64(0.5)) != 0.0


def test_threads_and_subnormals_are_given_back() -> None:
    before = torch.get_num_threads()
    assert subnormals_survive()
    with cpu_threads(before + 1) as count:
        assert torch.get_num_threads() == count == before + 1
        assert not subnormals_survive()
    assert torch.get_num_threads() == before
    assert subnormals_survive()


def test_they_are_given_back_after_an_error_too() -> None:
    before = torch.get_num_threads()
    with pytest.raises(ZeroDivisionError), cpu_threads(None):
        _ = 1 / 0
    assert torch.get_num_threads() == before
    assert subnormals_survive()
