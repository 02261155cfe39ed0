"""Writes a network in the layout of a Hugging Face repository: weights, configuration, model card, and a program.

The card's front matter follows https://huggingface.co/docs/hub/model-cards#model-card-metadata; its values are JSON
strings, which are YAML, too.
"""

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from petseg.exporters.export_files import write_export
from petseg.exporters.hub_layout import CARD, HUB_CONFIG, HUB_VERSION, PROGRAM, HubConfig
from petseg.exporters.model_card import card_scores, model_card, shown_recipe
from petseg.exporters.safetensors_weights import weights_file
from petseg.exporters.usage_program import usage_code
from petseg.inference.trained_network import Predictor
from petseg.runs.checkpoint import CheckpointError
from petseg.runs.run_folder import SAFETENSORS, read_config
from shards.errors import UsageError, escaped_markdown, option, printable
from shards.format.readers.output_places import expect_folder, expect_free

_TAGS = ("semantic-segmentation", "image-segmentation", "petseg", "pytorch", "u-net")
_LICENSE = re.compile(r"[a-z0-9][a-z0-9.+-]{0,60}")  # the Hub's identifiers: apache-2.0, mit, cc-by-4.0, other
_DATASET = re.compile(r"[\w.-]+(/[\w.-]+)?")  # the Hub's: NAME or OWNER/NAME


@dataclass(frozen=True)
class HubExport:
    """What was written: the folder, its files in the order of writing, and their bytes together."""

    folder: Path
    files: tuple[Path, ...]
    bytes: int


def export_hub(
    predictor: Predictor,
    folder: str | Path,
    *,
    license: str | None = None,  # noqa: A002 - the option's name, and the card's
    dataset: str | None = None,
    overwrite: bool = False,
) -> HubExport:
    """Write README.md, config.json, model.safetensors and use.py into a folder, which is created if missing.

    Args:
        predictor: on the CPU, in fp32.
        folder: may hold other files, such as a clone's .git; not a run's or a shard set's.
        license: the Hub's identifier of a license, such as ``apache-2.0``; None leaves it out of the card.
        dataset: the training set's name on the Hub; None for that of the folder of the run's shard set, as text only.
        overwrite: replace existing files of these names.

    Raises:
        UsageError: a file exists, the folder is a run's or a shard set's, or a name is not one of the Hub's.
        PetsegError: safetensors is not installed.
    """
    folder = Path(folder)
    if license is not None and not _LICENSE.fullmatch(str(license)):
        raise UsageError(
            f"{option('license', license)}: give an identifier of the Hub, such as apache-2.0, cc-by-4.0 or other"
        )
    if dataset is not None and not _DATASET.fullmatch(str(dataset)):
        raise UsageError(f"{option('dataset', dataset)}: give a name as on the Hub, NAME or OWNER/NAME")
    if folder.suffix.lower() in (".onnx", ".safetensors"):
        raise UsageError(
            f"{folder}: {option('hub', True)} writes a folder, and this is the name of a file; choose one, or omit that"
        )
    expect_folder(folder, advice=f"{option('hub', True)} writes a folder")
    # config.json last: it is what makes the folder one that can be loaded.
    targets = tuple(folder / name for name in (SAFETENSORS, PROGRAM, CARD, HUB_CONFIG))
    expect_free(*targets, overwrite=overwrite, folder_is_made=True)
    title = printable(Path(os.path.realpath(folder)).name)
    front = _front_matter(predictor, title=title, license=license, dataset=dataset)
    contents: tuple[bytes | str, ...] = (
        weights_file(predictor),
        usage_code(predictor, SAFETENSORS).encode(),
        front + model_card(predictor, folder / SAFETENSORS, title=title) + _starting_from(title),
        _configuration(predictor).encode(),
    )
    folder.mkdir(parents=True, exist_ok=True)
    write_export(dict(zip(targets, contents, strict=True)), overwrite=overwrite)
    return HubExport(folder=folder, files=targets, bytes=sum(target.stat().st_size for target in targets))


def _configuration(predictor: Predictor) -> str:
    """Return config.json; ``id2label`` is what other libraries of the Hub look for."""
    recipe = predictor.recipe
    facts = HubConfig(
        version=HUB_VERSION,
        model=recipe.model,
        labels=predictor.labels,
        size=predictor.size,
        fit=recipe.fit,
        recipe=shown_recipe(predictor),
    )
    names = predictor.labels.names
    document = {
        "library_name": "petseg",
        "model_type": f"petseg-{recipe.model.name}",
        "id2label": {str(index): name for index, name in enumerate(names)},
        "label2id": {name: index for index, name in enumerate(names)},
        "petseg": msgspec.to_builtins(facts),
    }
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def _front_matter(predictor: Predictor, *, title: str, license: str | None, dataset: str | None) -> str:  # noqa: A002
    facts: dict[str, Any] = {} if license is None else {"license": license}
    facts |= {"library_name": "petseg", "pipeline_tag": "image-segmentation", "tags": list(_TAGS)}
    if dataset is not None:
        facts["datasets"] = [dataset]
    if (scores := card_scores(predictor)) is not None:
        metrics = [{"type": "mean_iou", "name": "mean IoU", "value": round(scores.values["mean_iou"], 6)}]
        if "pixel_accuracy" in scores.values:
            accuracy = round(scores.values["pixel_accuracy"], 6)
            metrics.append({"type": "accuracy", "name": "pixel accuracy", "value": accuracy})
        name = dataset or _trained_on(predictor)
        measured = {"name": name, "type": name, "split": scores.images}
        result = {
            "task": {"type": "image-segmentation", "name": "semantic segmentation"},
            "dataset": measured,
            "metrics": metrics,
        }
        facts |= {"metrics": [each["type"] for each in metrics]}
        facts |= {"model-index": [{"name": title, "results": [result]}]}
    return f"---\n{_yaml(facts)}---\n\n"


def _yaml(value: Any, indent: int = 0) -> str:
    """Return nested dictionaries and lists as YAML; every text is a JSON string, so none means something else."""
    lines, space = "", " " * indent
    items = value.items() if isinstance(value, dict) else ((None, each) for each in value)
    for key, each in items:
        start = "- " if key is None else f"{key}:"
        if isinstance(each, dict | list):
            inner = _yaml(each, indent + 2)
            lines += f"{space}- {inner[indent + 2 :]}" if key is None else f"{space}{start}\n{inner}"
        else:
            lines += f"{space}{start}{'' if key is None else ' '}{json.dumps(each, ensure_ascii=False)}\n"
    return lines


def _trained_on(predictor: Predictor) -> str:
    """Return the name of the folder of the run's shard set, if the run's folder is there and says so."""
    try:
        path = read_config(predictor.source.parent)["data"]["path"]
    except (CheckpointError, KeyError, TypeError):
        return "unknown"
    return printable(Path(str(path)).name) or "unknown"  # YAML takes no control characters


def _starting_from(title: str) -> str:
    return f"""
## Training from it

A new training starts from these weights with petseg: `petseg-train --shards SET --init-from FOLDER`, where FOLDER is a
clone or a download of this repository, {escaped_markdown(title)}; its classes may differ.
"""
