"""Muon: steps of equal size in every direction for convolution kernels, Adam for everything else.

Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks"; the scale of a step is that of Liu et al.
2025, "Muon is scalable for LLM training", with which a learning rate and a weight decay mean what they mean to AdamW.
``torch.optim.Muon`` takes matrices only; here a kernel (out, in, k, k) counts as a matrix (out, in * k * k).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch

# A quintic iteration that drives all singular values to about 1 in five rounds; the numbers are the authors'.
_A, _B, _C = 3.4445, -4.7750, 2.0315
_ROUNDS = 5
_SCALE = 0.2  # root mean square of an AdamW step, in learning rates (Liu et al.)
_BETAS = (0.9, 0.999)  # of Adam
_EPSILON = 1e-8


class Muon(torch.optim.Optimizer):
    """Muon for parameters of two and more dimensions, Adam for the others; both with decoupled weight decay.

    Args:
        params: parameters or groups; a group may have its own ``lr`` and ``weight_decay``.
        lr: learning rate, as for AdamW.
        weight_decay: share of ``lr`` by which a parameter shrinks in each step.
        momentum: of the kernels' gradients, Nesterov's form.
    """

    def __init__(
        self,
        params: Iterable[torch.nn.Parameter] | Iterable[dict[str, Any]],
        *,
        lr: float,
        weight_decay: float = 0.0,
        momentum: float = 0.95,
    ) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Take one step along the gradients that there are. A ``closure`` is not supported."""
        assert closure is None
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                if parameter.ndim > 1:
                    self._step_matrix(parameter, lr=group["lr"], momentum=group["momentum"])
                else:
                    self._step_adam(parameter, lr=group["lr"])

    def _step_matrix(self, parameter: torch.Tensor, *, lr: float, momentum: float) -> None:
        gradient, state = parameter.grad, self.state[parameter]
        assert gradient is not None
        if not state:
            state["mean"] = torch.zeros_like(gradient)
        state["mean"].lerp_(gradient, 1 - momentum)
        matrix = gradient.lerp(state["mean"], momentum).flatten(start_dim=1)
        step = orthogonalise(matrix) * (_SCALE * max(matrix.shape) ** 0.5)
        parameter.sub_(step.view_as(parameter), alpha=lr)

    def _step_adam(self, parameter: torch.Tensor, *, lr: float) -> None:
        gradient, state = parameter.grad, self.state[parameter]
        assert gradient is not None
        if not state:
            state["mean"], state["square"] = torch.zeros_like(gradient), torch.zeros_like(gradient)
            state["steps"] = torch.zeros(())
        state["steps"] += 1
        state["mean"].lerp_(gradient, 1 - _BETAS[0])
        state["square"].mul_(_BETAS[1]).addcmul_(gradient, gradient, value=1 - _BETAS[1])
        steps = float(state["steps"])
        spread = (state["square"] / (1 - _BETAS[1] ** steps)).sqrt_().add_(_EPSILON)
        parameter.addcdiv_(state["mean"] / (1 - _BETAS[0] ** steps), spread, value=-lr)


def orthogonalise(matrix: torch.Tensor) -> torch.Tensor:
    """Return about U V' for a matrix U S V' (m, n): the same directions, singular values all between 0.6 and 1.3.

    By Newton and Schulz's iteration, in fp32. A matrix of zeros stays one. Each round multiplies the matrix by a
    polynomial in its own products ``x x'``, and such polynomials commute; so the rounds are done on the small square
    matrix of products, and the whole matrix is touched twice only.
    """
    x = matrix.float()
    x = x / (x.norm() + 1e-7)
    turned = x.shape[0] > x.shape[1]
    if turned:  # the smaller side is multiplied with itself
        x = x.T
    gram = x @ x.T
    product = factor = _factor(gram)
    for _ in range(_ROUNDS - 1):
        gram = factor @ gram @ factor
        factor = _factor(gram)
        product = factor @ product
    x = torch.mm(product, x)
    return x.T if turned else x


def _factor(gram: torch.Tensor) -> torch.Tensor:
    """Return the polynomial that a round multiplies with."""
    factor = torch.addmm(gram, gram, gram, beta=_B, alpha=_C)
    factor.diagonal().add_(_A)
    return factor
