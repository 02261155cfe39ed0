import pytest
import torch
from torch import nn

from petseg.nets.factory import build_model
from petseg.nets.model_config import ModelConfig
from petseg.optim.ema import WeightAverage, default_decay


def test_follows_the_formula_buffers_included() -> None:
    model = build_model(ModelConfig(widths=(8, 16)))
    average = WeightAverage(model, decay=0.9)
    expected = {name: value.clone() for name, value in model.state_dict().items()}
    for step in range(20):
        model.train()
        model(torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8))  # moves the running statistics
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter))
        average.update(step=step)
        factor = min(0.9, (1 + step) / (10 + step))
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                expected[name] = factor * expected[name] + (1 - factor) * value
            else:
                expected[name] = value.clone()
    assert any(name.endswith("running_var") for name in expected)
    for name, value in average.model.state_dict().items():
        torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=1e-5)


def test_is_apart_from_the_model() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).train()
    average = WeightAverage(model, decay=0.5)
    assert not average.model.training
    assert not any(p.requires_grad for p in average.model.parameters())
    average.update(step=0)
    assert model.training
    assert all(p.requires_grad for p in model.parameters())


def test_the_default_fits_the_run() -> None:
    assert default_decay(1) == pytest.approx(0.9)
    assert default_decay(2000) == pytest.approx(0.99)
    assert default_decay(10**9) == pytest.approx(0.9998)
