"""Muon: orthogonalised momentum for convolution kernels, Adam for everything else.

Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks"; updates are scaled as in Liu et al. 2025,
"Muon is scalable for LLM training", so that learning rate and weight decay mean the same as in AdamW.
``torch.optim.Muon`` takes matrices only; here a kernel (out, in, k, k) counts as a matrix (out, in * k * k).
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch

# A quintic iteration that drives all singular values to about 1 in five iterations; the coefficients are the authors'.
_A, _B, _C = 3.4445, -4.7750, 2.0315
_ITERATIONS = 5
_SCALE = 0.2  # root mean square of an AdamW update, in learning rates (Liu et al.)
_BETAS = (0.9, 0.999)  # of Adam
_EPSILON = 1e-8


class Muon(torch.optim.Optimizer):
    """Muon for parameters of two and more dimensions, Adam for the others; both with decoupled weight decay.

    A parameter group may set its own ``lr`` and ``weight_decay``.
    """

    def __init__(
        self,
        params: Iterable[torch.nn.Parameter] | Iterable[dict[str, Any]],
        *,
        lr: float,  # as for AdamW
        weight_decay: float = 0.0,  # share of ``lr`` by which a parameter shrinks in each step
        momentum: float = 0.95,  # Nesterov momentum of the kernels' gradients
    ) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient. A ``closure`` is not supported."""
        assert closure is None
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                if parameter.ndim > 1:
                    self._update_matrix(parameter, lr=group["lr"], momentum=group["momentum"])
                else:
                    self._update_adam(parameter, lr=group["lr"])

    def _update_matrix(self, parameter: torch.Tensor, *, lr: float, momentum: float) -> None:
        gradient, state = parameter.grad, self.state[parameter]
        assert gradient is not None
        if not state:
            state["mean"] = torch.zeros_like(gradient)
        state["mean"].lerp_(gradient, 1 - momentum)
        matrix = gradient.lerp(state["mean"], momentum).flatten(start_dim=1)
        update = orthogonalise(matrix) * (_SCALE * max(matrix.shape) ** 0.5)
        parameter.sub_(update.view_as(parameter), alpha=lr)

    def _update_adam(self, parameter: torch.Tensor, *, lr: float) -> None:
        gradient, state = parameter.grad, self.state[parameter]
        assert gradient is not None
        if not state:
            state["mean"], state["square"] = torch.zeros_like(gradient), torch.zeros_like(gradient)
            state["steps"] = torch.zeros(())
        state["steps"] += 1
        state["mean"].lerp_(gradient, 1 - _BETAS[0])
        state["square"].mul_(_BETAS[1]).addcmul_(gradient, gradient, value=1 - _BETAS[1])
        steps = float(state["steps"])
        denominator = (state["square"] / (1 - _BETAS[1] ** steps)).sqrt_().add_(_EPSILON)
        parameter.addcdiv_(state["mean"] / (1 - _BETAS[0] ** steps), denominator, value=-lr)


def orthogonalise(matrix: torch.Tensor) -> torch.Tensor:
    """Return about U V' for a matrix U S V' (m, n): same singular vectors, singular values all between 0.6 and 1.3.

    Newton-Schulz iteration in fp32; a matrix of zeros stays zero. Each iteration multiplies the matrix by a polynomial
    in its own Gram matrix ``x x'``, and such polynomials commute; so the iterations run on the small square Gram
    matrix, and only the first and the last product involve the whole matrix.
    """
    x = matrix.float()
    x = x / (x.norm() + 1e-7)
    transposed = x.shape[0] > x.shape[1]
    if transposed:  # the Gram matrix is that of the shorter side
        x = x.T
    gram = x @ x.T
    product = factor = _polynomial(gram)
    for _ in range(_ITERATIONS - 1):
        gram = factor @ gram @ factor
        factor = _polynomial(gram)
        product = factor @ product
    x = torch.mm(product, x)
    return x.T if transposed else x


def _polynomial(gram: torch.Tensor) -> torch.Tensor:
    """Return ``A + B gram + C gram^2``."""
    factor = torch.addmm(gram, gram, gram, beta=_B, alpha=_C)
    factor.diagonal().add_(_A)
    return factor
