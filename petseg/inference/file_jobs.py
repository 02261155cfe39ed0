"""Predicting image files: where each result goes, and that nothing is overwritten by accident."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from petseg.inference.class_colours import indexed_mask, overlay
from petseg.inference.image_files import to_rgb
from petseg.inference.trained_network import Prediction, Predictor
from shards.errors import PetsegError, SampleError, UsageError
from shards.store.atomic import atomic_file

_MASK = ".png"
_OVERLAY = ".overlay.png"
_PROBABILITIES = ".probabilities.npz"
_BATCH_PIXELS = 50_000_000  # a batch's decoded images are in memory together, at 3 bytes per pixel


@dataclass(frozen=True)
class FileJob:
    """One image file and the files to write its prediction to."""

    image: Path
    outputs: tuple[Path, ...]


def plan_jobs(
    images: Sequence[Path], out: Path, *, overlays: bool, probabilities: bool, overwrite: bool
) -> list[FileJob]:
    """Choose every output's name before anything is computed.

    Raises ``UsageError`` if two images would become the same file, an output would overwrite one of the images, or a
    file exists already and ``overwrite`` is False.
    """
    suffixes = [_MASK, *([_OVERLAY] if overlays else []), *([_PROBABILITIES] if probabilities else [])]
    jobs = [FileJob(image=p, outputs=tuple(out / f"{p.stem}{suffix}" for suffix in suffixes)) for p in images]
    inputs = {image.resolve() for image in images}
    taken: dict[Path, Path] = {}
    for job in jobs:
        for output in job.outputs:
            if output in taken:
                raise UsageError(
                    f"{taken[output]} and {job.image} would both become {output}; predict them into different folders"
                )
            taken[output] = job.image
            if output.resolve() in inputs:
                raise UsageError(f"{output} would overwrite one of the images; choose another folder with -o")
            if output.exists() and not overwrite:
                raise UsageError(f"{output} exists already; choose another folder with -o, or add --overwrite")
    return jobs


def predict_files(
    predictor: Predictor,
    jobs: Sequence[FileJob],
    *,
    batch_size: int = 8,
    flip_tta: bool = False,
    on_error: Callable[[PetsegError], None],
    on_done: Callable[[FileJob], None] = lambda job: None,
) -> int:
    """Predict and write every job; an image that cannot be read goes to ``on_error``. Return how many failed."""
    failures = pixels = 0
    batch: list[tuple[FileJob, Image.Image]] = []
    for number, job in enumerate(jobs, start=1):
        try:
            image = to_rgb(job.image)
        except SampleError as error:
            failures += 1
            on_error(error)
        else:
            batch.append((job, image))
            pixels += image.width * image.height
        if batch and (len(batch) == batch_size or pixels > _BATCH_PIXELS or number == len(jobs)):
            predictions = predictor.predict_batch([image for _, image in batch], flip_tta=flip_tta)
            for (done, image), prediction in zip(batch, predictions, strict=True):
                _write(done, image, prediction)
                on_done(done)
            batch, pixels = [], 0
    return failures


def _write(job: FileJob, image: Image.Image, prediction: Prediction) -> None:
    """Write a job's outputs, each complete or not at all."""
    for output in job.outputs:
        with atomic_file(output) as handle:
            if output.name.endswith(_PROBABILITIES):
                np.savez_compressed(handle, probabilities=prediction.probabilities)
            elif output.name.endswith(_OVERLAY):
                overlay(image, prediction.mask).save(handle, format="PNG")
            else:
                indexed_mask(prediction.mask).save(handle, format="PNG")
