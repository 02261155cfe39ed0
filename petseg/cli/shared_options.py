"""Options that petseg-eval, petseg-predict and petseg-export share."""

from pathlib import Path

import click

from shards.console import PathArgument

RUN = click.argument("run", type=PathArgument())
SIZE = click.option("--size", type=int, help="Side of the network's images.  [default: as trained]")
DEVICE = click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
PRECISION = click.option(
    "--precision", type=click.Choice(["auto", "fp32", "bf16", "fp16"]), default="auto", show_default=True
)
FLIP_TTA = click.option(
    "--flip-tta", "--mirror", "flip_tta", is_flag=True, help="Average with the flipped images' predictions."
)
JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")


def expect_folder_of(file: Path, *, option: str) -> None:
    """Refuse a file that cannot be written before time is spent on its contents."""
    if not file.parent.is_dir():
        raise click.BadParameter(f"there is no folder {file.parent} to write {file.name} into", param_hint=option)
    if file.is_dir():
        raise click.BadParameter(f"{file} is a folder; name a file", param_hint=option)
