"""Which of a network's parameters belong together in an optimiser, and optimiser states of version 1."""

from typing import Any

import torch
from torch import nn


def split_parameters(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Return the kernels, and the scales and biases, each in the order of ``model.parameters()``."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return [one for one in trained if one.ndim > 1], [one for one in trained if one.ndim <= 1]


def muon_groups(model: nn.Module, *, weight_decay: float) -> list[dict[str, Any]]:
    """Return the parameter groups of :class:`petseg.optim.muon.Muon`: weight decay acts on kernels only.

    Muon's authors leave the first and last layers to AdamW. Here that costs 0.02 of the mean IoU (docs/recipe.md), so
    all kernels are Muon's.
    """
    kernels, vectors = split_parameters(model)
    return [
        {"params": kernels, "use_muon": True, "weight_decay": weight_decay},
        {"params": vectors, "use_muon": False, "weight_decay": 0.0},
    ]


def current_state(state: dict[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Return an optimiser's saved state, from any version of this program, with the groups of ``optimizer``.

    What a group computes with (learning rate, ``fused``) is always the optimiser's own. Version 1 named the state of
    Muon's vectors in its own way.
    """
    own = optimizer.state_dict()["param_groups"]
    saved = state["state"]
    if any("use_muon" in group for group in own):
        saved = {
            number: {"step": old["steps"], "exp_avg": old["mean"], "exp_avg_sq": old["square"]}
            if "steps" in old
            else old
            for number, old in saved.items()
        }
    return {"state": saved, "param_groups": own}


def without_rates(state: dict[str, Any]) -> dict[str, Any]:
    """Return an optimiser's state without learning rates, which are set in every step and may be on a device."""
    groups = [{name: value for name, value in group.items() if name != "lr"} for group in state["param_groups"]]
    return {**state, "param_groups": groups}
