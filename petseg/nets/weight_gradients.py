"""bf16 on two CPU threads: the gradient of a wide convolution's weights is computed by one of them.

oneDNN's kernel for it lets its threads wait for each other at every image by spinning. Beside another busy program the
scheduler puts both on one core, and each wait lasts a time slice (docs/performance.md). Alone on the machine, two
threads gain little with it.
"""

import functools
from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

_WIDE = 96 * 192  # input times output channels from which the kernel waits at every image
_THREADS = 2  # of more threads, one alone would take too long


def use_one_thread_where_two_wait(model: nn.Module) -> list[nn.Conv2d]:
    """Change the backward pass of the wide convolutions of a bf16 network on a CPU; return those that were changed."""
    if torch.get_num_threads() != _THREADS:
        return []
    convolutions = [one for one in model.modules() if type(one) is nn.Conv2d and _is_wide(one)]
    for convolution in convolutions:
        convolution.forward = functools.partial(_forward, convolution)  # type: ignore[method-assign]
    return convolutions


def _is_wide(one: nn.Conv2d) -> bool:
    plain = one.groups == 1 and one.bias is None and one.dilation == (1, 1) and one.padding_mode == "zeros"
    return plain and isinstance(one.padding, tuple) and one.in_channels * one.out_channels >= _WIDE


def _forward(convolution: nn.Conv2d, x: torch.Tensor) -> torch.Tensor:
    """Convolve (B, C, H, W) as the module does."""
    if not (convolution.training and torch.is_autocast_enabled("cpu")):
        plain: torch.Tensor = convolution._conv_forward(x, convolution.weight, None)
        return plain
    inputs = x.to(torch.bfloat16), convolution.weight.to(torch.bfloat16)
    result: torch.Tensor = _Convolution.apply(*inputs, list(convolution.stride), list(convolution.padding))
    return result


class _Convolution(torch.autograd.Function):
    """``conv2d`` without a bias, whose backward pass computes the weights' gradient apart from the input's."""

    @staticmethod
    def forward(context: Any, x: torch.Tensor, weight: torch.Tensor, stride: Any, padding: Any) -> torch.Tensor:
        context.save_for_backward(x, weight)
        context.arguments = None, stride, padding, [1, 1], False, [0, 0], 1
        return F.conv2d(x, weight, None, stride, padding)

    @staticmethod
    @once_differentiable
    def backward(context: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        tensors = gradient, *context.saved_tensors
        differentiate = torch.ops.aten.convolution_backward
        of_x = of_weight = None
        if context.needs_input_grad[0]:
            of_x = differentiate(*tensors, *context.arguments, [True, False, False])[0]
        if context.needs_input_grad[1]:
            threads = torch.get_num_threads()
            torch.set_num_threads(1)
            try:
                of_weight = differentiate(*tensors, *context.arguments, [False, True, False])[1]
            finally:
                torch.set_num_threads(threads)
        return of_x, of_weight, None, None
