"""timm's networks as encoders: their names, what they compute at which resolution, and what cannot be used.

timm (Wightman 2019, "PyTorch Image Models") is imported when an encoder is first asked for: it is an extra, and slow.
"""

import contextlib
import difflib
import functools
import importlib
import logging
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import nn

from petseg.nets.model_config import Norm
from shards.errors import PetsegError, UsageError, first_line, option, spelled

_COARSEST = 64  # stride; images are padded to a multiple of the encoder's
# What lets networks with attention take images of any size, by the parameter's name in timm.
_ANY_SIZE: tuple[dict[str, bool], ...] = ({"dynamic_img_size": True}, {"strict_img_size": False}, {})


@dataclass(frozen=True, kw_only=True)
class FeatureLevel:
    """One level of features: its number among the outputs of timm's network, its channels and its stride in pixels."""

    output: int
    channels: int
    stride: int


def import_timm() -> Any:
    """Return the module timm; ``PetsegError`` that names the extra where it is not installed."""
    try:
        return importlib.import_module("timm")
    except ImportError:
        raise PetsegError(spelled("--encoder needs timm; install with: pip install 'petseg[encoders]'")) from None


def check_encoder_name(name: str) -> None:
    """Raise ``UsageError`` unless timm has an architecture of this name, which may end in a tag: ``NAME.TAG``."""
    timm = import_timm()
    known = timm.list_models()
    base, _, tag = name.partition(".")
    if base not in known:
        near = difflib.get_close_matches(base, known, n=4, cutoff=0.5)
        advice = f"; similar names: {', '.join(near)}" if near else ""
        raise UsageError(f"{option('encoder', name)}: timm {timm.__version__} has no such network{advice}")
    if tag:
        tags = [full.partition(".")[2] for full in timm.list_pretrained(base)]
        if tag not in tags:
            choice = f"choose from {', '.join(tags)}" if tags else "it has none"
            raise UsageError(f"{option('encoder', name)}: {base} has no weights with the tag {tag!r}; {choice}")


def create_encoder(name: str, **options: Any) -> nn.Module:
    """Return timm's network with fresh weights, whose forward pass returns its features, finest first.

    It draws nothing at random in training: without a dropout of its own, a step is the same on any number of ranks.
    Raises ``UsageError`` where timm has no such network, or no features of it.
    """
    check_encoder_name(name)
    network = _create(name, features_only=True, **options)
    for module in network.modules():
        for share in ("p", "drop_prob", "drop_rate"):
            if "drop" in type(module).__name__.lower() and isinstance(getattr(module, share, None), float):
                setattr(module, share, 0.0)
    return network


def create_classifier(name: str) -> nn.Module:
    """Return timm's whole network without its classifier: its tensors have the names of files of weights."""
    return _create(name, num_classes=0)


@functools.cache
def any_size_options(name: str) -> dict[str, bool]:
    """Return what timm needs to know so that a network takes images of any size; raise ``UsageError`` if it has none.

    Those with attention call it by different names, which the others do not know.
    """
    timm = import_timm()
    for options in _ANY_SIZE:
        try:
            with torch.device("meta"):
                timm.create_model(name, pretrained=False, features_only=True, **options)
        except TypeError:  # a network without this parameter
            continue
        except (RuntimeError, AttributeError, AssertionError, ValueError) as error:
            raise UsageError(f"{option('encoder', name)} has no features for a decoder ({first_line(error)})") from None
        return options
    raise UsageError(f"{option('encoder', name)} has no features for a decoder")


def _create(name: str, **options: Any) -> nn.Module:
    created = import_timm().create_model(name, **{"pretrained": False, **any_size_options(name), **options})
    return cast(nn.Module, created)


def feature_levels(name: str, encoder: nn.Module) -> list[FeatureLevel]:
    """Return the levels of features that a decoder can use, finest first: the last ones of each stride.

    Raises ``UsageError`` for strides that are no powers of two up to 64 pixels.
    """
    info = cast(Any, encoder).feature_info
    by_stride = {
        stride: FeatureLevel(output=number, channels=channels, stride=stride)
        for number, (channels, stride) in enumerate(zip(info.channels(), info.reduction(), strict=True))
    }
    if any(stride.bit_count() != 1 or stride > _COARSEST for stride in by_stride):
        raise UsageError(
            f"{option('encoder', name)} has features at strides of {', '.join(map(str, by_stride))} pixels; a decoder "
            f"needs powers of two up to {_COARSEST}"
        )
    return [by_stride[stride] for stride in sorted(by_stride)]


def channels_first(encoder: nn.Module, feature: torch.Tensor) -> torch.Tensor:
    """Return a feature of an encoder as (B, C, H, W): some have the channels last in their shape."""
    return feature.permute(0, 3, 1, 2) if getattr(encoder, "output_fmt", None) == "NHWC" else feature


def check_encoder(name: str, *, norm: Norm = "batch") -> None:
    """Raise ``UsageError`` unless an encoder exists and takes images of any size, padded to a multiple of its stride.

    Also where ``norm`` is ``group``, which is for batches too small for statistics, and the encoder has batch
    normalisation: its weights need it. Computes shapes only, on torch's meta device.
    """
    with torch.device("meta"):
        encoder = create_encoder(name).eval()
        levels = feature_levels(name, encoder)
    if norm == "group" and any(isinstance(module, nn.BatchNorm2d) for module in encoder.modules()):
        raise UsageError(
            f"{option('norm', 'group')}: {option('encoder', name)} has batch normalisation of its own, which its "
            f"weights need; omit {option('norm')}, or choose an encoder with layer normalisation, such as "
            "convnext_tiny"
        )
    stride = levels[-1].stride
    for height, width in ((2 * stride, 3 * stride), (5 * stride, 4 * stride)):
        try:
            with torch.no_grad():
                features = encoder(torch.empty(1, 3, height, width, device="meta"))
        except (RuntimeError, AssertionError, ValueError, NotImplementedError) as error:
            raise UsageError(
                f"{option('encoder', name)} does not take images of any size: {height}x{width} fails "
                f"({first_line(error)}); choose one that does, such as a ResNet, an EfficientNet or a ConvNeXt"
            ) from None
        for level in levels:
            shape = channels_first(encoder, features[level.output]).shape
            if shape[1] != level.channels:
                raise UsageError(
                    f"{option('encoder', name)}: its features have another shape than timm says: {tuple(shape)}"
                )


def parameters_of_levels(name: str, *, stride: int) -> set[str]:
    """Return the names of the parameters on which an encoder's features up to a stride, in pixels, depend.

    Found in autograd's graph of a pass on the meta device: it holds for any network.
    """
    with torch.device("meta"):
        encoder = create_encoder(name)
        levels = feature_levels(name, encoder)
        image = torch.empty(2, 3, 2 * levels[-1].stride, 2 * levels[-1].stride)
    features = encoder(image)
    names = {parameter: each for each, parameter in encoder.named_parameters()}
    found = set[str]()
    seen = set[Any]()
    waiting = [features[level.output].grad_fn for level in levels if level.stride <= stride]
    while waiting:
        function = waiting.pop()
        if function is None or function in seen:
            continue
        seen.add(function)
        if (parameter := getattr(function, "variable", None)) is not None:
            found.add(names[parameter])
        waiting += [following for following, _ in function.next_functions]
    return found


@contextlib.contextmanager
def constant_padding() -> Iterator[None]:
    """Let timm's layers with TensorFlow's "same" padding (tf_efficientnet_lite0, BiT) pad without looking at the sides.

    Of symbolic sides an exporter would carry the padding of every layer in those of all later ones: it never ends.
    Sides that are multiples of the encoder's stride, as here, are multiples of each layer's stride, too. Then the
    padding, max(0, (ceil(side / stride) - 1) stride + (kernel - 1) dilation + 1 - side), depends on no side.
    """

    def pad(
        x: torch.Tensor,
        kernel: Sequence[int],
        stride: Sequence[int],
        dilation: Sequence[int] = (1, 1),
        value: float = 0,
    ) -> torch.Tensor:
        high, wide = (max(0, (k - 1) * d + 1 - s) for k, s, d in zip(kernel, stride, dilation, strict=True))
        return F.pad(x, (wide // 2, wide - wide // 2, high // 2, high - high // 2), value=value)

    layers: list[Any] = [module for name, module in sys.modules.items() if name.startswith("timm.layers.")]
    originals = [(module, module.pad_same) for module in layers if hasattr(module, "pad_same")]
    for module, _ in originals:
        module.pad_same = pad
    try:
        yield
    finally:
        for module, original in originals:
            module.pad_same = original


def silence_timm() -> None:
    """Let timm's loader, once it is imported, say nothing of what this program checks and says itself.

    Nor the hub's client, which writes each attempt to reach the hub.
    """
    for library in ("timm", "huggingface_hub"):  # the latter sets its level when it is imported
        logging.getLogger(library).setLevel(logging.ERROR)
