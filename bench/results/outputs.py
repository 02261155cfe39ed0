"""The files of a run: checked before minutes are spent on measuring, and not lost where they cannot be written."""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.results.plot import draw_figure
from bench.results.records import Results, results_json
from bench.results.result_page import markdown
from shards.console import stdout_console
from shards.errors import PetsegError, UsageError
from shards.format.readers.output_places import expect_ending, expect_free
from shards.store.atomic import write_atomically


@dataclass(frozen=True)
class Outputs:
    """Where a run goes; None: not requested. A place that cannot be written is a :class:`UsageError` at once."""

    json_file: Path | None = None
    plot: Path | None = None
    overwrite: bool = False

    def __post_init__(self) -> None:
        for path in filter(None, (self.json_file, self.plot)):
            expect_free(path, overwrite=self.overwrite)
            try:
                tempfile.TemporaryFile(dir=path.parent).close()
            except OSError as error:
                text = f"the folder {path.parent} takes no file ({error.strerror}); choose another"
                raise UsageError(f"{path}: {text}") from None
        if self.json_file is not None:
            expect_ending(self.json_file, ".json")
        if self.plot is not None:
            expect_ending(self.plot, ".svg", ".png")

    def write(self, results: Results) -> list[str]:
        """Write each file; return which could not be written, and why."""
        problems = []
        for path in filter(None, (self.json_file, self.plot)):
            try:
                kind: Any = path.suffix[1:].lower()
                data = draw_figure(results, kind) if path is self.plot else results_json(results)
                write_atomically(path, data, replace=self.overwrite)
            except OSError as error:
                problems.append(f"{path} could not be written: {error.strerror or error}")
        return problems

    def finish(self, results: Results) -> None:
        """Write the files, and print the tables, whatever could not be written, and if that is anything, the results as
        JSON behind them. The :class:`PetsegError` says what failed, and why.
        """
        from rich.markdown import Markdown

        problems, console = self.write(results), stdout_console()
        console.print(Markdown(markdown(results, full=True, took=True)))
        if problems:
            print(results_json(results))  # noqa: T201 - a place that is left
            problems.append("the results are printed above as JSON: petseg-bench show prints them again from a file")
            raise PetsegError("; ".join(problems))
