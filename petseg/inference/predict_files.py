"""Predicting files: which pictures are meant, where their masks go, and that nothing is overwritten by accident."""

from __future__ import annotations

import glob
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from petseg.inference.image_files import indexed_mask, overlay, to_rgb
from petseg.inference.predictor import Prediction, Predictor
from shards.errors import PetsegError, SampleError, UsageError
from shards.store.atomic import atomic_file

MASK = ".png"
OVERLAY = ".overlay.png"
PROBABILITIES = ".probabilities.npz"
_BATCH_PIXELS = 50_000_000  # decoded pictures of a batch are held together, at 3 bytes a pixel
_MAGIC = frozenset("*?[")


@dataclass(frozen=True)
class Job:
    """One picture and the files that its prediction becomes."""

    picture: Path
    outputs: tuple[Path, ...]


@dataclass(frozen=True)
class Found:
    """The pictures that arguments mean; ``left_out`` files of named folders are no pictures by their names."""

    pictures: list[Path]
    left_out: int


def find_pictures(arguments: Sequence[str]) -> Found:
    """Resolve files, folders (their pictures, not those of folders within) and globs (also ``**``).

    A file is taken whatever its name; from a folder or glob, files with a picture's ending. Each file is taken once.

    Raises:
        UsageError: an argument names nothing.
    """
    endings = Image.registered_extensions()
    pictures: dict[Path, Path] = {}
    left_out = 0
    for argument in arguments:
        path = Path(argument)
        if path.is_dir():
            found = sorted(entry for entry in path.iterdir() if entry.is_file())
        elif path.exists():
            pictures.setdefault(path.resolve(), path)
            continue
        elif _MAGIC & set(argument):
            found = sorted(Path(name) for name in glob.glob(argument, recursive=True) if Path(name).is_file())  # noqa: PTH207
        else:
            raise UsageError(f"no such picture or folder: {argument}")
        chosen = [entry for entry in found if entry.suffix.lower() in endings and not entry.name.startswith(".")]
        if not chosen:
            raise UsageError(f"no pictures in {argument}" if path.is_dir() else f"no pictures match {argument}")
        left_out += len(found) - len(chosen)
        for entry in chosen:
            pictures.setdefault(entry.resolve(), entry)
    return Found(pictures=list(pictures.values()), left_out=left_out)


def plan_jobs(
    pictures: Sequence[Path], out: Path, *, overlays: bool, probabilities: bool, overwrite: bool
) -> list[Job]:
    """Settle every output's name before anything is computed.

    Raises:
        UsageError: two pictures would become the same file, an output would overwrite one of the pictures, or a file
            is there already and ``overwrite`` was not asked for.
    """
    suffixes = [MASK, *([OVERLAY] if overlays else []), *([PROBABILITIES] if probabilities else [])]
    jobs = [Job(picture=p, outputs=tuple(out / f"{p.stem}{suffix}" for suffix in suffixes)) for p in pictures]
    inputs = {picture.resolve() for picture in pictures}
    taken: dict[Path, Path] = {}
    for job in jobs:
        for output in job.outputs:
            if output in taken:
                raise UsageError(
                    f"{taken[output]} and {job.picture} would both become {output}; predict them into different folders"
                )
            taken[output] = job.picture
            if output.resolve() in inputs:
                raise UsageError(f"{output} would overwrite one of the pictures; choose another folder with -o")
            if output.exists() and not overwrite:
                raise UsageError(f"{output} exists already; choose another folder with -o, or add --overwrite")
    return jobs


def predict_files(
    predictor: Predictor,
    jobs: Sequence[Job],
    *,
    batch_size: int = 8,
    mirror: bool = False,
    failed: Callable[[PetsegError], None],
    done: Callable[[Job], None] = lambda job: None,
) -> int:
    """Predict and write every job; return how many failed.

    A picture that cannot be read is told to ``failed`` and the others go on.
    """
    failures = 0

    def readable() -> Iterator[tuple[Job, Image.Image]]:
        nonlocal failures
        for job in jobs:
            try:
                yield job, to_rgb(job.picture)
            except SampleError as error:
                failures += 1
                failed(error)

    for batch in _batches(readable(), most=batch_size):
        predictions = predictor.predict_batch([picture for _, picture in batch], mirror=mirror)
        for (job, picture), prediction in zip(batch, predictions, strict=True):
            write_job(job, picture, prediction)
            done(job)
    return failures


def _batches(pictures: Iterator[tuple[Job, Image.Image]], *, most: int) -> Iterator[list[tuple[Job, Image.Image]]]:
    """Group pictures, at most so many, and fewer where they are huge."""
    batch: list[tuple[Job, Image.Image]] = []
    pixels = 0
    for job, picture in pictures:
        batch.append((job, picture))
        pixels += picture.width * picture.height
        if len(batch) == most or pixels > _BATCH_PIXELS:
            yield batch
            batch, pixels = [], 0
    if batch:
        yield batch


def write_job(job: Job, picture: Image.Image, prediction: Prediction) -> None:
    """Write a job's outputs, each whole or not at all."""
    for output in job.outputs:
        with atomic_file(output) as handle:
            if output.name.endswith(PROBABILITIES):
                np.savez_compressed(handle, probabilities=prediction.probabilities)
            elif output.name.endswith(OVERLAY):
                overlay(picture, prediction.mask).save(handle, format="PNG")
            else:
                indexed_mask(prediction.mask).save(handle, format="PNG")
