"""Loading a trained network: an image in, a mask of the same size out."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import nn

from petseg.host.device import Placement, Precision, choose_device, choose_placement
from petseg.inference.files.image_files import to_rgb
from petseg.inference.metrics import predicted_class
from petseg.inference.network_inputs import (
    WHOLE_IMAGES,
    InferenceOptions,
    NetworkInput,
    expect_moderate,
    network_input,
    same_sizes,
    scaled_input,
    scaled_size,
)
from petseg.inference.probabilities import (
    Prediction,
    class_probabilities,
    not_finite,
    resize_probabilities,
    resized_strips,
)
from petseg.inference.sliding_window import slide, windows_at_once
from petseg.nets.factory import build_model, place
from petseg.runs.checkpoint import expect_weights_of
from petseg.runs.history import History
from petseg.runs.recipe import Recipe, parse_run_size
from petseg.runs.run_folder import A_RUN, load_best
from shards.errors import UsageError, counted, option, printable
from shards.format.geometry import Size, middle_scale, size_text
from shards.format.labels import Labels
from shards.public_calls import suggests_names
from shards.store.addresses import expect_paths

Keep = Literal["all", "some", "none"]  # probabilities of a prediction in windows
_KEPT_VALUES = 1 << 25  # probabilities of an image that are kept without being asked for


class Predictor:
    """A network from a checkpoint; made by :func:`load`.

    Attributes:
        model: in evaluation mode, on its device.
        recipe: what it was trained with.
        labels: the classes that it predicts.
        size: (height, width) of the images given to the network, pixels; how they are fitted into it is
            ``recipe.fit``.
        source: the checkpoint's path.
        history: of the checkpoint: one entry per finished epoch.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        recipe: Recipe,
        labels: Labels,
        placement: Placement,
        source: Path,
        size: Size,
        history: History = (),
    ) -> None:
        self.model, self.recipe, self.labels, self.history = model, recipe, labels, history
        self.placement, self.source, self.size = placement, source, size
        self._crop_scale = None if recipe.crop_scale is None else middle_scale(recipe.crop_scale)

    def __repr__(self) -> str:
        classes, where = counted(len(self.labels), "class", "classes"), printable(self.source)
        return f"<Predictor: {self.recipe.network_text}, {classes}, size {size_text(self.size)}, from {where}>"

    @suggests_names
    def predict(
        self,
        image: str | Path | Image.Image | npt.NDArray[np.uint8],
        *,
        flip_tta: bool = False,
        scales: Sequence[float] = (1.0,),
        window: int | str | Size | None = None,
        overlap: float | None = None,
    ) -> Prediction:
        """Segment one image, at its original resolution.

        Args:
            image: a path, a PIL image, or uint8 (H, W, 3). EXIF orientation is applied.
            flip_tta: average with the prediction of the horizontally flipped image; takes twice the time.
            scales: average the predictions of inputs whose size is multiplied by these factors.
            window: slide windows of this size, in image pixels, over the image: N, (height, width), "HxW" or "auto",
                the size of the network's input.
            overlap: of windows, as a share of their side.

        Raises:
            SampleError: the file is not an image that can be decoded.
            UsageError: an option is out of range.
            PetsegError: the network's outputs are not finite.
        """
        options = InferenceOptions.of(window=window, overlap=overlap, scales=scales, flip_tta=flip_tta)
        return self.predict_batch([to_rgb(image)], options)[0]

    def window(self, options: InferenceOptions) -> Size | None:
        """Return the windows that options ask for, (height, width) in image pixels; None: images are not divided.

        A network that was trained on crops is always given windows: a whole image would have another scale. Raises
        ``UsageError`` where there are none, and options say how they overlap.
        """
        if options.window is None and self._crop_scale is None:
            if options.overlap_given:
                raise UsageError(
                    f"{option('overlap')} is for {option('window')}, and without that this run takes whole images"
                )
            return None
        if options.window is None or options.window == "auto":
            return scaled_size(self.size, 1 / (self._crop_scale or 1.0))
        return options.window

    def window_advice(self, options: InferenceOptions) -> str | None:
        """Return what to say of windows that show less of an image than training did, at another scale."""
        window = self.window(options)
        if self._crop_scale is not None or window != self.size:
            return None
        return (
            f"{printable(self.source)} was trained on whole images brought to {size_text(self.recipe.size)} pixels: "
            f"windows of {size_text(window)} show parts of larger ones, and usually score lower; omit "
            f"{option('window')}, or train with {option('crop_scale')}"
        )

    def may_refuse(self, options: InferenceOptions) -> bool:
        """Whether there are sizes of images that :meth:`check` refuses."""
        return self.window(options) is None and self.recipe.fit == "cover"

    def check(self, image_size: Size, options: InferenceOptions) -> None:
        """Raise ``SampleError`` for an image that cannot be predicted whole; what is predicted is checked anyway."""
        if self.may_refuse(options):
            expect_moderate(image_size, size=scaled_size(self.size, max(options.scales)))

    def predict_batch(
        self,
        images: Sequence[Image.Image],
        options: InferenceOptions = WHOLE_IMAGES,
        *,
        batch_size: int = 8,
        keep: Keep = "some",
    ) -> list[Prediction]:
        """Segment RGB images of any sizes together; see :meth:`predict`.

        ``batch_size`` is the number of windows that are predicted together. ``keep``: which probabilities of a
        prediction in windows are needed: of all pixels, however much memory that takes, of some, or none.
        """
        return list(self.predict_each(images, options, batch_size=batch_size, keep=keep))

    def predict_each(
        self, images: Sequence[Image.Image], options: InferenceOptions, *, batch_size: int, keep: Keep = "some"
    ) -> Iterator[Prediction]:
        """Yield the same one by one: those in windows, which may be large, need not be in memory together."""
        window = self.window(options)
        for image in images:
            self.check((image.height, image.width), options)
        if window is not None:
            for image in images:
                yield self._slide(image, window, options, batch_size=batch_size, keep=keep)
            return
        for image, coarse in zip(images, self._maps(images, options), strict=True):
            yield self._upscale(coarse, image.height, image.width)

    def _maps(self, images: Sequence[Image.Image], options: InferenceOptions) -> list[torch.Tensor]:
        """Return each image's probabilities, (N, h, w), averaged at the resolution of its largest input."""
        found: list[list[torch.Tensor]] = [[] for _ in images]
        for factor in sorted(options.scales, reverse=True):
            inputs = [self._input(image, factor) for image in images]
            for group in same_sizes(inputs):
                batch = torch.from_numpy(np.stack([inputs[i].pixels for i in group])).permute(0, 3, 1, 2)
                batch = batch.to(self.placement.device)
                maps = class_probabilities(self.model, batch, placement=self.placement, flip_tta=options.flip_tta)
                if not bool(torch.isfinite(maps).all()):
                    raise not_finite(self.placement)
                for i, coarse in zip(group, maps, strict=True):
                    found[i].append(coarse[:, inputs[i].rows, inputs[i].columns])
        return [_mean(maps) for maps in found]

    def _input_size(self, window: Size, factor: float) -> Size:
        """Return about how large the network's input for a window is."""
        return scaled_size(*((self.size, factor) if self._crop_scale is None else (window, self._crop_scale * factor)))

    def _input(self, image: Image.Image, factor: float) -> NetworkInput:
        if self._crop_scale is not None:
            return scaled_input(image, scale=self._crop_scale * factor)
        return network_input(image, size=scaled_size(self.size, factor), fit=self.recipe.fit)

    def _slide(
        self, image: Image.Image, window: Size, options: InferenceOptions, *, batch_size: int, keep: Keep
    ) -> Prediction:
        """Predict an image in windows; ``keep`` "some": probabilities may be kept of every n-th pixel only."""

        def predict(windows: Sequence[Image.Image]) -> torch.Tensor:
            maps = self._maps(windows, options)
            if maps[0].shape[1:] == window:
                return torch.stack(maps)
            return torch.cat([resize_probabilities(each[None], *window) for each in maps])

        inputs = window, *(self._input_size(window, factor) for factor in options.scales)
        at_once = windows_at_once(
            max(inputs, key=math.prod), classes=len(self.labels), batch_size=batch_size, on_gpu=self.placement.on_gpu
        )
        classes, (height, width) = len(self.labels), (image.height, image.width)
        index = np.empty((height, width), np.uint8)
        every = 1 if keep == "all" else math.ceil(math.sqrt(classes * height * width / _KEPT_VALUES))
        sides = (0, 0) if keep == "none" else (height, width)
        kept_rows, kept_columns = (np.arange(min(every // 2, max(side - 1, 0)), side, every) for side in sides)
        coarse = torch.empty(classes, len(kept_rows), len(kept_columns))
        for block in slide(image, predict, window=window, overlap=options.overlap, at_once=at_once):
            bottom, right = block.top + block.values.shape[1], block.left + block.values.shape[2]
            winners = predicted_class(block.values[None])[0]
            index[block.top : bottom, block.left : right] = winners.to(torch.uint8).cpu().numpy()
            rows = slice(*np.searchsorted(kept_rows, (block.top, bottom)))
            columns = slice(*np.searchsorted(kept_columns, (block.left, right)))
            values = block.values[:, kept_rows[rows] - block.top]
            coarse[:, rows, columns] = values[:, :, kept_columns[columns] - block.left].cpu()
        return Prediction(index=index, coarse=coarse, labels=self.labels)

    def _upscale(self, coarse: torch.Tensor, height: int, width: int) -> Prediction:
        """Resize probabilities (N, h, w) to an image's original resolution and take the argmax there."""
        strips = [predicted_class(fine)[0].to(torch.uint8) for fine in resized_strips(coarse[None], height, width)]
        return Prediction(index=torch.cat(strips).cpu().numpy(), coarse=coarse, labels=self.labels)


def _mean(maps: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return the mean of probabilities (N, h, w) at the resolution of the first."""
    if len(maps) == 1:
        return maps[0]
    total = maps[0].clone()
    for each in maps[1:]:
        total += resize_probabilities(each[None], *total.shape[1:])[0]
    return total / len(maps)


@suggests_names
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
    expect_paths(A_RUN, run=run)
    chosen = None if size is None else parse_run_size(size)
    placement = choose_placement(choose_device(device, local_rank=local_rank), precision)
    checkpoint = load_best(Path(run))
    recipe, path = checkpoint.recipe, checkpoint.source or Path(run)
    with torch.device("meta"):  # first, since what a checkpoint says that its network is may be huge
        expect_weights_of(build_model(recipe.model), checkpoint.weights, source=path)
    model = build_model(recipe.model)
    model.load_state_dict(checkpoint.weights)
    model = place(model.eval(), placement.device)
    return Predictor(
        model,
        recipe=recipe,
        labels=checkpoint.labels,
        placement=placement,
        source=path,
        size=chosen or recipe.size,
        history=checkpoint.history,
    )
