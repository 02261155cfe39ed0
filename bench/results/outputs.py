"""The files of a run: checked before minutes are spent on measuring, and not lost where they cannot be written."""

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from bench.results.plot import draw_figure
from bench.results.records import Results, results_json
from bench.results.result_page import print_results
from shards.errors import PetsegError, UsageError
from shards.format.readers.output_places import expect_outside, expect_replaceable
from shards.store.atomic import write_atomically


@dataclass(frozen=True)
class Outputs:
    """Where a run goes; None: not requested.

    Raises:
        UsageError: a file exists and is not to be replaced, a folder is not there or takes no file, or the figure's
            name has another ending.
    """

    json_file: Path | None = None
    plot: Path | None = None
    overwrite: bool = False

    def __post_init__(self) -> None:
        for option, path in self._files():
            expect_outside(path)
            if path.is_dir():
                raise UsageError(f"{option} {path}: is a folder; give the name of a file in it")
            expect_replaceable(path, overwrite=self.overwrite)
            try:
                tempfile.TemporaryFile(dir=path.parent).close()
            except OSError as error:
                text = f"the folder {path.parent} takes no file ({error.strerror}); make it, or choose another"
                raise UsageError(f"{option} {path}: {text}") from None
        if self.plot is not None and self.plot.suffix not in (".svg", ".png"):
            raise UsageError(f"--plot {self.plot}: the name must end in .svg or .png")

    def write(self, results: Results) -> dict[str, str]:
        """Write each file; return what failed, by option."""
        problems = {}
        for option, path in self._files():
            try:
                write_atomically(path, results_json(results) if option == "--json" else
                                 draw_figure(results, file_format=path.suffix[1:]), replace=self.overwrite)  # fmt: skip
            except OSError as error:
                problems[option] = f"{option} {path} could not be written: {error.strerror or error}"
        return problems

    def finish(self, results: Results) -> None:
        """Write the files, and print the tables, whatever could not be written.

        Results whose file cannot be written are kept in the folder for temporary files, or, where that is full too,
        printed as JSON behind the tables. The :class:`PetsegError` says what failed, why, and where the results are.
        """
        problems = self.write(results)
        print_results(results)
        if not problems:
            return
        kept = self.json_file
        if kept is None or "--json" in problems:
            kept = Path(tempfile.gettempdir()) / f"petseg-bench-{results.kind}-{os.getpid()}.json"
            try:
                write_atomically(kept, results_json(results))
            except OSError:
                print(results_json(results))  # noqa: T201 - the only place that is left
                kept = None
        where = f"the results are in {kept}; petseg-bench show {kept} prints them, or writes the figure"
        where = where if kept else "the results are printed above as JSON, since no disk takes them"
        raise PetsegError("; ".join([*problems.values(), where]))

    def _files(self) -> list[tuple[str, Path]]:
        wanted = (("--json", self.json_file), ("--plot", self.plot))
        return [(option, path) for option, path in wanted if path is not None]
