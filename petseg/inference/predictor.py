"""A trained network, ready to use: a picture in, a mask of the same size out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

from petseg.host.device import Placement, Precision, choose_device, choose_placement
from petseg.inference.image_files import to_rgb
from petseg.inference.metrics import likeliest_class
from petseg.inference.probabilities import class_probabilities
from petseg.nets.factory import build_model, place
from petseg.nets.model_config import MAX_SIZE, MIN_SIZE
from petseg.runs.checkpoint import Checkpoint, CheckpointError, load_checkpoint
from petseg.runs.recipe import Recipe, recipe_from
from petseg.runs.run_folder import BEST, LAST
from shards.errors import UsageError

Mask = npt.NDArray[np.uint8]
_STRIP_PIXELS = 2_000_000


@dataclass(frozen=True)
class Prediction:
    """What a network sees in one picture of H x W pixels.

    Attributes:
        mask: the trimaps' values, 1 animal, 2 background, 3 border: uint8 (H, W).
        coarse: probabilities at the network's size, float32 (3, S, S).
    """

    mask: Mask
    coarse: torch.Tensor

    @property
    def probabilities(self) -> npt.NDArray[np.float32]:
        """Float32 (3, H, W), in class order, summing to 1; computed anew each time, 12 bytes a pixel."""
        height, width = self.mask.shape
        return resize_probabilities(self.coarse[None], height, width)[0].cpu().numpy()


class Predictor:
    """A network from a checkpoint; made by :func:`load`.

    Attributes:
        model: in evaluation mode, on its device.
        recipe: what it was trained with.
        size: side of the pictures given to the network.
        source: the checkpoint's path.
    """

    def __init__(self, model: nn.Module, *, recipe: Recipe, placement: Placement, source: Path, size: int) -> None:
        self.model, self.recipe, self.placement, self.source, self.size = model, recipe, placement, source, size

    def predict(self, picture: str | Path | Image.Image | npt.NDArray[np.uint8], *, mirror: bool = False) -> Prediction:
        """Segment one picture, at its own resolution.

        Args:
            picture: a path, a PIL image, or uint8 (H, W, 3). EXIF orientation is applied.
            mirror: average with the mirrored picture's prediction; costs twice the time.

        Raises:
            SampleError: the file is not a picture that can be decoded.
        """
        return self.predict_batch([to_rgb(picture)], mirror=mirror)[0]

    def predict_batch(self, pictures: list[Image.Image], *, mirror: bool = False) -> list[Prediction]:
        """Segment RGB pictures of any sizes together; see :meth:`predict`."""
        # Squashed and antialiased, as the training pipeline does it.
        small = [np.asarray(p.resize((self.size, self.size), Image.Resampling.BILINEAR)) for p in pictures]
        image = torch.from_numpy(np.stack(small)).permute(0, 3, 1, 2).to(self.placement.device)
        coarse = class_probabilities(self.model, image, placement=self.placement, mirror=mirror)
        return [_enlarge(part, p.height, p.width) for part, p in zip(coarse, pictures, strict=True)]


def _enlarge(coarse: torch.Tensor, height: int, width: int) -> Prediction:
    """Resize probabilities (3, S, S) to a picture's own size, and decide there."""
    strips = [likeliest_class(fine)[0].to(torch.uint8) + 1 for fine in _resized_strips(coarse[None], height, width)]
    return Prediction(mask=torch.cat(strips).cpu().numpy(), coarse=coarse)


def resize_probabilities(coarse: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Resize probabilities (B, 3, h, w) bilinearly to (B, 3, height, width), antialiased where that is smaller."""
    return torch.cat(list(_resized_strips(coarse, height, width)), dim=2)


def _resized_strips(coarse: torch.Tensor, height: int, width: int) -> Iterator[torch.Tensor]:
    """Yield the rows of the resized probabilities, strip by strip: a huge picture needs no huge tensor."""
    if height <= coarse.shape[2]:
        yield _interpolate(coarse, height, width)
        return
    wide = _interpolate(coarse, coarse.shape[2], width)
    rows = max(1, _STRIP_PIXELS // width)
    for start in range(0, height, rows):
        # Bilinear is separable; a row lies between two rows of the coarse map, pixel centres on pixel centres.
        row = torch.arange(start, min(start + rows, height), device=coarse.device, dtype=torch.float64)
        place = ((row + 0.5) * (coarse.shape[2] / height) - 0.5).clamp(0, coarse.shape[2] - 1)
        above = place.long()
        below = (above + 1).clamp(max=coarse.shape[2] - 1)
        share = (place - above).to(coarse.dtype).view(1, 1, -1, 1)
        yield torch.lerp(wide[:, :, above], wide[:, :, below], share)


def _interpolate(coarse: torch.Tensor, height: int, width: int) -> torch.Tensor:
    return F.interpolate(coarse, size=(height, width), mode="bilinear", align_corners=False, antialias=True)


def load(
    run: str | Path,
    *,
    device: str = "auto",
    precision: Precision = "auto",
    size: int | None = None,
    local_rank: int = 0,
) -> Predictor:
    """Load a trained network.

    Args:
        run: a run's folder (its best checkpoint is taken, or the last where there is no best yet), or a checkpoint.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        precision: ``auto``, ``fp32``, ``bf16`` or ``fp16``.
        size: side of the pictures given to the network; None for the size of its training.
        local_rank: which of this machine's processes this is; each gets a GPU of its own.

    Raises:
        CheckpointError: there is no checkpoint, or it is damaged.
        UsageError: the device is not there, or the size is impossible.
    """
    if size is not None and not MIN_SIZE <= size <= MAX_SIZE:
        raise UsageError(f"--size {size}: give a number from {MIN_SIZE} to {MAX_SIZE}")
    placement = choose_placement(choose_device(device, local_rank=local_rank), precision)
    path = find_checkpoint(Path(run))
    checkpoint = load_checkpoint(path)
    recipe = recipe_from(checkpoint.config)
    model = place(restore_model(checkpoint, path), placement.device)
    return Predictor(model, recipe=recipe, placement=placement, source=path, size=size or recipe.size)


def find_checkpoint(run: Path) -> Path:
    """Return the checkpoint to use of a run's folder, or ``run`` itself if that is a file.

    Raises:
        CheckpointError: there is none.
    """
    if run.is_file():
        return run
    if not run.is_dir():
        raise CheckpointError(f"no such run: {run}; name the folder that petseg-train made, or a checkpoint")
    for name in (BEST, LAST):
        if (run / name).is_file():
            return run / name
    raise CheckpointError(f"{run} holds no checkpoint ({BEST} or {LAST}); train first, with petseg-train --run {run}")


def restore_model(checkpoint: Checkpoint, path: Path) -> nn.Module:
    """Build the network of a checkpoint with its (averaged) weights, in evaluation mode, on the CPU.

    Raises:
        CheckpointError: the weights do not fit the architecture that the checkpoint states.
    """
    model = build_model(recipe_from(checkpoint.config).model, load_pretrained=False)
    try:
        model.load_state_dict(checkpoint.weights)
    except (RuntimeError, AttributeError, TypeError) as error:
        raise CheckpointError(f"{path} is damaged: {str(error).splitlines()[0]}") from None
    return model.eval()
