"""Which device the tensors are to be on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shards.errors import UsageError

if TYPE_CHECKING:
    import torch


def resolve_device(device: str | torch.device) -> torch.device:
    """Return the device that a name stands for; "auto" is the current CUDA device, or the CPU where there is none.

    Raises:
        UsageError: the name is unknown, or the device is not there.
    """
    import torch

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        chosen = torch.device(device)
    except (RuntimeError, TypeError):
        raise UsageError(f"device {device!r} is not known; use auto, cpu, cuda or cuda:N") from None
    if chosen.type not in ("cpu", "cuda"):
        raise UsageError(f"device {str(device)!r} is not supported; use auto, cpu, cuda or cuda:N")
    if chosen.type == "cpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise UsageError(f"device {str(device)!r} is not there: PyTorch finds no CUDA; use cpu or auto")
    number = torch.cuda.current_device() if chosen.index is None else chosen.index
    if number >= torch.cuda.device_count():
        raise UsageError(f"device cuda:{number} is not there: PyTorch finds {torch.cuda.device_count()} CUDA device(s)")
    return torch.device("cuda", number)
