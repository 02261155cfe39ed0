"""Weights that an encoder starts from: timm's ImageNet weights, or a file with timm's names."""

import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from petseg.host.tensor_archive import check_finite, read_safetensors, read_tensors
from petseg.nets.encoder_unet import EncoderUNet
from petseg.nets.model_config import IMAGENET
from petseg.nets.timm_encoders import create_classifier, create_encoder, import_timm, silence_timm
from shards.errors import PetsegError, UsageError, first_line, is_out_of_memory, listed, option, spelled
from shards.store.atomic import file_sha256

State = dict[str, torch.Tensor]

_NESTED = ("state_dict", "model")  # under which timm's and torchvision's own training scripts keep weights
_COUNTER = "num_batches_tracked"  # of batch normalisation; old files lack it, and nothing here depends on it
_SHOWN = 4  # names in a message


@dataclass(frozen=True, kw_only=True)
class EncoderWeights:
    """What an encoder starts from.

    Attributes:
        tensors: by the names of the encoder's own ``state_dict``.
        mean: of red, green and blue, of the images that it was trained with, in units of an 8-bit pixel (0..255).
        std: likewise, the standard deviations.
    """

    tensors: State
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @torch.no_grad()
    def copy_to(self, model: nn.Module) -> None:
        """Put them, and the constants of its normalisation, into a network."""
        assert isinstance(model, EncoderUNet)
        model.encoder.load_state_dict(self.tensors)
        model.normalise.set_constants(self.mean, self.std)


def read_encoder_weights(encoder: str, weights: str) -> EncoderWeights:
    """Read the weights of an encoder: ``imagenet``, which timm fetches unless they are in its cache, or a file.

    Raises:
        UsageError: there is no such file, timm has no weights of this encoder, or the file's do not fit it.
        PetsegError: the weights cannot be fetched.
    """
    timm = import_timm()
    silence_timm()
    config = timm.get_pretrained_cfg(encoder) or timm.get_pretrained_cfg(encoder.partition(".")[0])
    if weights == IMAGENET:
        network = _fetched(encoder, config)
    else:
        found = read_state(Path(weights))
        network = _filled(encoder, found, file=weights, head=_names(config.classifier if config else ()))
    mean, std = (config.mean, config.std) if config else ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    return EncoderWeights(
        tensors=network.state_dict(),
        mean=tuple(255.0 * value for value in mean),
        std=tuple(255.0 * value for value in std),
    )


def read_state(path: Path) -> State:
    """Read a file of weights, safetensors or a ``state_dict`` saved by torch, without executing any code from it."""
    if not path.is_file():
        raise UsageError(f"{option('encoder_weights', path)}: no such file; give imagenet, none, or a file of weights")
    try:
        if path.suffix == ".safetensors":
            document: Any = read_safetensors(path)[1]
        else:
            document = read_tensors(path, old=True)
    except ImportError:
        raise PetsegError(
            spelled("--encoder-weights: safetensors is missing; pip install 'petseg[encoders]'")
        ) from None
    except Exception as error:  # damage raises any of a dozen types, from zip files to unpickling
        if is_out_of_memory(error):
            raise
        raise UsageError(
            f"{option('encoder_weights', path)} is neither safetensors nor a state_dict ({first_line(error)})"
        ) from None
    for name in _NESTED:
        if isinstance(document, dict) and isinstance(document.get(name), dict):
            document = document[name]
    if not isinstance(document, dict) or not document or not all(map(torch.is_tensor, document.values())):
        raise UsageError(f"{option('encoder_weights', path)} holds no tensors by name: it is no state_dict")
    state = {name.removeprefix("module."): tensor for name, tensor in document.items()}
    try:
        check_finite(state)
        state = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in state.items()}
        check_finite(state)  # once more: float64 may be more than float32 holds
    except ValueError as error:
        raise UsageError(f"{option('encoder_weights', path)}: {error}") from None
    return state


def file_digest(path: Path) -> str:
    """Return a file's SHA-256 in hexadecimal; ``UsageError`` if it cannot be read."""
    try:
        return file_sha256(path)
    except OSError as error:
        raise UsageError(
            f"{option('encoder_weights', path)} cannot be read ({error.strerror or error}); give imagenet, none, or a "
            "file"
        ) from None


def _fetched(encoder: str, config: Any) -> nn.Module:
    if config is None or not config.has_weights:
        raise UsageError(
            f"{option('encoder_weights', 'imagenet')}: timm has no weights of {encoder}; give none, or a file"
        )
    try:
        with warnings.catch_warnings(action="ignore"):
            return create_encoder(encoder, pretrained=True)
    except UsageError:
        raise
    except Exception as error:  # of several libraries for HTTP, and of damaged files
        if is_out_of_memory(error):
            raise
        where = f"https://huggingface.co/{config.hf_hub_id}" if config.hf_hub_id else config.url
        raise PetsegError(
            f"the ImageNet weights of {encoder} cannot be fetched ({first_line(error)}). Without internet, download "
            f"model.safetensors from {where} elsewhere and name it with {spelled('--encoder-weights=FILE')}, or copy "
            "a filled cache and set HF_HOME"
        ) from None


def _filled(encoder: str, state: State, *, file: str, head: tuple[str, ...]) -> nn.Module:
    """Return an encoder with the weights of a file, which has the names of the whole network or of the encoder."""
    network = create_encoder(encoder)
    own = network.state_dict()
    state = {name: tensor for name, tensor in state.items() if not name.startswith(tuple(f"{one}." for one in head))}
    with torch.device("meta"):
        whole = create_classifier(encoder).state_dict()
    # Most encoders name their tensors as the whole network does; convnext has stages_0 where that has stages.0.
    renamed = own.keys() - whole.keys()
    needed = whole if renamed and not renamed & state.keys() else own
    missing = [name for name in needed if name not in state and not name.endswith(_COUNTER)]
    unexpected = [name for name in state if name not in whole and name not in needed]
    mismatched = [
        f"{name} ({_shape(state[name])}, not {_shape(needed[name])})"
        for name in needed
        if name in state and state[name].shape != needed[name].shape
    ]
    strange = [  # quantised weights are no weights of this network, without their scales
        f"{name} ({str(state[name].dtype).removeprefix('torch.')})"
        for name in needed
        if name in state and needed[name].is_floating_point() and not state[name].is_floating_point()
    ]
    problems = {"missing": missing, "unexpected": unexpected, "of another shape": mismatched, "of integers": strange}
    if any(problems.values()):
        text = "; ".join(f"{_some(names)} {what}" for what, names in problems.items() if names)
        raise UsageError(f"{option('encoder_weights', file)} does not fit {option('encoder', encoder)}: {text}")
    if needed is own:
        network.load_state_dict({name: state.get(name, own[name]) for name in own})
        return network
    complete = {name: state.get(name, torch.zeros((), dtype=torch.int64)) for name in whole}
    # timm itself carries the names of the whole network over to those of its features.
    return create_encoder(encoder, pretrained=True, pretrained_cfg_overlay={"state_dict": complete})


def _names(classifier: str | Iterable[str] | None) -> tuple[str, ...]:
    return (classifier,) if isinstance(classifier, str) else tuple(classifier or ())


def _some(names: list[str]) -> str:
    return f"{listed(names, most=_SHOWN)} {'is' if len(names) == 1 else 'are'}"


def _shape(tensor: torch.Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"
