"""``petseg-export``: writes a run's network as ONNX or safetensors."""

from pathlib import Path
from typing import Any

import click

from petseg.cli.shared_options import HELP, JSON, RUN, SIZE, expect_folder_of
from shards.console import FriendlyCommand, PathArgument, print_json


@click.command(cls=FriendlyCommand, context_settings=HELP)
@RUN
@click.argument("file", type=PathArgument())
@click.option("--overwrite", is_flag=True, help="Replace an existing file and its card.")
@SIZE
@JSON
def export(run: Path, file: Path, overwrite: bool, as_json: bool, **options: Any) -> None:
    """Write RUN's network to FILE: as ONNX (FILE.onnx), or its weights (FILE.safetensors).

    Beside it stands a model card, FILE.onnx.md or FILE.md: the classes with their values and colours, and a program
    that uses the file without petseg. The ONNX network takes uint8 images, any number at once; it contains the
    normalisation.

    \b
    petseg-export runs/pets pets.onnx
    petseg-export runs/pets pets.safetensors
    """
    expect_folder_of(file, option="FILE")
    from petseg.exporters.onnx_model import export_onnx
    from petseg.exporters.safetensors_weights import export_weights
    from petseg.inference.trained_network import load

    predictor = load(run, device="cpu", precision="fp32", **options)
    if file.suffix == ".safetensors":
        card = export_weights(predictor, file, overwrite=overwrite)
        facts: dict[str, str | float] = {"card": str(card)}
        text = f"its model card is {card}"
    else:
        exported = export_onnx(predictor, file, overwrite=overwrite)
        card, difference = exported.card, exported.largest_difference
        facts = {"card": str(card), "largest_difference": difference}
        text = f"its model card is {card}; onnxruntime's logits differ from torch's by at most {difference:.1e}"
    size_bytes = file.stat().st_size
    if as_json:
        print_json({"file": str(file), "bytes": size_bytes, **facts})
    else:
        click.echo(f"{file}: {size_bytes:,} bytes; {text}")
