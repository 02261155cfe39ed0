"""Muon's update of many matrices at once: momentum, and Newton-Schulz iterations as batched matrix products.

Matrices with the same shorter side are stacked, padded with zeros at their longer sides; zero columns change neither a
matrix's singular values nor the singular vectors of the rest. So a network takes one stack for each of its widths.
"""

from collections.abc import Sequence

import torch

# A quintic iteration that drives all singular values to about 1 in five iterations; the coefficients are the authors'.
_A, _B, _C = 3.4445, -4.7750, 2.0315
_ITERATIONS = 5
_SCALE = 0.2  # root mean square of an AdamW update, in learning rates (Liu et al.)
_EPSILON = 1e-7  # added to the Frobenius norm, so that zeros stay zeros


class KernelStack:
    """Kernels (out, in, ...) whose matrices (out, in * ...) have the same shorter side S: one padded stack (n, S, L).

    A matrix that is higher than wide is stacked transposed. ``gradients``, ``means`` and ``updates`` are views of the
    stacks, each in the shape of its kernel; to change them is to change the stack.
    """

    def __init__(self, kernels: Sequence[torch.Tensor]) -> None:
        sides = [sorted((len(kernel), kernel[0].numel())) for kernel in kernels]
        (short,) = {side for side, _ in sides}
        shape = (len(kernels), short, max(side for _, side in sides))
        self._gradient, self._mean, self._update = (kernels[0].new_zeros(shape) for _ in range(3))
        self.gradients = _kernel_views(self._gradient, kernels)
        self.means = _kernel_views(self._mean, kernels)
        self.updates = _kernel_views(self._update, kernels)
        scales = [_SCALE * long**0.5 for _, long in sides]
        self._scale = torch.tensor(scales, device=self._mean.device).view(-1, 1, 1)
        self._identity = torch.eye(short, device=self._mean.device)

    def compute_updates(self, *, rate: torch.Tensor, inertia: float, blend: torch.Tensor, skip: torch.Tensor) -> None:
        """Turn the gradients into updates, to be added, and advance the momentum.

        All but ``inertia``, the share of the momentum in an update, are scalars on the kernels' device: ``rate`` is the
        negative learning rate, ``blend`` the gradient's share of the new momentum. Where ``skip`` is set, gradients are
        ignored, whatever they hold; with ``rate`` and ``blend`` 0 nothing changes.
        """
        x = self._gradient.masked_fill_(skip, 0.0)
        self._mean.lerp_(x, blend)
        x.lerp_(self._mean, inertia)
        product = newton_schulz_factor(x, self._identity)
        torch.bmm(product.mul_(self._scale * rate), x, out=self._update)


def newton_schulz_factor(x: torch.Tensor, identity: torch.Tensor) -> torch.Tensor:
    """Divide matrices (n, m, k), m <= k, by their norms in place; return P (n, m, m) for which P x has orthogonal rows.

    P x is about U V' for a matrix U S V': the same singular vectors, singular values all between 0.6 and 1.3; a matrix
    of zeros stays zero. In fp32, or TF32 where that is on (docs/gpu.md). Each Newton-Schulz iteration multiplies the
    matrix by a polynomial in its own Gram matrix ``x x'``, and such polynomials commute; so the iterations run on the
    small square Gram matrices, and only the first and the last product involve whole matrices.
    """
    x.div_(torch.linalg.vector_norm(x, dim=(1, 2), keepdim=True).add_(_EPSILON))
    gram = torch.bmm(x, x.mT)
    product = factor = _polynomial(gram, identity)
    for _ in range(_ITERATIONS - 1):
        gram = torch.bmm(torch.bmm(factor, gram), factor)
        factor = _polynomial(gram, identity)
        product = torch.bmm(factor, product)
    return product


def _polynomial(gram: torch.Tensor, identity: torch.Tensor) -> torch.Tensor:
    """Return ``A + B gram + C gram^2``."""
    return torch.baddbmm(identity, gram, gram, beta=_A, alpha=_C).add_(gram, alpha=_B)


def stack_kernels(kernels: Sequence[torch.Tensor]) -> tuple[list[torch.Tensor], list[KernelStack]]:
    """Return the kernels ordered by the shorter sides of their matrices, and the stack of each side in that order."""
    by_side: dict[int, list[torch.Tensor]] = {}
    for kernel in kernels:
        by_side.setdefault(min(len(kernel), kernel[0].numel()), []).append(kernel)
    return [kernel for side in by_side.values() for kernel in side], [KernelStack(side) for side in by_side.values()]


def _kernel_views(stack: torch.Tensor, kernels: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Return views of a stack's matrices in their kernels' shapes; columns are in channels_last order (..., in)."""
    views = []
    for matrix, kernel in zip(stack, kernels, strict=True):
        rows, columns = len(kernel), kernel[0].numel()
        part = matrix[:, :columns] if rows <= columns else matrix[:, :rows].mT
        views.append(part.unflatten(1, (*kernel.shape[2:], kernel.shape[1])).movedim(-1, 1))
    return views
