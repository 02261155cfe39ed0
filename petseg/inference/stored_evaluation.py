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
from petseg.inference.stored_samples import read_image, read_mask
from petseg.inference.trained_network import Predictor
from pipeline.arguments import usable_cores
from shards import SplitReader

_CPU = torch.device("cpu")
_BATCH_PIXELS = 50_000_000  # of decoded images that are in memory together, at 4 bytes per pixel with their masks

Pixels = npt.NDArray[np.uint8]


def evaluate_stored(
    predictor: Predictor,
    split: SplitReader,
    *,
    batch_size: int,  # global: all ranks together; has no influence on the scores
    world: World,
    flip_tta: bool,
    after_batch: Callable[[int], None],
) -> Evaluation:
    """Score a network at the stored images' own sizes; see :func:`petseg.inference.evaluation.evaluate`.

    Raises ``SampleError`` for a sample that cannot be decoded.
    """
    classes = len(predictor.labels)
    tally = PixelTally(classes, _CPU)

    def read(index: int) -> tuple[Image.Image, Pixels]:
        return Image.fromarray(read_image(split, index)), read_mask(split, index)

    with ThreadPoolExecutor(usable_cores()) as pool:
        for start in range(0, len(split), batch_size):
            end = min(start + batch_size, len(split))
            mine = range(start, end)[world.rank :: world.size]
            for part in _within_memory(split, mine):
                images, masks = zip(*pool.map(read, part), strict=True)
                predictions = predictor.predict_batch(list(images), flip_tta=flip_tta)
                for index, prediction, mask in zip(part, predictions, masks, strict=True):
                    pair = (torch.from_numpy(np.array(pixels[None])) for pixels in (mask, prediction.index))
                    matrices = confusion(*pair, classes=classes)
                    tally.add(torch.tensor([index]), torch.tensor([True]), matrices)
            after_batch(end - start)
    matrix, counts = tally.gather(world, samples=len(split))
    return Evaluation(labels=predictor.labels, matrix=matrix, counts=counts, loss=None)


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
