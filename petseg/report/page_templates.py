"""The HTML pages' templates: values are escaped, and a name that a template lacks is an error."""

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from petseg.report.console_reporter import duration
from shards.format.geometry import Size, size_text


def page_template(name: str) -> Template:
    """Return a template of the folder ``templates``; its filters are number, percent, duration and size."""
    environment = Environment(
        loader=PackageLoader("petseg", "report/templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        number=lambda value: "-" if value is None else f"{value:.3f}",
        percent=lambda share: f"{share:.1%}",
        duration=duration,
        size=_size_text,
    )
    return environment.get_template(name)


def _size_text(size: int | Size) -> str:
    """Return a size for people; runs of version 1 have one number."""
    return size_text((size, size) if isinstance(size, int) else (size[0], size[1]))
