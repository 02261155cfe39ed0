"""Which of a network's parameters belong together in an optimiser, and optimiser states of version 1."""

from typing import Any

import torch
from torch import nn

_COLOURS = 3  # input channels of the layers that see the image


def split_parameters(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter], list[nn.Parameter]]:
    """Return the kernels of the hidden layers, those of the first and last layers, and all scales and biases.

    First are the layers that see the image, last is ``head``. Each list is in the order of ``model.parameters()``.
    """
    hidden: list[nn.Parameter] = []
    ends: list[nn.Parameter] = []
    vectors: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        if parameter.ndim <= 1:
            vectors.append(parameter)
        else:
            (ends if parameter.shape[1] == _COLOURS or name == "head.weight" else hidden).append(parameter)
    return hidden, ends, vectors


def muon_groups(model: nn.Module, *, weight_decay: float) -> list[dict[str, Any]]:
    """Return the parameter groups of :class:`petseg.optim.muon.Muon`: weight decay acts on kernels only."""
    hidden, ends, vectors = split_parameters(model)
    return [
        {"params": hidden, "use_muon": True, "weight_decay": weight_decay},
        {"params": ends, "use_muon": False, "weight_decay": weight_decay},
        {"params": vectors, "use_muon": False, "weight_decay": 0.0},
    ]


def current_state(state: dict[str, Any], optimizer: torch.optim.Optimizer, model: nn.Module) -> dict[str, Any]:
    """Return an optimiser's saved state with the groups of ``optimizer``, from any version of this program.

    Version 1 had Muon for all kernels. There the first and last layers, which have AdamW now, start with fresh moments;
    everything else goes on as it was. What a group computes with (learning rate, ``fused``) is always the optimiser's.
    """
    own = optimizer.state_dict()["param_groups"]
    saved = state["state"]
    if any("use_muon" in group for group in own) and not any("use_muon" in group for group in state["param_groups"]):
        hidden, ends, vectors = split_parameters(model)
        kernels = [parameter for parameter in model.parameters() if parameter.requires_grad and parameter.ndim > 1]
        # Identity, since comparing tensors compares their values.
        numbers = {id(parameter): number for number, parameter in enumerate([*kernels, *vectors])}
        in_order = [saved[numbers[id(parameter)]] for parameter in [*hidden, *ends, *vectors]]
        saved = {}
        for number, (parameter, old) in enumerate(zip([*hidden, *ends, *vectors], in_order, strict=True)):
            if number < len(hidden):
                saved[number] = {"mean": old["mean"]}
            elif number < len(hidden) + len(ends):
                saved[number] = {
                    "step": torch.zeros(()),
                    "exp_avg": torch.zeros_like(parameter),
                    "exp_avg_sq": torch.zeros_like(parameter),
                }
            else:
                saved[number] = {"step": old["steps"], "exp_avg": old["mean"], "exp_avg_sq": old["square"]}
    return {"state": saved, "param_groups": own}
