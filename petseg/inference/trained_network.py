"""Loading a trained network: an image in, a mask of the same size out."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import nn

from petseg.host.device import Placement, Precision, choose_device, choose_placement
from petseg.inference.image_files import to_rgb
from petseg.inference.metrics import predicted_class
from petseg.inference.probabilities import class_probabilities, resize_probabilities, resized_strips
from petseg.nets.factory import build_model, place
from petseg.nets.model_config import MAX_SIZE, MIN_SIZE
from petseg.runs.checkpoint import CheckpointError, load_checkpoint
from petseg.runs.recipe import Recipe, recipe_from
from petseg.runs.run_folder import BEST, LAST
from shards.errors import UsageError


@dataclass(frozen=True)
class Prediction:
    """A network's prediction for one image of H x W pixels.

    Attributes:
        mask: 1 animal, 2 background, 3 border, as in the dataset: uint8 (H, W).
        coarse: probabilities at the network's size, float32 (3, S, S).
    """

    mask: npt.NDArray[np.uint8]
    coarse: torch.Tensor

    @property
    def probabilities(self) -> npt.NDArray[np.float32]:
        """Float32 (3, H, W), in class order, summing to 1; recomputed at each access, 12 bytes per pixel."""
        height, width = self.mask.shape
        return resize_probabilities(self.coarse[None], height, width)[0].cpu().numpy()


class Predictor:
    """A network from a checkpoint; made by :func:`load`.

    Attributes:
        model: in evaluation mode, on its device.
        recipe: what it was trained with.
        size: side of the images given to the network, pixels.
        source: the checkpoint's path.
    """

    def __init__(self, model: nn.Module, *, recipe: Recipe, placement: Placement, source: Path, size: int) -> None:
        self.model, self.recipe, self.placement, self.source, self.size = model, recipe, placement, source, size

    def predict(self, image: str | Path | Image.Image | npt.NDArray[np.uint8], *, flip_tta: bool = False) -> Prediction:
        """Segment one image, at its original resolution.

        Args:
            image: a path, a PIL image, or uint8 (H, W, 3). EXIF orientation is applied.
            flip_tta: average with the prediction of the horizontally flipped image; takes twice the time.

        Raises:
            SampleError: the file is not an image that can be decoded.
        """
        return self.predict_batch([to_rgb(image)], flip_tta=flip_tta)[0]

    def predict_batch(self, images: list[Image.Image], *, flip_tta: bool = False) -> list[Prediction]:
        """Segment RGB images of any sizes together; see :meth:`predict`."""
        # Stretched and antialiased, as the training pipeline does it.
        small = [np.asarray(i.resize((self.size, self.size), Image.Resampling.BILINEAR)) for i in images]
        batch = torch.from_numpy(np.stack(small)).permute(0, 3, 1, 2).to(self.placement.device)
        coarse = class_probabilities(self.model, batch, placement=self.placement, flip_tta=flip_tta)
        return [_upscale(part, image.height, image.width) for part, image in zip(coarse, images, strict=True)]


def _upscale(coarse: torch.Tensor, height: int, width: int) -> Prediction:
    """Resize probabilities (3, S, S) to an image's original resolution and take the argmax there."""
    strips = [predicted_class(fine)[0].to(torch.uint8) + 1 for fine in resized_strips(coarse[None], height, width)]
    return Prediction(mask=torch.cat(strips).cpu().numpy(), coarse=coarse)


def load(
    run: str | Path,
    *,
    device: str = "auto",
    precision: Precision = "auto",
    size: int | None = None,
    local_rank: int = 0,
) -> Predictor:
    """Load a trained network with its (averaged) weights.

    Args:
        run: a run's folder (its best checkpoint, or the last where there is no best yet), or a checkpoint.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        precision: ``auto``, ``fp32``, ``bf16`` or ``fp16``.
        size: side of the images given to the network, pixels; None for the size of its training.
        local_rank: this process's number on its machine; each process uses its own GPU.

    Raises:
        CheckpointError: there is no checkpoint, or it is damaged.
        UsageError: the device is not available, or the size is out of range.
    """
    if size is not None and not MIN_SIZE <= size <= MAX_SIZE:
        raise UsageError(f"--size {size}: give a number from {MIN_SIZE} to {MAX_SIZE}")
    placement = choose_placement(choose_device(device, local_rank=local_rank), precision)
    path = _find_checkpoint(Path(run))
    checkpoint = load_checkpoint(path)
    recipe = recipe_from(checkpoint.config)
    model = build_model(recipe.model, load_pretrained=False)
    try:
        model.load_state_dict(checkpoint.weights)
    except (RuntimeError, AttributeError, TypeError) as error:
        raise CheckpointError(f"{path} is damaged: {str(error).splitlines()[0]}") from None
    model = place(model.eval(), placement.device)
    return Predictor(model, recipe=recipe, placement=placement, source=path, size=size or recipe.size)


def _find_checkpoint(run: Path) -> Path:
    if run.is_file():
        return run
    if not run.is_dir():
        raise CheckpointError(f"no such run: {run}; name the folder that petseg-train made, or a checkpoint")
    for name in (BEST, LAST):
        if (run / name).is_file():
            return run / name
    raise CheckpointError(f"{run} holds no checkpoint ({BEST} or {LAST}); train first, with petseg-train --run {run}")
