"""The files of a run: checked before minutes are spent on measuring, and not lost where they cannot be written."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from shards.errors import PetsegError, UsageError
from shards.store.atomic import write_atomically

if TYPE_CHECKING:
    from bench.results import Results


def check_writable(*, json_file: Path | None, page: Path | None, plot: Path | None) -> None:
    """Refuse result files that could not be written.

    Raises:
        UsageError: a folder is not there or takes no file, or the figure's name has another ending.
    """
    for option, path in (("--json", json_file), ("--page", page), ("--plot", plot)):
        if path is None:
            continue
        if not path.parent.is_dir():
            raise UsageError(f"{option} {path}: the folder {path.parent} does not exist; make it first")
        if path.is_dir():
            raise UsageError(f"{option} {path}: is a folder; give the name of a file in it")
        try:
            with tempfile.TemporaryFile(dir=path.parent):
                pass
        except OSError as error:
            raise UsageError(
                f"{option} {path}: the folder {path.parent} takes no file ({error.strerror}); choose another"
            ) from None
    if plot is not None:
        check_plot(plot)


def check_plot(plot: Path) -> str:
    """Return the format of a figure by its name.

    Raises:
        UsageError: neither .svg nor .png.
    """
    if plot.suffix not in (".svg", ".png"):
        raise UsageError(f"--plot {plot}: the name must end in .svg or .png")
    return plot.suffix[1:]


def finish(results: Results, *, json_file: Path | None, page: Path | None, plot: Path | None) -> None:
    """Write what was asked for, and print the tables, whatever could not be written.

    Results whose file cannot be written are kept in the folder for temporary files, or, where that is full too, printed
    as JSON behind the tables.

    Raises:
        PetsegError: a file could not be written; the message says which, why, and where the results are.
    """
    from bench.results import results_json, write_results
    from bench.table import print_results

    problems = [
        problem
        for option, path, write in (("--json", json_file, write_results), ("--page", page, write_page),
                                    ("--plot", plot, write_plot))
        if path is not None and (problem := _try(option, path, write, results))
    ]  # fmt: skip
    print_results(results)
    if not problems:
        return
    kept = json_file if json_file and not problems[0].startswith("--json") else _keep(results)
    if kept is None:
        print(results_json(results))  # noqa: T201 - the only place that is left
    where = f"the results are in {kept}; petseg-bench show {kept} prints them, or writes page and figure"
    problems.append(where if kept else "the results are printed above as JSON, since no disk takes them")
    raise PetsegError("; ".join(problems))


def write_page(results: Results, path: Path) -> None:
    """Write a run's page."""
    from bench.page import render_page

    write_atomically(path, render_page(results))


def write_plot(results: Results, path: Path) -> None:
    """Write a run's figure, in the format that its name says."""
    from bench.plot import draw_figure

    write_atomically(path, draw_figure(results, file_format=check_plot(path)))


def _try(option: str, path: Path, write: Callable[[Results, Path], None], results: Results) -> str:
    """Write a file; return what is in the way, empty for nothing."""
    try:
        write(results, path)
    except OSError as error:
        return f"{option} {path} could not be written: {error.strerror or error}"
    return ""


def _keep(results: Results) -> Path | None:
    """Write a run to the folder for temporary files; None where that is not possible."""
    from bench.results import write_results

    path = Path(tempfile.gettempdir()) / f"petseg-bench-{results.kind}-{os.getpid()}.json"
    try:
        write_results(results, path)
    except OSError:
        return None
    return path
