"""A step on CUDA tensors without values: which devices meet, and that no value is asked for, shown without a GPU."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from msgspec.structs import replace
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from petseg.host.device import Placement
from petseg.inference.metrics import confusion, predicted_class
from petseg.nets.model_config import ModelConfig
from petseg.runs.recipe import default_recipe
from petseg.training.step import TrainStep

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="tests/gpu shows it on the device itself")
CUDA = torch.device("cuda", 0)


@pytest.mark.parametrize("optimizer", ["muon", "adamw", "adam"])
def test_a_step_on_cuda_asks_for_no_value(optimizer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forward, loss, confusion, clipping, update and average; backward needs a device, and fused AdamW a kernel."""
    updated = list[int]()
    for name in ("_fused_adam_", "_fused_adamw_"):
        monkeypatch.setattr(torch, name, lambda params, *rest, **more: updated.append(len(params)))
    monkeypatch.setattr("petseg.training.step.place", lambda model, device: model)  # swaps no fake weights
    changes: dict[str, Any] = {"optimizer": optimizer, "weight_decay": 0.0 if optimizer == "adam" else 0.1}
    recipe = replace(default_recipe("unet"), model=ModelConfig(widths=(8, 16)), **changes)
    with FakeTensorMode(allow_non_fake_inputs=True), CUDA:
        step = TrainStep(recipe, total_steps=9, placement=Placement(device=CUDA, precision="fp32"))
        image, mask = torch.empty(4, 3, 32, 32, dtype=torch.uint8), torch.empty(4, 32, 32, dtype=torch.uint8)
        logits = step._network(image)
        loss = step._loss(logits, mask, torch.ones(4, dtype=torch.bool), global_valid=step._global_valid)
        counts = confusion(mask, predicted_class(logits.detach()), classes=3)
        for parameter in step.model.parameters():
            parameter.grad = torch.empty_like(parameter)
        for number in range(2):
            for group in step.optimizer.param_groups:
                group["lr"].fill_(step.learning_rate(number))
            facts = torch.stack([loss.detach(), *step._update(loss.detach())])
            step.average.update(step=number)
        assert facts.device == counts.device == CUDA
        states = [value.device for state in step.optimizer.state.values() for value in state.values()]
        assert set(states) == {CUDA}
        with pytest.raises(DataDependentOutputException):
            facts[0].item()  # or else asking for a value would go unnoticed above
    assert len(updated) >= 2  # in each step
