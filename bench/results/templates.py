"""The texts of results are Jinja templates in this folder."""

from pathlib import Path
from statistics import fmean, median
from typing import Any

import jinja2

from shards.errors import printable


def render(template: str, **values: Any) -> str:
    """Return a template's text; in a Markdown table a | in a value would end the cell."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), undefined=jinja2.StrictUndefined, trim_blocks=True,
        lstrip_blocks=True, autoescape=False,
        finalize=lambda x: printable(x).replace("|", "\\|") if type(x) is str else x,
    )  # fmt: skip
    environment.filters |= {"f": format, "median": median, "mean": fmean}
    return environment.get_template(template).render(values).strip()
