"""``petseg-export``: writes a run's network as ONNX, as safetensors, or as a repository of the Hugging Face Hub."""

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from petseg.cli.shared_options import HELP, JSON, RUN, SIZE
from shards.console import FriendlyCommand, PathArgument, current_work, print_json, say
from shards.errors import UsageError, work_is_done
from shards.format.geometry import Size

_OUTPUTS = ("logits", "probabilities", "classes")
_INPUTS = ("any", "fixed", "original")


@click.command(cls=FriendlyCommand, context_settings=HELP)
@RUN
@click.argument("file", type=PathArgument())
@click.option("--onnx-output", type=click.Choice(_OUTPUTS), help="What FILE.onnx gives.  [default: logits]")
@click.option(
    "--input-size",
    type=click.Choice(_INPUTS),
    help="Height and width of FILE.onnx's images: any, fixed (--size alone), or original, which FILE.onnx resizes to "
    "--size and back itself.  [default: any]",
)
@click.option("--hub", is_flag=True, help="Write the folder FILE in the layout of a Hugging Face repository.")
@click.option("--license", help="With --hub: the license in the card, such as apache-2.0.  [default: none]")
@click.option("--dataset", help="With --hub: the training set's name on the Hub, NAME or OWNER/NAME.")
@click.option("--overwrite", is_flag=True, help="Replace existing files.")
@SIZE
@JSON
def export(run: Path, file: Path, hub: bool, as_json: bool, **options: Any) -> None:
    """Write RUN's network to FILE: as ONNX (FILE.onnx), its weights (FILE.safetensors), or a folder for the Hub.

    Beside it stands a model card, FILE.onnx.md or FILE.md: the classes with their values and colours, and a program
    that uses the file without petseg. The ONNX network takes uint8 images, any number at once; it contains the
    normalisation.

    \b
    petseg-export runs/pets pets.onnx
    petseg-export runs/pets pets.onnx --input-size original --onnx-output classes
    petseg-export runs/pets pets.safetensors
    petseg-export runs/pets pets-unet --hub --license apache-2.0
    """
    onnx = {name: options.pop(name) for name in ("onnx_output", "input_size")}
    names = {name: options.pop(name) for name in ("license", "dataset")}
    if any(names.values()) and not hub:
        raise UsageError("--license and --dataset are for --hub")
    from shards.format.readers.output_places import expect_ending, expect_free

    if not hub:
        expect_free(file, overwrite=options["overwrite"], read=run)  # before torch is imported
    ending = "" if hub else expect_ending(file, ".onnx", ".safetensors", advice="; --hub writes a folder")
    if any(onnx.values()) and ending != ".onnx":
        raise UsageError("--onnx-output and --input-size are for FILE.onnx")
    with current_work("reading the network") as on_part:
        text, size_bytes, facts = _write(run, file, hub, on_part, onnx=onnx, names=names, **options)
    with work_is_done(f"{file} is written"):
        if as_json:
            print_json({"file": str(file), "bytes": size_bytes, **facts})
        else:
            say(f"{file}: {size_bytes:,} bytes; {text}")


def _write(
    run: Path,
    file: Path,
    hub: bool,
    on_part: Callable[[str], None],
    *,
    onnx: dict[str, Any],
    names: dict[str, Any],
    overwrite: bool,
    size: Size | None,
) -> tuple[str, int, dict[str, Any]]:
    """Write the export; return what to say of it, its size in bytes, and what --json says."""
    from petseg.inference.trained_network import load

    predictor = load(run, device="cpu", precision="fp32", size=size)
    if hub:
        from petseg.exporters.hub_repository import export_hub

        made = export_hub(predictor, file, overwrite=overwrite, **names)
        facts: dict[str, Any] = {"files": [str(path) for path in made.files]}
        size_bytes = made.bytes
        upload = shlex.join(["hf", "upload", "NAME", str(file)])
        text = f"{', '.join(path.name for path in made.files)}; upload it with: {upload}"
        if names["license"] is None:
            text += "; its card names no license: add one with --license and --overwrite"
    elif file.suffix.lower() == ".safetensors":
        from petseg.exporters.safetensors_weights import export_weights

        card = export_weights(predictor, file, overwrite=overwrite)
        facts, size_bytes = {"card": str(card)}, file.stat().st_size
        text = f"its model card is {card}"
    else:
        from petseg.exporters.onnx_model import export_onnx
        from petseg.exporters.onnx_network import OnnxOptions

        chosen = OnnxOptions(output=onnx["onnx_output"] or "logits", input_size=onnx["input_size"] or "any")
        exported = export_onnx(predictor, file, options=chosen, overwrite=overwrite, on_part=on_part)
        facts = {"card": str(exported.card), "largest_difference": exported.largest_difference}
        size_bytes = exported.bytes
        difference = f"differ from torch's by at most {exported.largest_difference:.1e}"
        if chosen.output == "classes":
            difference = "are those of torch"
            if exported.largest_difference:
                difference += f" but where the two best scores differ by at most {exported.largest_difference:.1e}"
        text = f"its model card is {exported.card}; onnxruntime's {chosen.output} {difference}"
    return text, size_bytes, facts
