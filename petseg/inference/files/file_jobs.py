"""Predicting image files: where each result goes, and that nothing is overwritten by accident."""

import contextlib
import hashlib
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image

from petseg.inference.files.existing_results import FileJob, PredictionPlan, expect_results, without_finished
from petseg.inference.files.image_files import ImageFile, read_image
from petseg.inference.files.result_files import (
    MASK,
    OVERLAY,
    PROBABILITIES,
    ResultMark,
    name_too_long,
    result_of,
    write_results,
)
from petseg.inference.network_inputs import WHOLE_IMAGES, InferenceOptions
from petseg.inference.sliding_window import is_padded
from petseg.inference.trained_network import Keep, Predictor
from shards.audit.file_kinds.signatures import KNOWN_ENDINGS
from shards.errors import PetsegError, SampleError, UsageError, counted, option, printable
from shards.format.readers.output_places import expect_folder, expect_outside, expect_replaceable, places_of

MAX_PROBABILITIES = 2**30  # bytes that --probabilities may take for an image that is predicted in windows
_BATCH_PIXELS = 50_000_000  # a batch's decoded images are in memory together, at 4 bytes per pixel


@dataclass(frozen=True, kw_only=True)
class FilePredictions:
    """What :func:`petseg.predict` did.

    Attributes:
        images: the image files that were predicted.
        failed: one error for each image file that could not be read, or whose result could not be named.
        skipped: the number of images that had results, with ``skip_existing``.
        ignored: number of other files in the named folders.
        results: number of results of earlier predictions in them; they are not predicted.
        unmarked: of the images that were skipped, those whose results do not say which network made them.
    """

    images: tuple[Path, ...]
    failed: tuple[PetsegError, ...]
    skipped: int
    ignored: int
    results: int = 0
    unmarked: int = 0

    def __repr__(self) -> str:
        more = f", {len(self.failed)} failed" if self.failed else ""
        more += f", {self.skipped} that had results skipped" if self.skipped else ""
        return f"<FilePredictions: {counted(len(self.images), 'image')} predicted{more}>"


def plan_jobs(
    images: Sequence[ImageFile],
    out: Path,
    *,
    overlays: bool,
    probabilities: bool,
    overwrite: bool = False,
    skip_existing: bool = False,
    origin: str = "",
) -> PredictionPlan:
    """Choose every output's name before anything is computed; with ``skip_existing``, leave out what is finished.

    Of two images that would become the same file, such as cat.jpg and cat.png, the second becomes cat.png.png; likewise
    of cat.jpg and CAT.jpg, whose results some file systems take for one. Raises ``UsageError`` if that name is taken,
    too, if an output would overwrite one of the images, if a folder for outputs is a shard set's or a run's, or if a
    file exists already and ``overwrite`` is False, or is no result. With ``skip_existing`` an image whose files all
    exist is left out; ``UsageError`` if its mask exists without another of them, or if one was made by another
    ``origin``, see :func:`origin_of`, or of an image of other content. A mask that was made of an image of another name
    counts as another image's, which has the shorter name.
    """
    if overwrite and skip_existing:
        raise UsageError(f"give {option('overwrite', True)} or {option('skip_existing', True)}, not both")
    if out.suffix.lower() in KNOWN_ENDINGS and not out.is_dir():
        raise UsageError(f"{out}: results are files in a folder, named as their images are; name the folder")
    suffixes = [MASK, *([OVERLAY] if overlays else []), *([PROBABILITIES] if probabilities else [])]
    taken: dict[str, Path] = {}
    marks: dict[FileJob, ResultMark | None] = {}
    for each in images:
        folder, name = out / each.subfolder, each.path.stem
        mark = result_of(folder / f"{name}{MASK}") if skip_existing else None
        others = mark is not None and mark.image != each.path.name
        if others or any(_same_everywhere(folder / f"{name}{suffix}") in taken for suffix in suffixes):
            name = each.path.name
            mark = result_of(folder / f"{name}{MASK}") if skip_existing else None
        outputs = tuple(folder / f"{name}{suffix}" for suffix in suffixes)
        for output in outputs:
            if (place := _same_everywhere(output)) in taken:
                raise UsageError(
                    f"{taken[place]} and {each.path} would both become {output}; predict them into different folders, "
                    f"or name the folder above them with {option('recursive', True)}, which keeps its subfolders"
                )
            taken[place] = each.path
        renamed = name != each.path.stem
        replace = overwrite or skip_existing
        job = FileJob(image=each.path, outputs=outputs, renamed=renamed, replace=replace, origin=origin)
        marks[job] = mark
    _expect_free({place for each in images for place in places_of(each.path)}, list(marks))
    planned = without_finished(marks, out, origin=origin) if skip_existing else PredictionPlan(list(marks), 0, 0)
    expect_results(planned.jobs, out)
    return planned


def origin_of(predictor: Predictor, options: InferenceOptions) -> str:
    """Return what tells the results of a network with options from those of others: 16 hexadecimal digits."""
    facts = [predictor.recipe.fit, predictor.size, predictor.recipe.crop_scale, predictor.labels]
    digest = hashlib.sha256(repr([*facts, options.facts(predictor.window(options))]).encode())
    for name, tensor in predictor.model.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


def _same_everywhere(path: Path) -> str:
    """Return what is the same for paths that a file system may take for one: in case, and in Unicode form (macOS)."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", str(path)).casefold())


def _expect_free(inputs: set[object], jobs: Sequence[FileJob]) -> None:
    """Raise ``UsageError`` if an output must not be written."""
    for folder in {output.parent for job in jobs for output in job.outputs}:
        expect_folder(folder, advice="choose another output folder")
        expect_outside(folder, itself=True, advice="choose another output folder")
    for job in jobs:
        for output in job.outputs:
            if name_too_long(output):
                continue
            if not inputs.isdisjoint(places_of(output)):
                raise UsageError(f"{output} would overwrite one of the images; choose another output folder")
            expect_replaceable(output, overwrite=True, advice="choose another output folder")


def predict_files(
    predictor: Predictor,
    jobs: Sequence[FileJob],
    *,
    batch_size: int = 8,
    options: InferenceOptions = WHOLE_IMAGES,
    on_error: Callable[[PetsegError], None],
    on_done: Callable[[FileJob], None] = lambda job: None,
    on_padded: Callable[[FileJob], None] = lambda job: None,
) -> int:
    """Predict and write every job; an image that cannot be read or named goes to ``on_error``.

    ``on_done`` gets each job that is written, ``on_padded`` those of them whose image is smaller than a window. The
    folders are created. Returns how many images failed.
    """
    exact = any(output.name.endswith(PROBABILITIES) for job in jobs for output in job.outputs)
    window = predictor.window(options)
    keep: Keep = "all" if exact else "none"
    values = len(predictor.labels) if exact and window else 0  # of a pixel, to be kept
    together = 1 if window else batch_size
    failures = pixels = 0
    batch: list[tuple[FileJob, Image.Image, ResultMark]] = []
    for number, job in enumerate(jobs, start=1):
        try:
            image, digest = _read(job, values=values)
            mark = ResultMark(job.image.name, job.origin, digest)
            with _named(job.image):
                predictor.check((image.height, image.width), options)
        except SampleError as error:
            failures += 1
            on_error(error)
        else:
            batch.append((job, image, mark))
            pixels += image.width * image.height
            del image
        if batch and (len(batch) == together or pixels > _BATCH_PIXELS or number == len(jobs)):
            images = [image for _, image, _ in batch]
            predictions = predictor.predict_batch(images, options, batch_size=batch_size, keep=keep)
            del images
            predictions.reverse()
            batch.reverse()
            while batch:  # both lists are emptied on the way: the results of huge images need the memory
                done, image, mark = batch.pop()
                done.outputs[0].parent.mkdir(parents=True, exist_ok=True)
                write_results(done.outputs, image, predictions.pop(), predictor.labels, mark=mark, replace=done.replace)
                on_done(done)
                if window and is_padded((image.height, image.width), window):
                    on_padded(done)
                del image
            pixels = 0
    return failures


@contextlib.contextmanager
def _named(path: Path) -> Iterator[None]:
    """Within the block, a ``SampleError`` begins with the image's name."""
    try:
        yield
    except SampleError as error:
        raise SampleError(f"{printable(path)}: {error}") from None


def _read(job: FileJob, *, values: int) -> tuple[Image.Image, str]:
    """Return a job's image and its digest.

    ``SampleError`` if its result could not be named, or ``values`` per pixel not be kept.
    """
    name = printable(job.image)
    for output in job.outputs:
        if name_too_long(output):
            raise SampleError(f"{name}: the name of its result would be too long ({printable(output.name)}); rename it")
    image, digest = read_image(job.image)
    size = 4 * values * image.width * image.height
    if size > MAX_PROBABILITIES:
        raise SampleError(
            f"{name}: probabilities of {values} classes at {image.height} x {image.width} pixels would take "
            f"{size / 2**30:.1f} GiB, more than {MAX_PROBABILITIES / 2**30:g}; predict it without "
            f"{option('probabilities')}"
        )
    return image, digest
