"""Options that petseg-eval, petseg-predict and petseg-export share, and how all commands spell ``--help``."""

from typing import Any

import click

from shards.console import PathArgument
from shards.errors import UsageError
from shards.format.geometry import Size, parse_size


class NamedType(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.4
    """A type that help shows by its name as it is written: ``N|HxW``; click would write it in capitals."""

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        """Return the name."""
        return self.name


class SizeOption(NamedType):
    """N or HxW in pixels as (height, width); which sizes are possible is checked where they are used."""

    name = "N|HxW"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Size:
        """Return the size; fail if it is not one."""
        try:
            return parse_size(value, name="size", least=0, most=10**9)
        except UsageError:
            self.fail(f"{value!r} is neither N nor HxW (height x width) in pixels, such as 128 or 96x160", param, ctx)


HELP = {"help_option_names": ["-h", "--help"]}
RUN = click.argument("run", type=PathArgument())
SIZE = click.option("--size", type=SizeOption(), help="Size of the network's images, pixels.  [default: as trained]")
DEVICE = click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
PRECISION = click.option(
    "--precision",
    type=click.Choice(["auto", "fp32", "bf16", "fp16"]),
    default="auto",
    show_default=True,
    help="Of convolutions; auto: bf16 or fp16 on a GPU, fp32 on a CPU.",
)
FLIP_TTA = click.option(
    "--flip-tta", "--mirror", "flip_tta", is_flag=True, help="Average with the flipped images' predictions."
)


class WindowOption(SizeOption):
    """The same, or ``auto``."""

    name = "N|HxW|auto"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the size or ``auto``; fail if it is neither."""
        return value if value == "auto" else super().convert(value, param, ctx)


class NumbersOption(NamedType):
    """Numbers of a type separated by commas, ``count`` of them; which are possible is checked where they are used."""

    def __init__(self, name: str, kind: type[int] | type[float], what: str, *, count: int | None = None) -> None:
        self.name, self._kind, self._what, self._count = name, kind, what, count

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, ...]:
        """Return the numbers; fail if one is none, or if there are not as many."""
        try:
            numbers = value if isinstance(value, tuple) else tuple(map(self._kind, value.split(",")))
        except ValueError:
            numbers = ()
        if not numbers or len(numbers) != (self._count or len(numbers)):
            self.fail(f"{value!r} is not {self._what}", param, ctx)
        return numbers


WINDOW = click.option(
    "--window",
    type=WindowOption(),
    help="Slide windows of this size, image pixels, over each image; auto: that of the network's images.  [default: "
    "none, auto for a run with --crop-scale]",
)
OVERLAP = click.option("--overlap", type=float, help="Share of windows' sides that they overlap by.  [default: 0.25]")
FACTORS = NumbersOption("F,F,...", float, "a list of numbers such as 0.75,1,1.25")
SCALES = click.option(
    "--scales", type=FACTORS, default=(1.0,), help="Average over these scales, such as 0.75,1,1.25.  [default: 1]"
)
JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
