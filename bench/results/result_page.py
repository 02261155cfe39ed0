"""A run in Markdown: printed, and put into documents between markers, so that no number in them is typed by hand.

A document holds ``<!-- figures: NAME -->`` and, later, ``<!-- end of figures -->``; what stands between is replaced.
NAME is the name of a file of results without its ending (it cannot hold >), with ``-full`` for all tables; without it
there are the figure and the project's goals, or where a run has no goals, its table.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median
from typing import Any

import jinja2
from msgspec.structs import replace

from bench.results.goals import bound, ratio_text, share_of_limit, times_baseline, verdicts
from bench.results.records import BASELINE, LoaderLine, LoaderWork, Results
from shards.errors import UsageError, escaped_markdown, printable
from shards.store.atomic import write_atomically
from shards.store.byte_ranges import read_regular

_BLOCK = re.compile(r"(<!-- figures: ([^>\r\n]+) -->(\r?\n))(.*?)(<!-- end of figures -->)", re.DOTALL)


@dataclass(frozen=True)
class Section:
    """Loaders that did the same work, fastest first; and the tutorial, which reads the source's files in any case."""

    storage: str
    title: str
    lines: tuple[LoaderLine, ...]

    def label(self, line: LoaderLine) -> str:
        """Return a line's name within the section."""
        work = line.work
        name = f"{work.peer} {work.engine}".strip() + (" GPU" if work.device == "cuda" else "")
        return name if work.storage == self.storage else f"{name} ({work.storage})"


def sections(lines: Iterable[LoaderLine]) -> list[Section]:
    """Group lines that did the same: by cache, augmentation, masks and storage.

    A tutorial that would be alone joins the next group of the same work on another storage.
    """
    groups: dict[LoaderWork, list[LoaderLine]] = {}
    for line in lines:
        groups.setdefault(replace(line.work, peer="", engine="", device=""), []).append(line)
    for work, group in list(groups.items()):
        others = [x for x in groups if x != work and replace(x, storage="") == replace(work, storage="")]
        if others and all(line.work.peer == BASELINE for line in group):
            groups[others[0]] += groups.pop(work)
    found = []
    for work, group in groups.items():
        what = "training augmentation" if work.augment else "evaluation"
        form = "one-hot masks" if work.mask == "onehot" else "class-index masks"
        title = f"{work.storage} storage, {what}, {form}, page cache {work.cache}"
        found.append(Section(work.storage, title, tuple(sorted(group, key=lambda line: -line.rate))))
    return found


def render(template: str, **values: Any) -> str:
    """Return a template's text; what a value holds is no Markdown there, unless the template calls it ``safe``."""
    shown = (lambda text: escaped_markdown(printable(text))) if template.endswith(".md.jinja") else printable
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), undefined=jinja2.StrictUndefined, trim_blocks=True,
        lstrip_blocks=True, autoescape=False,
        finalize=lambda x: x if hasattr(x, "__html__") else shown(x),
    )  # fmt: skip
    environment.filters |= {"f": format, "median": median, "mean": fmean}
    return environment.get_template(template).render(values).strip()


def markdown(results: Results, **how: Any) -> str:
    """Return a run's tables; of ``how`` see results.md.jinja: what is shown besides or instead."""
    fits = [name for name, size in results.data.bytes.items()
            if size < (results.environment.last_level_cache_bytes or 0)]  # fmt: skip
    options = sorted({(line.size, line.batch_size) for line in results.train})  # where the recipe says it
    text = render(
        "results.md.jinja", run=results, goals=verdicts(results), sections=sections(results.lines), in_cache=fits,
        caveats=list(dict.fromkeys(caveat for line in results.lines for caveat in line.caveats)),
        sizes=options or [(results.settings.get("size"), results.settings.get("batch_size"))],
        on_gpu=[line for line in (*results.lines, *results.train) if all(repeat.gpu for repeat in line.repeats)],
        waiting=lambda line: median(repeat.wait_seconds / repeat.seconds for repeat in line.repeats),
        bound=bound, ratio_text=ratio_text, share_of_limit=share_of_limit, times_baseline=times_baseline,
        **{"full": False, "headline": False, "took": False, "plot": None, **how},
    )  # fmt: skip
    return re.sub(r"\n{3,}", "\n\n", text)


def expect_names_for_markers(names: Sequence[str]) -> None:
    """Raise a :class:`UsageError` for results that no marker can name, or of which two would have the same one."""
    if len(set(names)) < len(names):
        raise UsageError("two of the files have the same name, which says where in the documents they go; rename one")
    for name in names:
        if not name.isprintable() or ">" in name:
            raise UsageError(
                f"results named {printable(name)!r} have no place in a document: a marker <!-- figures: NAME --> "
                "cannot hold > or what is not printable; rename the file"
            )
        if f"{name}-full" in names:
            raise UsageError(
                f"<!-- figures: {name}-full --> would be the place of {name}-full and of all tables of {name}; "
                "rename one"
            )


def update_document(path: Path, runs: Mapping[str, Results], *, plot: str | None) -> list[str]:
    """Replace what stands between markers by the figures of the runs, by name; return the names of the blocks.

    ``plot`` is the address of the first run's figure. A :class:`UsageError` says that there is no marker for any run,
    or that the document is not UTF-8. Its ends of lines stay as they are; the figures get those of their marker.
    """
    try:
        written = read_regular(path).decode()
    except UnicodeDecodeError:
        raise UsageError(f"{path} is not UTF-8; save it as UTF-8") from None
    done: list[str] = []

    def replaced(match: re.Match[str]) -> str:
        name = match[2] if match[2] in runs else match[2].removesuffix("-full")
        if name not in runs:
            return match[0]
        done.append(match[2])
        shown = plot if name == next(iter(runs)) else None
        made = markdown(runs[name], full=match[2] != name, headline=True, plot=shown)
        return match[1] + f"{made}\n".replace("\n", match[3]) + match[5]

    updated = _BLOCK.sub(replaced, written)
    if not done:
        kinds = " or ".join(f"<!-- figures: {kind} -->" for kind in runs)
        raise UsageError(
            f"{path} has no place for these figures; put in {kinds} and <!-- end of figures -->, each on its line"
        )
    if updated != written:
        write_atomically(path, updated)
    return done
