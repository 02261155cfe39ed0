"""Which of a network's parameters belong together in an optimiser, and optimiser states of version 1."""

from typing import Any

import torch
from torch import nn

_WITH_KERNELS = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)


def parameter_groups(
    model: nn.Module, *, weight_decay: float, encoder_share: float | None = None, encoder_apart: bool = False
) -> list[dict[str, Any]]:
    """Return a network's parameters in groups, each in the order of ``model.parameters()``, none of them empty.

    Weight decay acts on kernels only: the weights of convolutions and linear layers. A group has a ``share`` of the
    learning rate; ``use_muon`` says whether Muon updates it, else AdamW does.

    Muon's authors leave the first and last layers to AdamW. Here that costs 0.02 of the mean IoU (docs/recipe.md), so
    all kernels are Muon's but those of grouped convolutions, which are many small filters, not one matrix.

    Args:
        model: the network; its encoder, if it has one, is ``model.encoder``.
        weight_decay: share of the learning rate by which a kernel shrinks in each step.
        encoder_share: the encoder's learning rate as a share of that of the rest; then all of it is AdamW's, because
            Muon's updates, of equal size in every direction, would soon undo what its weights know. None: it is
            trained like the rest.
        encoder_apart: give the encoder groups of its own in any case, so that it can be frozen.
    """
    encoder = getattr(model, "encoder", None)
    apart = encoder is not None and (encoder_apart or encoder_share is not None)
    inside = set(encoder.parameters()) if encoder is not None and apart else set[nn.Parameter]()
    layers = [module for module in model.modules() if isinstance(module, _WITH_KERNELS)]
    kernels = {layer.weight for layer in layers}
    matrices = {layer.weight for layer in layers if getattr(layer, "groups", 1) == 1}
    groups = list[dict[str, Any]]()
    for part in (False, True):
        share = encoder_share if part and encoder_share is not None else 1.0
        found: dict[tuple[bool, bool], list[nn.Parameter]] = {(True, True): [], (False, True): [], (False, False): []}
        for parameter in model.parameters():
            if parameter.requires_grad and (parameter in inside) == part:
                use_muon = parameter in matrices and not (part and encoder_share is not None)
                found[use_muon, parameter in kernels].append(parameter)
        groups += [
            {"params": params, "use_muon": use_muon, "weight_decay": weight_decay if kernel else 0.0, "share": share}
            for (use_muon, kernel), params in found.items()
            if params
        ]
    return groups


def current_state(state: dict[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Return an optimiser's saved state, from any version of this program, with the groups of ``optimizer``.

    What a group computes with (learning rate, ``fused``) is always the optimiser's own. Version 1 named the state of
    Muon's vectors in its own way. Raises ``ValueError`` for what torch would round without a word: moments that are no
    floating-point numbers.
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
    for values in saved.values():
        for name, value in values.items():
            if isinstance(value, torch.Tensor) and value.numel() > 1 and not value.is_floating_point():
                raise ValueError(f"{name} of a parameter has numbers of another kind ({value.dtype})")
    return {"state": saved, "param_groups": own}


def without_rates(state: dict[str, Any]) -> dict[str, Any]:
    """Return an optimiser's state without learning rates, which are set in every step and may be on a device."""
    groups = [{name: value for name, value in group.items() if name != "lr"} for group in state["param_groups"]]
    return {**state, "param_groups": groups}
