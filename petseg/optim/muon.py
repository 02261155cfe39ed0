"""Muon: orthogonalised momentum for convolution kernels, AdamW for everything else.

Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks"; updates are scaled as in Liu et al. 2025,
"Muon is scalable for LLM training", so that learning rate and weight decay mean the same as in AdamW.
``torch.optim.Muon`` takes matrices only, one by one; here a kernel (out, in, k, k) counts as a matrix (out, in * k *
k), and all are updated together (:mod:`petseg.optim.newton_schulz`).
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.optim.adamw import adamw

from petseg.optim.newton_schulz import KernelStack, stack_kernels

_BETAS = (0.9, 0.999)  # of AdamW
_EPSILON = 1e-8


class Muon(torch.optim.Optimizer):
    """Muon for the parameter groups with ``use_muon``, fused AdamW for the others; both with decoupled weight decay.

    A group may set its own ``lr``, a float or a scalar tensor on the parameters' device, and ``weight_decay``. In a
    step either every parameter of a group has a gradient, or none, as those of a frozen encoder: then it stays as it
    is. No step makes the host wait for the device.

    As in torch's fused optimisers, where the attribute ``found_inf`` (a float32 scalar on the device) is set and is not
    zero, a step changes nothing, whatever the gradients are.
    """

    def __init__(
        self,
        params: Iterable[dict[str, Any]],
        *,
        lr: float | torch.Tensor,  # as for AdamW
        weight_decay: float = 0.0,  # share of ``lr`` by which a parameter shrinks in each step
        momentum: float = 0.95,  # Nesterov momentum of the kernels' gradients
    ) -> None:
        self.found_inf: torch.Tensor | None = None
        self._stacks: dict[int, tuple[list[torch.Tensor], list[KernelStack]]] = {}  # by number of the group
        # "fused" is torch's name: it makes load_state_dict put the step counters where the fused kernel needs them.
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum, "fused": True})
        for number, group in enumerate(self.param_groups):
            if not group["use_muon"]:
                for parameter in group["params"]:
                    self.state[parameter] = {
                        "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
                        "exp_avg": torch.zeros_like(parameter, memory_format=torch.preserve_format),
                        "exp_avg_sq": torch.zeros_like(parameter, memory_format=torch.preserve_format),
                    }
            elif group["params"]:
                kernels, stacks = self._stacks[number] = stack_kernels(group["params"])
                means = (mean for stack in stacks for mean in stack.means)
                self.state.update({kernel: {"mean": mean} for kernel, mean in zip(kernels, means, strict=True)})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update every parameter. A ``closure`` is not supported."""
        assert closure is None
        for number, group in enumerate(self.param_groups):
            if not group["params"] or group["params"][0].grad is None:
                continue
            if number in self._stacks:
                self._update_kernels(group, *self._stacks[number])
            else:
                self._update_others(group)

    def _update_kernels(self, group: dict[str, Any], kernels: list[torch.Tensor], stacks: list[KernelStack]) -> None:
        found = self.found_inf
        skip = torch.zeros((), dtype=torch.bool, device=kernels[0].device) if found is None else found != 0
        lr = group["lr"] * ~skip
        rate, blend = -lr, (1.0 - group["momentum"]) * ~skip
        torch._foreach_copy_([view for stack in stacks for view in stack.gradients], gradients_of(kernels))
        for stack in stacks:
            stack.compute_updates(rate=rate, inertia=group["momentum"], blend=blend, skip=skip)
        if group["weight_decay"]:
            torch._foreach_mul_(kernels, 1.0 - lr * group["weight_decay"])
        torch._foreach_add_(kernels, [view for stack in stacks for view in stack.updates])

    def _update_others(self, group: dict[str, Any]) -> None:
        states = [self.state[parameter] for parameter in group["params"]]
        adamw(
            group["params"],
            gradients_of(group["params"]),
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],  # of amsgrad
            [state["step"] for state in states],
            fused=True,
            found_inf=self.found_inf,
            amsgrad=False,
            beta1=_BETAS[0],
            beta2=_BETAS[1],
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=_EPSILON,
            maximize=False,
        )

    def state_dict(self) -> dict[str, Any]:
        """Return the state as torch's optimisers do, with a kernel's momentum (``mean``) apart from its stack."""
        found = super().state_dict()
        found["state"] = {
            number: {name: value.clone(memory_format=torch.contiguous_format) if name == "mean" else value
                     for name, value in state.items()}
            for number, state in found["state"].items()
        }  # fmt: skip
        return found

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore a state; see :func:`petseg.optim.parameter_groups.current_state` for those of version 1.

        Raises ``ValueError`` for a kernel's momentum of another shape, which copying might broadcast.
        """
        super().load_state_dict(state_dict)
        for kernels, stacks in self._stacks.values():
            means = (mean for stack in stacks for mean in stack.means)
            for kernel, mean in zip(kernels, means, strict=True):
                found = self.state[kernel]["mean"]
                if found.shape != mean.shape:
                    raise ValueError(f"mean has the shape {tuple(found.shape)}, its kernel {tuple(mean.shape)}")
                mean.copy_(found)
                self.state[kernel]["mean"] = mean


def gradients_of(parameters: list[torch.Tensor]) -> list[torch.Tensor]:
    """Return the gradients with exactly the strides of their parameters, as the fused and the foreach kernels require.

    autograd sees to that except for dimensions of length 1, whose strides mean nothing: then the same memory is viewed.
    """
    found = []
    for parameter in parameters:
        gradient = parameter.grad
        assert gradient is not None, "every parameter needs a gradient"
        if gradient.stride() != parameter.stride():
            sides = zip(gradient.stride(), parameter.stride(), parameter.shape, strict=True)
            if all(ours == theirs for ours, theirs, length in sides if length > 1):
                gradient = gradient.as_strided(parameter.shape, parameter.stride())
            else:
                gradient = torch.empty_like(parameter).copy_(gradient)
        found.append(gradient)
    return found
