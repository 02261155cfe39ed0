"""How the training of an encoder begins: with weights that rank 0 reads, and frozen for the first epochs."""

from pathlib import Path

import msgspec
import torch
from torch import distributed as dist
from torch import nn

from petseg.host.distributed import World
from petseg.nets.encoder_unet import EncoderUNet
from petseg.nets.encoder_weights import EncoderWeights, file_digest, read_encoder_weights
from petseg.nets.model_config import IMAGENET, NO_ENCODER, NO_WEIGHTS, TORCHVISION
from petseg.nets.timm_encoders import check_encoder
from petseg.runs.recipe import Recipe
from shards.errors import UsageError, option


class EncoderStart:
    """The weights that a new run's encoder starts from; made before anything is written, so that errors come first.

    ``recipe`` is the run's with the digest of the file of weights. Rank 0 reads or fetches them, the others receive
    them when this is called with the network. Where a checkpoint is ``resumed``, which has them, it does nothing.
    """

    def __init__(self, recipe: Recipe, world: World, *, resumed: bool = False) -> None:
        self.recipe, self._world, self._needed = recipe, world, not resumed and recipe.encoder_weights != NO_WEIGHTS
        self._weights: EncoderWeights | None = None
        if resumed or not world.first:
            return
        _check(recipe)
        if self._needed:
            self._weights = read_encoder_weights(recipe.model.encoder, recipe.encoder_weights)
            if recipe.encoder_weights != IMAGENET:
                digest = file_digest(Path(recipe.encoder_weights))
                self.recipe = msgspec.structs.replace(recipe, encoder_sha256=digest)

    def __call__(self, model: nn.Module) -> None:
        """Put the weights into a network, on every rank."""
        if not self._needed:
            return
        assert isinstance(model, EncoderUNet)
        if self._weights is not None:
            self._weights.copy_to(model)
        if self._world.size > 1:
            _copy_from_first([*model.encoder.state_dict().values(), *model.normalise.buffers()])


def hold_encoder(model: nn.Module, recipe: Recipe) -> None:
    """Leave out of training what the recipe says of the encoder; before the optimiser is made."""
    if recipe.encoder_freeze_stride:
        assert isinstance(model, EncoderUNet)
        model.hold_encoder(recipe.encoder_freeze_stride)


class FrozenEncoder:
    """Keeps a network's encoder as it is for the first ``steps`` steps of a run."""

    def __init__(self, model: nn.Module, *, steps: int) -> None:
        self._model, self._steps = model, steps
        if steps:
            assert isinstance(model, EncoderUNet)
            model.freeze_encoder(True)

    def advance(self, step: int) -> bool:
        """Freeze or train the encoder as step ``step`` (from 0) requires; return whether that is a change."""
        frozen = step < self._steps
        if not isinstance(self._model, EncoderUNet) or self._model.frozen == frozen:
            return False
        self._model.freeze_encoder(frozen)
        return True


def _check(recipe: Recipe) -> None:
    """Raise ``UsageError`` for an encoder that cannot be used, or not with the other options."""
    name = recipe.model.encoder
    if name.startswith(TORCHVISION) and recipe.encoder_weights != NO_WEIGHTS:
        other = name.removeprefix(TORCHVISION)
        raise UsageError(
            f"{option('encoder', name)} is version 1's network, without weights; use {option('encoder', other)}"
        )
    if name != NO_ENCODER and not name.startswith(TORCHVISION):
        check_encoder(name, norm=recipe.model.norm)
        if recipe.model.decoder_widths:
            with torch.device("meta"):
                EncoderUNet(recipe.model)


@torch.no_grad()
def _copy_from_first(tensors: list[torch.Tensor]) -> None:
    """Copy rank 0's tensors into those of the other ranks, in one transfer for each type."""
    for kind in {tensor.dtype: None for tensor in tensors}:
        own = [tensor for tensor in tensors if tensor.dtype == kind]
        flat = torch.cat([tensor.reshape(-1) for tensor in own])
        dist.broadcast(flat, src=0)
        for tensor, part in zip(own, torch.split(flat, [tensor.numel() for tensor in own]), strict=True):
            tensor.copy_(part.view(tensor.shape))
