"""Results that exist: which are finished, which were made by something else, and which files are no results."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from petseg.inference.files.image_files import digest_of
from petseg.inference.files.result_files import PROBABILITIES, ResultMark, is_result, name_too_long, result_of
from shards.errors import UsageError, counted, option
from shards.format.readers.output_places import expect_replaceable


@dataclass(frozen=True)
class FileJob:
    """One image file and the files to write its prediction to, the mask first.

    ``renamed``: they carry the image's name with its ending, because another image has the name without it.
    ``replace``: they may replace files that exist. ``origin``: what predicts it, which the pictures say.
    """

    image: Path
    outputs: tuple[Path, ...]
    renamed: bool = False
    replace: bool = False
    origin: str = ""


class PredictionPlan(NamedTuple):
    """What there is to predict, how many images have results, and how many of these do not say what made them."""

    jobs: list[FileJob]
    skipped: int
    unmarked: int


def without_finished(marks: Mapping[FileJob, ResultMark | None], out: Path, *, origin: str) -> PredictionPlan:
    """Leave out jobs whose results exist, given what the masks say.

    ``UsageError`` if another ``origin`` made any, or of another image of the same name. An image that cannot be read
    now is not left out: it fails as others that cannot.
    """
    finished = {job: mark for job, mark in marks.items() if _is_finished(job, mark)}
    if foreign := [job.outputs[0] for job, mark in finished.items() if mark and mark.origin not in ("", origin)]:
        raise UsageError(
            f"{counted(len(foreign), 'result')} of another network, or with other options, in {out}, the first "
            f"{foreign[0]}: {option('skip_existing', True)} goes on with the same ones; choose another output folder, "
            f"or replace all with {option('overwrite', True)}"
        )
    written = {job: mark.digest for job, mark in finished.items() if mark and mark.digest}
    digests = {job: digest_of(job.image) for job in written}
    if others := [job for job, digest in digests.items() if digest not in ("", written[job])]:
        one = len(others) == 1
        are = "is of another image of the same name" if one else "are of other images of the same names"
        raise UsageError(
            f"{counted(len(others), 'result')} in {out} {are}, the first {others[0].outputs[0]}: "
            f"{option('skip_existing', True)} leaves out images of the same content; choose another output folder, "
            f"or remove {'it to predict this image' if one else 'them to predict these images'}"
        )
    finished = {job: mark for job, mark in finished.items() if digests.get(job) != ""}
    beside = {output: result_of(output) for job in finished for output in job.outputs[1:]}
    _expect_same_marks(finished, beside, out)
    unmarked = sum(
        not (mark and mark.origin) or any(beside[output] is None for output in job.outputs[1:])
        for job, mark in finished.items()
    )
    return PredictionPlan([job for job in marks if job not in finished], len(finished), unmarked)


def _expect_same_marks(
    masks: Mapping[FileJob, ResultMark | None], beside: Mapping[Path, ResultMark | None], out: Path
) -> None:
    """Raise ``UsageError`` if a file ``beside`` a mask says something else than the mask: its prediction is another.

    Probabilities have held a mark since pictures have held a digest in theirs, and then a second kind of picture.
    """
    others: dict[Path, FileJob] = {}
    for job, mark in masks.items():
        for output in job.outputs[1:] if mark else ():  # another program may have written the mask again
            earlier = beside[output] is None and output.name.endswith(PROBABILITIES) and not (mark and mark.digest)
            if beside[output] != mark and not earlier:
                others[output] = job
    if not others:
        return
    expect_results(list(others.values()), out)  # what is no result is told so: no option replaces it
    are = "is not of the same prediction as the mask" if len(others) == 1 else "are not of the masks' predictions"
    raise UsageError(
        f"{counted(len(others), 'file')} in {out} {are} beside {'it' if len(others) == 1 else 'them'}, the first "
        f"{next(iter(others))}, but of another network, other options or another image: choose another output folder, "
        f"or replace all with {option('overwrite', True)}"
    )


def _is_finished(job: FileJob, mark: ResultMark | None) -> bool:
    """Return whether a job's files exist; raise ``UsageError`` if only some do, and not those of a killed process.

    The mask appears last, so that other files without it are what a process left that was killed between the two.
    """
    if any(map(name_too_long, job.outputs)) or not job.outputs[0].is_file():
        return False
    if mark is not None and mark.image != job.image.name:
        raise UsageError(f"{job.outputs[0]} is not a result of {job.image}; choose another output folder")
    for output in job.outputs[1:]:
        if not output.is_file():
            again = "remove the mask to predict it again, or " if mark else ""  # without a mark it may be anybody's
            raise UsageError(
                f"{job.outputs[0]} exists, but not {output}: {option('skip_existing', True)} goes on where the same "
                f"options were given; {again}choose another output folder"
            )
    return True


def expect_results(jobs: Sequence[FileJob], out: Path) -> None:
    """Raise ``UsageError`` if an output exists, unless it is a result and may be replaced: others are not ours."""
    outputs = [(output, job.replace) for job in jobs for output in job.outputs if not name_too_long(output)]
    foreign = [output for output, _ in outputs if output.is_file() and not is_result(output)]
    if foreign:
        are, them = ("is no result", "it") if len(foreign) == 1 else ("are no results", "them")
        raise UsageError(
            f"{counted(len(foreign), 'file')} in {out} {are} of petseg-predict, the first {foreign[0]}: "
            f"{option('overwrite', True)} replaces results only; choose another output folder, or remove {them}"
        )
    for output, replace in outputs:
        expect_replaceable(output, overwrite=replace, advice="choose another output folder")
