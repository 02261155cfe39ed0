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
from petseg.inference.network_inputs import network_input, same_sizes
from petseg.inference.probabilities import class_probabilities, resize_probabilities, resized_strips
from petseg.nets.factory import build_model, place
from petseg.runs.checkpoint import load_checkpoint, load_weights
from petseg.runs.recipe import Recipe, parse_run_size
from petseg.runs.run_folder import find_checkpoint
from shards.format.geometry import Size
from shards.format.labels import Labels


@dataclass(frozen=True)
class Prediction:
    """A network's prediction for one image of H x W pixels.

    Attributes:
        index: predicted class indices 0..N-1: uint8 (H, W).
        coarse: probabilities at the network's size, float32 (N, h, w), of the image without padding.
        labels: the classes.
    """

    index: npt.NDArray[np.uint8]
    coarse: torch.Tensor
    labels: Labels

    @property
    def mask(self) -> npt.NDArray[np.uint8]:
        """The prediction as the dataset's own masks have it: its values, uint8 (H, W), or RGB, uint8 (H, W, 3)."""
        table = self.labels.source_palette if self.labels.rgb else self.labels.source_values
        return table[self.index]

    @property
    def probabilities(self) -> npt.NDArray[np.float32]:
        """Float32 (N, H, W), in class order, summing to 1; recomputed at each access, 4 N bytes per pixel."""
        height, width = self.index.shape
        return resize_probabilities(self.coarse[None], height, width)[0].cpu().numpy()


class Predictor:
    """A network from a checkpoint; made by :func:`load`.

    Attributes:
        model: in evaluation mode, on its device.
        recipe: what it was trained with.
        labels: the classes that it predicts.
        size: (height, width) of the images given to the network, pixels; how they are fitted into it is
            ``recipe.fit``.
        source: the checkpoint's path.
    """

    def __init__(
        self, model: nn.Module, *, recipe: Recipe, labels: Labels, placement: Placement, source: Path, size: Size
    ) -> None:
        self.model, self.recipe, self.labels = model, recipe, labels
        self.placement, self.source, self.size = placement, source, size

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
        inputs = [network_input(image, size=self.size, fit=self.recipe.fit) for image in images]
        found: dict[int, Prediction] = {}
        for group in same_sizes(inputs):
            batch = torch.from_numpy(np.stack([inputs[i].pixels for i in group])).permute(0, 3, 1, 2)
            batch = batch.to(self.placement.device)
            maps = class_probabilities(self.model, batch, placement=self.placement, flip_tta=flip_tta)
            for i, coarse in zip(group, maps, strict=True):
                image = coarse[:, inputs[i].rows, inputs[i].columns]
                found[i] = self._upscale(image, images[i].height, images[i].width)
        return [found[i] for i in range(len(images))]

    def _upscale(self, coarse: torch.Tensor, height: int, width: int) -> Prediction:
        """Resize probabilities (N, h, w) to an image's original resolution and take the argmax there."""
        strips = [predicted_class(fine)[0].to(torch.uint8) for fine in resized_strips(coarse[None], height, width)]
        return Prediction(index=torch.cat(strips).cpu().numpy(), coarse=coarse, labels=self.labels)


def load(
    run: str | Path,
    *,
    device: str = "auto",
    precision: Precision = "auto",
    size: int | str | Size | None = None,
    local_rank: int = 0,
) -> Predictor:
    """Load a trained network with its (averaged) weights.

    Args:
        run: a run's folder (its best checkpoint, or the last where there is no best yet), or a checkpoint.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        precision: ``auto``, ``fp32``, ``bf16`` or ``fp16``.
        size: of the images given to the network, pixels: N, (height, width) or "HxW"; None for that of its training.
        local_rank: this process's number on its machine; each process uses its own GPU.

    Raises:
        CheckpointError: there is no checkpoint, or it is damaged.
        UsageError: the device is not available, or the size is out of range.
    """
    chosen = None if size is None else parse_run_size(size)
    placement = choose_placement(choose_device(device, local_rank=local_rank), precision)
    path = find_checkpoint(Path(run))
    checkpoint = load_checkpoint(path)
    recipe = checkpoint.recipe
    model = build_model(recipe.model, load_pretrained=False)
    load_weights(model, checkpoint.weights, source=path)
    model = place(model.eval(), placement.device)
    return Predictor(
        model,
        recipe=recipe,
        labels=checkpoint.labels,
        placement=placement,
        source=path,
        size=chosen or recipe.size,
    )
