"""What a person sees of a run: a live line on a terminal, one plain line an epoch everywhere."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import click

from petseg.inference.metrics import CLASS_NAMES, score

if TYPE_CHECKING:
    import torch
    from rich.progress import Progress

_REFRESH_SECONDS = 0.5  # reading the counts makes a GPU wait, so it is not done at every step


class Reporter:
    """Is told what happens, and says nothing: for ranks other than the first, and for use from Python."""

    def note(self, text: str) -> None:
        """Something that the user should know."""

    def start_epoch(self, *, epoch: int, done: int, images: int) -> None:
        """An epoch (from 0) begins, or goes on after ``done`` of its images."""

    def batch(self, *, images: int, loss: float, confusion: torch.Tensor, wait: float, remaining: int) -> None:
        """A batch was trained on; ``loss`` and ``confusion`` are the epoch's so far, ``remaining`` the run's images."""

    def start_validation(self, *, images: int) -> None:
        """Validation begins."""

    def validated(self, images: int) -> None:
        """So many further images were validated."""

    def end_epoch(self, entry: Mapping[str, Any], *, epochs: int) -> None:
        """An epoch is done; ``entry`` is its line of metrics.jsonl."""

    def close(self) -> None:
        """Nothing further comes."""


class ConsoleReporter(Reporter):
    """Speaks to a person: a live line on stderr if that is a terminal, and a line an epoch on stdout."""

    def __init__(self, *, quiet: bool = False) -> None:
        """Keep stdout free if ``quiet``, for --json."""
        self._quiet = quiet
        self._progress: Progress | None = None
        self._looked = 0.0
        self._rate = 0.0
        if sys.stderr.isatty():
            self._progress = _make_progress()
            self._task = self._progress.add_task("", total=None, facts="")
            self._progress.start()

    def note(self, text: str) -> None:  # noqa: D102
        click.echo(text, err=True)

    def start_epoch(self, *, epoch: int, done: int, images: int) -> None:  # noqa: D102
        self._began, self._seen = time.monotonic(), 0
        if self._progress is not None:
            self._progress.reset(self._task, total=images, completed=done, description=f"epoch {epoch + 1}", facts="")

    def batch(self, *, images: int, loss: float, confusion: torch.Tensor, wait: float, remaining: int) -> None:  # noqa: D102
        if self._progress is None:
            return
        self._progress.advance(self._task, images)
        self._seen += images
        now = time.monotonic()
        if now - self._looked < _REFRESH_SECONDS:
            return
        self._looked = now
        self._rate = self._seen / max(now - self._began, 1e-9)
        facts = (
            f"loss {loss:.3f}  IoU {score(confusion.cpu().numpy()).mean_iou:.3f}  {self._rate:.0f} images/s  "
            f"wait {wait:.0%}  {duration(remaining / max(self._rate, 1e-9))} left"
        )
        self._progress.update(self._task, facts=facts)

    def start_validation(self, *, images: int) -> None:  # noqa: D102
        if self._progress is not None:
            self._progress.reset(self._task, total=images, description="validation", facts="")

    def validated(self, images: int) -> None:  # noqa: D102
        if self._progress is not None:
            self._progress.advance(self._task, images)

    def end_epoch(self, entry: Mapping[str, Any], *, epochs: int) -> None:  # noqa: D102
        if not self._quiet:
            click.echo(epoch_line(entry, epochs=epochs))

    def close(self) -> None:  # noqa: D102
        if self._progress is not None:
            self._progress.stop()


def epoch_line(entry: Mapping[str, Any], *, epochs: int) -> str:
    """Return the line of one epoch, from its entry of metrics.jsonl."""
    part, name = (entry["val"], "val") if entry["val"] else (entry["train"], "train")
    classes = " ".join(
        f"{label} {'-' if value is None else format(value, '.3f')}"
        for label, value in zip(CLASS_NAMES, part["iou"], strict=True)
    )
    loss = f"loss {entry['train']['loss']:.3f}" + (f" val {entry['val']['loss']:.3f}" if entry["val"] else "")
    return (
        f"epoch {entry['epoch']:>{len(str(epochs))}}/{epochs}  {loss}  {name} IoU {part['mean_iou']:.3f} ({classes})  "
        f"accuracy {part['pixel_accuracy']:.3f}  {entry['pictures_per_second']:.0f} images/s  "
        f"wait {entry['wait_share']:.0%}{'  best' if entry['best'] else ''}"
    )


def duration(seconds: float) -> str:
    """Return a time span for people: ``45 s``, ``12 min``, ``3 h 20 min``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"


@contextlib.contextmanager
def counting(what: str, *, total: int | None = None, quiet: bool = False) -> Iterator[Callable[[int], None]]:
    """Show a live count on stderr if that is a terminal; yield what advances it by so many."""
    if quiet or not sys.stderr.isatty():
        yield lambda number: None
        return
    with _make_progress() as progress:
        task = progress.add_task(what, total=total, facts="")
        done = 0

        def advance(number: int) -> None:
            nonlocal done
            done += number
            progress.update(task, advance=number, facts=f"{done}" if total is None else f"{done} of {total}")

        yield advance


def _make_progress() -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TextColumn("{task.percentage:>3.0f} %  {task.fields[facts]}"),
        console=Console(stderr=True),
        # Lines on stdout go above the live line, but only where stdout is the terminal too and not a file.
        redirect_stdout=sys.stdout.isatty(),
        transient=True,
    )
