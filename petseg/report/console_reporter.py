"""A run's progress on the console: a live line on a terminal, and one plain line per epoch everywhere."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from petseg.inference.metrics import score
from petseg.runs.history import occurring
from shards.console import can_draw, say
from shards.errors import expect_flags
from shards.format.labels import Labels

_ALL_CLASSES = 4  # more than this make a line too long: then the best and the worst two are named
_LONGEST_NAME = 20
_REFRESH_SECONDS = 0.5  # reading the counts synchronises a GPU, so it is not done at every step


class Reporter:
    """Receives a run's progress and ignores it: for ranks other than the first, and for use from Python."""

    def start_run(self, *, labels: Labels) -> None:
        """A run with these classes starts or continues."""

    def note(self, text: str) -> None:
        """Something the user should know."""

    def start_epoch(self, *, epoch: int, done: int, images: int) -> None:
        """An epoch (from 0) starts, or continues after ``done`` of its images."""

    def batch(self, *, images: int, loss: float, confusion: torch.Tensor, wait: float, remaining: int) -> None:
        """A batch was trained on; ``loss`` and ``confusion`` are the epoch's so far, ``remaining`` the run's images."""

    def start_validation(self, *, images: int) -> None:
        """Validation starts."""

    def validated(self, images: int) -> None:
        """``images`` more images were validated."""

    def end_epoch(self, entry: Mapping[str, Any], *, epochs: int) -> None:
        """An epoch has ended; ``entry`` is its line of metrics.jsonl."""

    def close(self) -> None:
        """The last call."""


class ConsoleReporter(Reporter):
    """Shows a live progress line on stderr if that is a terminal, and prints one line per epoch unless ``quiet``."""

    def __init__(self, *, quiet: bool = False) -> None:
        expect_flags(quiet=quiet)
        self._quiet = quiet
        self._classes: tuple[str, ...] = ()
        self._refreshed = 0.0
        self._progress = _make_progress("{task.fields[facts]}", disable=not can_draw(sys.stderr))
        self._task = self._progress.add_task("", total=None, facts="")
        self._progress.start()

    def start_run(self, *, labels: Labels) -> None:  # noqa: D102
        self._classes = labels.names

    def note(self, text: str) -> None:  # noqa: D102
        say(text, err=True)

    def start_epoch(self, *, epoch: int, done: int, images: int) -> None:  # noqa: D102
        self._started, self._done = time.monotonic(), 0
        self._progress.reset(self._task, total=images, completed=done, description=f"epoch {epoch + 1}", facts="")

    def batch(self, *, images: int, loss: float, confusion: torch.Tensor, wait: float, remaining: int) -> None:  # noqa: D102
        self._progress.advance(self._task, images)
        self._done += images
        now = time.monotonic()
        if self._progress.disable or now - self._refreshed < _REFRESH_SECONDS:
            return
        self._refreshed = now
        rate = max(self._done / max(now - self._started, 1e-9), 1e-9)
        facts = (
            f"loss {loss:.3f}  IoU {score(confusion.cpu().numpy()).mean_iou:.3f}  {rate:.0f} images/s  "
            f"wait {wait:.0%}  {duration(remaining / rate)} left"
        )
        self._progress.update(self._task, facts=facts)

    def start_validation(self, *, images: int) -> None:  # noqa: D102
        self._progress.reset(self._task, total=images, description="validation", facts="")

    def validated(self, images: int) -> None:  # noqa: D102
        self._progress.advance(self._task, images)

    def end_epoch(self, entry: Mapping[str, Any], *, epochs: int) -> None:  # noqa: D102
        if not self._quiet:
            say(epoch_line(entry, epochs=epochs, classes=self._classes))

    def close(self) -> None:  # noqa: D102
        self._progress.stop()


def epoch_line(entry: Mapping[str, Any], *, epochs: int, classes: Sequence[str]) -> str:
    """Return the console's line of one epoch, from its entry of metrics.jsonl; ``classes`` are their names."""
    part, name = (entry["val"], "val") if entry["val"] else (entry["train"], "train")
    loss = f"loss {entry['train']['loss']:.3f}" + (f" val {entry['val']['loss']:.3f}" if entry["val"] else "")
    return (
        f"epoch {entry['epoch']:>{len(str(epochs))}}/{epochs}  {loss}  {name} IoU {part['mean_iou']:.3f} "
        f"({_class_scores(part['iou'], occurring(part), classes)})  "
        f"accuracy {part['pixel_accuracy']:.3f}  {entry['pictures_per_second']:.0f} images/s  "
        f"wait {entry['wait_share']:.0%}{'  best' if entry['best'] else ''}"
    )


def _class_scores(iou: Sequence[float | None], present: Sequence[float | None], classes: Sequence[str]) -> str:
    """Return the IoU of each class; of many classes, of the best and the worst two that occur in the masks."""

    def texts(positions: Iterable[int]) -> str:
        values = ((classes[i], iou[i]) for i in positions)
        return " ".join(f"{name[:_LONGEST_NAME]} {'-' if v is None else format(v, '.3f')}" for name, v in values)

    if len(classes) <= _ALL_CLASSES:
        return texts(range(len(classes)))
    order = sorted((i for i, value in enumerate(present) if value is not None), key=lambda i: -(present[i] or 0.0))
    if len(order) <= _ALL_CLASSES:
        return texts(order)
    half = _ALL_CLASSES // 2
    return f"best {texts(order[:half])}, worst {texts(order[-half:])}"


def duration(seconds: float) -> str:
    """Return a readable time span: ``45 s``, ``12 min``, ``3 h 20 min``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"


@contextlib.contextmanager
def progress_count(what: str, *, total: int | None = None, quiet: bool = False) -> Iterator[Callable[[int], None]]:
    """Show a live count on stderr if that is a terminal; yield a function that adds to it."""
    with _make_progress("{task.completed} images", disable=quiet or not can_draw(sys.stderr)) as progress:
        task = progress.add_task(what, total=total)
        yield lambda number: progress.advance(task, number)


def _make_progress(text: str, *, disable: bool) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TextColumn("{task.percentage:>3.0f} %  " + text),
        console=Console(stderr=True, quiet=disable),  # older versions of rich end with an empty line all the same
        # Lines on stdout are printed above the live line, but only where stdout is the terminal too and not a file.
        redirect_stdout=can_draw(sys.stdout),
        transient=True,
        disable=disable,
    )
