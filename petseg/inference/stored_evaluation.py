"""Scoring a network on the images as they are stored: each is predicted as an image file would be."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from petseg.host.distributed import World
from petseg.inference.evaluation import Evaluation, PixelTally
from petseg.inference.metrics import confusion
from petseg.inference.network_inputs import InferenceOptions
from petseg.inference.sliding_window import is_padded
from petseg.inference.stored_samples import read_mask, read_rgb
from petseg.inference.trained_network import Predictor
from pipeline.arguments import usable_cores
from shards import SampleError, SplitReader
from shards.format.geometry import Size

_CPU = torch.device("cpu")
_BATCH_PIXELS = 50_000_000  # of decoded images that are in memory together, at 4 bytes per pixel with their masks
_STRIP_PIXELS = 4_000_000
_ROWS = 4096  # of the set's table that are read together

Pixels = npt.NDArray[np.uint8]


def evaluate_stored(
    predictor: Predictor,
    split: SplitReader,
    options: InferenceOptions,
    *,
    batch_size: int,  # global: all ranks together; has no influence on the scores
    world: World,
    after_batch: Callable[[int], None],
) -> Evaluation:
    """Score a network at the stored images' own sizes; see :func:`petseg.inference.evaluation.evaluate`.

    Raises ``SampleError`` for a sample that cannot be decoded.
    """
    classes = len(predictor.labels)
    tally = PixelTally(classes, _CPU)
    if predictor.may_refuse(options):
        _check_sizes(predictor, split, options)

    def read(index: int) -> tuple[Image.Image, Pixels]:
        return read_rgb(split, index), read_mask(split, index)

    with ThreadPoolExecutor(usable_cores()) as pool:
        for start in range(0, len(split), batch_size):
            end = min(start + batch_size, len(split))
            mine = range(start, end)[world.rank :: world.size]
            for part in _within_memory(split, mine):
                images, masks = zip(*pool.map(read, part), strict=True)
                predictions = predictor.predict_each(images, options, batch_size=batch_size, keep="none")
                for index, prediction, mask in zip(part, predictions, masks, strict=True):
                    counted = _count_pixels(mask, prediction.index, classes=classes)
                    tally.add(torch.tensor([index]), torch.tensor([True]), counted)
            after_batch(end - start)
    matrix, counts = tally.gather(world, samples=len(split))
    window = predictor.window(options)
    padded = sum(is_padded(size, window) for size in _sizes(split)) if window else 0
    return Evaluation(
        labels=predictor.labels,
        matrix=matrix,
        counts=counts,
        loss=None,
        size=predictor.size,
        precision=predictor.placement.precision,
        options=options,
        window=window,
        padded=padded,
        original_resolution=True,
    )


def _sizes(split: SplitReader) -> Iterator[Size]:
    """Yield the stored size of each sample, in split order."""
    for start in range(0, len(split), _ROWS):
        for row in split.rows(list(range(start, min(start + _ROWS, len(split))))):
            yield split.manifest.size or (int(row["height"]), int(row["width"]))


def _check_sizes(predictor: Predictor, split: SplitReader, options: InferenceOptions) -> None:
    """Raise ``SampleError``, before any is predicted, for a sample that cannot be predicted whole, naming it."""
    first: dict[Size, int] = {}
    for index, size in enumerate(_sizes(split)):
        first.setdefault(size, index)
    for size, index in first.items():
        try:
            predictor.check(size, options)
        except SampleError as error:
            raise SampleError(f"{split.place(index, 'image')}: {error}") from None


def _count_pixels(truth: Pixels, prediction: Pixels, *, classes: int) -> torch.Tensor:
    """Return the confusion matrix of one image, int64 (1, N, N), counted by strips: counting takes 8 bytes a pixel."""
    rows = max(1, _STRIP_PIXELS // truth.shape[1])
    matrix = torch.zeros(1, classes, classes, dtype=torch.int64)
    for top in range(0, len(truth), rows):
        strips = (torch.from_numpy(np.array(pixels[None, top : top + rows])) for pixels in (truth, prediction))
        matrix += confusion(*strips, classes=classes)
    return matrix


def _within_memory(split: SplitReader, indices: range) -> Iterator[list[int]]:
    """Yield the indices in groups whose images together have a bounded number of pixels, or in groups of one."""
    group: list[int] = []
    pixels = 0
    for index, row in zip(indices, split.rows(list(indices)) if indices else [], strict=True):
        height, width = split.manifest.size or (int(row["height"]), int(row["width"]))
        if group and pixels + height * width > _BATCH_PIXELS:
            yield group
            group, pixels = [], 0
        group.append(index)
        pixels += height * width
    if group:
        yield group
