"""What an ONNX file computes: a network, and on request the resizing before and after it, softmax or argmax.

Everything here can be exported with symbolic heights and widths: no size is read as a Python number.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import nn

from shards.errors import UsageError
from shards.format.geometry import PAD_COLOUR, Fit, Size

OPSET = 18  # what torch's exporter writes without converting
OnnxOutput = Literal["logits", "probabilities", "classes"]
InputSize = Literal["any", "fixed", "original"]


@dataclass(frozen=True, kw_only=True)
class OnnxOptions:
    """What an exported file takes and gives.

    Attributes:
        output: ``logits`` or ``probabilities``, float32 (B, N, H, W), or ``classes``, the predicted class indices:
            uint8 (B, H, W).
        input_size: ``any``: the network is applied to images of whatever height and width they have, which should be
            near those that it was trained on; ``fixed``: of the network's size alone; ``original``: images of any size
            are resized to the network's size within the graph, as in training, and the output to theirs.
    """

    output: OnnxOutput = "logits"
    input_size: InputSize = "any"

    def __post_init__(self) -> None:
        for name, value, choices in (
            ("onnx_output", self.output, get_args(OnnxOutput)),
            ("input_size", self.input_size, get_args(InputSize)),
        ):
            if value not in choices:
                raise UsageError(f"{name} {value!r}: choose from {', '.join(choices)}")


class OnnxNetwork(nn.Module):
    """Images uint8 (B, 3, H, W) in, the output of the options out.

    ``size`` and ``fit`` are those of the training. ``stride`` is what the network's sides must be multiples of: others
    are padded at the right and at the bottom and cropped at the end, as those networks do it themselves, which the
    exporter would take for a choice made for all images.
    """

    def __init__(self, network: nn.Module, options: OnnxOptions, *, size: Size, fit: Fit, stride: int = 1) -> None:
        super().__init__()
        self.network, self.options, self.size, self.fit, self.stride = network, options, size, fit, stride

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return logits, probabilities or predicted classes."""
        scores = self.scores(image)
        return scores.argmax(dim=1).to(torch.uint8) if self.options.output == "classes" else scores

    def scores(self, image: torch.Tensor) -> torch.Tensor:
        """Return what the output is taken from, float32 (B, N, H, W): logits or probabilities."""
        if self.options.input_size == "original":
            probabilities = self._resized(image)
            # Of interpolated probabilities, the logarithms are logits: their softmax is the probabilities.
            return probabilities.clamp_min(1e-30).log() if self.options.output == "logits" else probabilities
        height, width = image.shape[-2:]
        padded = self.options.input_size == "any" and self.stride > 1
        logits: torch.Tensor = self.network(self._padded(image) if padded else image).float()
        logits = logits[..., :height, :width] if padded else logits
        return logits.softmax(dim=1) if self.options.output == "probabilities" else logits

    def _padded(self, image: torch.Tensor) -> torch.Tensor:
        """Return the image with its last row and column repeated up to the next multiples of the stride."""
        for dimension in (2, 3):
            side = image.shape[dimension]
            whole = (side + self.stride - 1) // self.stride * self.stride
            places = torch.arange(whole, device=image.device).clamp_max(side - 1)
            image = image.index_select(dimension, places)
        return image

    def _resized(self, image: torch.Tensor) -> torch.Tensor:
        """Return probabilities (B, N, H, W): the image is brought to the network's size, its probabilities back."""
        high, wide = _length(image, 2), _length(image, 3)
        rows, columns = _places(high, wide, size=self.size, fit=self.fit)
        vertical, horizontal = _weights(image, 2, rows, self.size[0]), _weights(image, 3, columns, self.size[1])
        # Rows and columns of the bars have no weight; what they lack is filled with the bars' colour.
        pixels = vertical @ (image.float() @ horizontal.T).clamp(0, 255)
        covered = vertical.sum(dim=1)[:, None] * horizontal.sum(dim=1)[None]
        bars = torch.tensor(PAD_COLOUR, dtype=torch.float32).view(3, 1, 1) * (1 - covered)
        # Not rounded to whole grey levels: where that goes one way or the other would depend on the order of additions.
        probabilities = self.network(pixels + bars).float().softmax(dim=1)
        back = _back(image, 2, rows, self.size[0]), _back(image, 3, columns, self.size[1])
        resized: torch.Tensor = back[0] @ probabilities @ back[1].T
        return resized


@dataclass(frozen=True)
class _Range:
    """Where the image's rows or columns stand in the network's input: scalar tensors, int64."""

    start: torch.Tensor
    length: torch.Tensor
    whole: torch.Tensor  # the image's own


def _length(image: torch.Tensor, dimension: int) -> torch.Tensor:
    """Return a side's length as a tensor, int64 (), so that it stays symbolic."""
    return torch.arange(image.shape[dimension], device=image.device)[-1] + 1


def _places(high: torch.Tensor, wide: torch.Tensor, *, size: Size, fit: Fit) -> tuple[_Range, _Range]:
    """Return the ranges of rows and columns, by the arithmetic of shards.format.geometry.placements."""
    height, width = size
    zero = torch.zeros_like(high)
    if fit != "contain":
        return _Range(zero, zero + height, high), _Range(zero, zero + width, wide)
    taller = high * width >= wide * height
    rows = torch.where(taller, zero + height, ((2 * high * width + wide) // (2 * wide)).clamp(1, height))
    columns = torch.where(taller, ((2 * wide * height + high) // (2 * high)).clamp(1, width), zero + width)
    return _Range((height - rows) // 2, rows, high), _Range((width - columns) // 2, columns, wide)


def _weights(image: torch.Tensor, dimension: int, places: _Range, size: int) -> torch.Tensor:
    """Return the matrix of an antialiasing bilinear resize of a side to its places, float32 (size, the side's length).

    Pillow's ``BILINEAR``: a triangle whose half width is the scale, at least 1, in pixels of the longer image, centred
    on each output pixel, and normalised.
    """
    scale = places.whole.float() / places.length.float()
    support = scale.clamp_min(1.0)
    output = torch.arange(size, device=image.device) - places.start
    centre = (output.float() + 0.5) * scale
    source = torch.arange(image.shape[dimension], device=image.device).float() + 0.5
    weights = (1 - ((source[None] - centre[:, None]) / support).abs()).clamp_min(0)
    inside = ((output >= 0) & (output < places.length)).float()[:, None]
    return weights / weights.sum(dim=1, keepdim=True).clamp_min(1e-6) * inside


def _back(image: torch.Tensor, dimension: int, places: _Range, size: int) -> torch.Tensor:
    """Return the matrix of a bilinear resize of a side's places to the whole side, float32 (the side's length, size).

    Antialiased where the image is smaller than the network's input, as petseg-predict does it.
    """
    scale = places.length.float() / places.whole.float()
    support = scale.clamp_min(1.0)
    centre = (torch.arange(image.shape[dimension], device=image.device).float() + 0.5) * scale
    source = torch.arange(size, device=image.device) - places.start
    inside = ((source >= 0) & (source < places.length)).float()
    weights = (1 - ((source.float() + 0.5)[None] - centre[:, None]).abs() / support).clamp_min(0) * inside[None]
    return weights / weights.sum(dim=1, keepdim=True).clamp_min(1e-6)
