"""The model card beside an exported network: what it predicts, what it takes and gives, and code that uses it."""

import json
from pathlib import Path

import msgspec

from petseg.exporters.plain_torch import forward_code, module_of_encoder
from petseg.inference.trained_network import Predictor
from petseg.nets.factory import count_parameters
from petseg.runs.checkpoint import load_checkpoint
from petseg.runs.history import judged_part
from petseg.runs.run_config import versions
from shards.errors import UsageError
from shards.format.geometry import PAD_COLOUR, size_text
from shards.format.labels import UNTINTED, Labels

_FITS = {
    "stretch": "The whole image is stretched to {size} pixels (height x width) with an antialiasing bilinear filter.",
    "contain": "The whole image is resized to fit into {size} pixels (height x width), keeping its aspect ratio, with "
    "an antialiasing bilinear filter, and put into the middle; around it is the colour {pad}.",
    "cover": "The whole image is resized, keeping its aspect ratio, with an antialiasing bilinear filter, to the "
    "smallest size that covers {size} pixels (height x width). The network was trained on crops of {size}, and takes "
    "any height and width.",
}
_IMPORTS = """
import json
import sys

import numpy as np
{imports}
from PIL import Image, ImageOps
"""
_LOAD_ONNX = """
session = onnxruntime.InferenceSession("{file}")
facts = session.get_modelmeta().custom_metadata_map
"""
_LOAD_WEIGHTS = """
with safe_open("{file}", "pt") as file:
    facts, w = file.metadata(), {{name: file.get_tensor(name) for name in file.keys()}}
"""
_READ = """
labels = json.loads(facts["labels"])
image = ImageOps.exif_transpose(Image.open(sys.argv[1])).convert("RGB")
width, height = image.size
"""
_SIZE = 'rows, columns = json.loads(facts["size"])\n'
_PLACE = {
    "stretch": """
top, left, inner_rows, inner_columns = 0, 0, rows, columns
pixels = np.asarray(image.resize((columns, rows), Image.Resampling.BILINEAR))
""",
    "contain": """
scale = min(rows / height, columns / width)
inner_rows, inner_columns = max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))
top, left = (rows - inner_rows) // 2, (columns - inner_columns) // 2
canvas = Image.new("RGB", (columns, rows), {pad})
canvas.paste(image.resize((inner_columns, inner_rows), Image.Resampling.BILINEAR), (left, top))
pixels = np.asarray(canvas)
""",
    "cover": """
scale = max(rows / height, columns / width)
inner_rows, inner_columns = ({multiple} * max(1, int(side * scale / {multiple} + 0.5)) for side in (height, width))
top = left = 0
pixels = np.asarray(image.resize((inner_columns, inner_rows), Image.Resampling.BILINEAR))
""",
}
_RUN_ONNX = """
(logits,) = session.run(["logits"], {"image": pixels.transpose(2, 0, 1)[None]})
"""
_RUN_WEIGHTS = """
with torch.inference_mode():
    logits = network(torch.from_numpy(pixels.transpose(2, 0, 1)[None].copy())).numpy()
"""
# Class by class: 150 planes of a large photo would take gigabytes.
_BACK = """
exponentials = np.exp(logits[0] - logits[0].max(axis=0))
probabilities = exponentials / exponentials.sum(axis=0)
probabilities = probabilities[:, top : top + inner_rows, left : left + inner_columns]
best, index = np.full((height, width), -1, np.float32), np.zeros((height, width), np.uint8)
for number, plane in enumerate(probabilities):
    plane = np.asarray(Image.fromarray(plane).resize((width, height), Image.Resampling.BILINEAR))
    index[plane > best] = number
    best = np.maximum(best, plane)
"""
_WRITE_VALUES = """
mask = Image.fromarray(np.array([each["values"][0] for each in labels["classes"]], np.uint8)[index])
palette = {each["values"][0]: bytes.fromhex(each["color"][1:]) for each in labels["classes"]}
mask.putpalette(b"".join(palette.get(value, bytes(3)) for value in range(256)))
mask.save(sys.argv[2])
"""
_WRITE_COLOURS = """
colours = [list(bytes.fromhex(each["source_colors"][0][1:])) for each in labels["classes"]]
Image.fromarray(np.array(colours, np.uint8)[index]).save(sys.argv[2])
"""


def card_facts(predictor: Predictor) -> dict[str, str]:
    """Return what an exported file says of itself in its metadata: JSON texts that the card's code reads."""
    return {
        "labels": json.dumps(msgspec.to_builtins(predictor.labels)),
        "size": json.dumps(predictor.size),
        "fit": predictor.recipe.fit,
        "architecture": json.dumps(msgspec.to_builtins(predictor.recipe.model)),
    }


def side_multiple(predictor: Predictor) -> int:
    """Return what a run of ``cover`` needs the sides of ONNX inputs to be a multiple of: 1, but for transposed ups.

    Their branch that mends odd sides is not part of the exported graph.
    """
    model = predictor.recipe.model
    if model.name == "tutorial":
        return 4
    if model.upsample != "transposed":
        return 1
    return 32 if model.encoder != "none" else 2 ** (len(model.widths) - 1) * (2 if model.stem == "half" else 1)


def usage_code(predictor: Predictor, file: str) -> str:
    """Return a program that predicts one image with an exported file alone, and writes the mask at its original size.

    ``file`` is the name of the ONNX or safetensors file; the program's arguments are an image and the mask to write.
    """
    fit, labels, onnx = predictor.recipe.fit, predictor.labels, file.endswith(".onnx")
    imports = "import onnxruntime"
    if not onnx:
        encoder = module_of_encoder(predictor.recipe.model)
        more = "" if encoder is None else f"import {encoder}\n"
        imports = f"import torch\nimport torch.nn.functional as F\n{more}from safetensors import safe_open"
    multiple = str(side_multiple(predictor) if onnx else 1)
    place = _PLACE[fit].replace("{pad}", str(PAD_COLOUR)).replace("{multiple}", multiple)
    parts = [
        _IMPORTS.format(imports=imports),
        (_LOAD_ONNX if onnx else _LOAD_WEIGHTS).format(file=file),
        "" if onnx else forward_code(predictor.recipe.model),
        _READ.strip("\n") + "\n" + _SIZE + place.strip("\n"),
        _RUN_ONNX if onnx else _RUN_WEIGHTS,
        _BACK,
        _WRITE_COLOURS if labels.rgb else _WRITE_VALUES,
    ]
    return "\n\n".join(part.strip("\n") for part in parts if part) + "\n"


def model_card(predictor: Predictor, path: Path) -> str:
    """Return the text (Markdown) of the card of ``path``, the exported file."""
    labels, onnx = predictor.labels, path.suffix == ".onnx"
    height, width = predictor.size
    network = f"`{predictor.recipe.model.name}`, {count_parameters(predictor.model):,} weights"
    made = ", ".join(f"{name} {version}" for name, version in versions().items())
    shape = "(B, 3, H, W)" if predictor.recipe.fit == "cover" or not onnx else f"(B, 3, {height}, {width})"
    tensor = f"`image`, uint8 {shape}" if onnx else f"uint8 or float {shape}"
    multiple = side_multiple(predictor)
    sides = f" H and W are multiples of {multiple}." if onnx and "H" in shape and multiple > 1 else ""
    classes = "one class" if len(labels) == 1 else f"{len(labels)} classes"
    needs = "onnxruntime, NumPy and Pillow" if onnx else "torch, safetensors, NumPy and Pillow"
    return f"""# {path.stem}

Segments an image into {classes}: one logit per class and pixel, in this order.

{_class_table(predictor)}

{_ignored(labels)}

- Network: {network}; it contains its normalisation.
- Input: {tensor}, RGB, 0..255, any number B of images.{sides}
  {_FITS[predictor.recipe.fit].format(size=f"{height} x {width}", pad=PAD_COLOUR)}
- Output: {"`logits`, " if onnx else ""}float32 (B, {len(labels)}, H, W); the largest is the predicted class.
- Scores: {_scores(predictor)}.
- Made with: {made}.

## Use

This needs {needs}, and nothing of petseg: `python use.py photo.jpg mask.png` writes the mask of a photo at its original
size, {"in the colours" if labels.rgb else "with the values"} of the table.

```python
{usage_code(predictor, path.name).rstrip()}
```
{"" if onnx else _with_petseg(path)}
## Recipe

```json
{json.dumps(msgspec.to_builtins(predictor.recipe), indent=2)}
```

## Limits

It was trained at {size_text(predictor.size)} pixels, on the images of its training set only, and assigns one of its
classes to every pixel of any image. Classes that are a few pixels wide, such as borders, are drawn by hand in most
datasets: differences of a pixel or two are not errors.
"""


def expect_absent(*paths: Path, overwrite: bool) -> None:
    """Raise ``UsageError`` if one of the files exists, unless they may be replaced."""
    for path in paths:
        if path.exists() and not overwrite:
            raise UsageError(f"{path} exists already; choose another name, or add --overwrite")


def _class_table(predictor: Predictor) -> str:
    labels, iou = predictor.labels, _last_iou(predictor)
    what = "colour in masks" if labels.rgb else "value in masks"
    lines = [f"| index | class | {what} | colour | IoU |", "|---|---|---|---|---|"]
    for index, (each, value) in enumerate(zip(labels.classes, iou, strict=True)):
        sources = ", ".join(map(str, each.source_colors or each.values))
        colour = "not drawn" if each.color == UNTINTED else each.color
        score = "-" if value is None else f"{value:.3f}"
        lines.append(f"| {index} | {escaped(each.name)} | {sources} | {colour} | {score} |")
    return "\n".join(lines)


def _ignored(labels: Labels) -> str:
    ignored = ", ".join(map(str, labels.ignore_colors or labels.ignore))
    what = "colour" if labels.rgb else "value"
    if not ignored:
        return "In its training masks every pixel had a class."
    return f"Pixels of its training masks with the {what} {ignored} counted nowhere; it never predicts them."


def _scores(predictor: Predictor) -> str:
    history = load_checkpoint(predictor.source).history
    if not history:
        return "not measured"
    part, judged = judged_part(history)
    images = "validation" if part == "val" else "training"
    return (
        f"mean IoU {judged[-1][part]['mean_iou']:.3f}, IoU by class in the table, on the {images} images, at the "
        f"network's size, after epoch {judged[-1]['epoch']}"
    )


def _last_iou(predictor: Predictor) -> list[float | None]:
    history = load_checkpoint(predictor.source).history
    if not history:
        return [None] * len(predictor.labels)
    part, judged = judged_part(history)
    return list(judged[-1][part]["iou"])


def _with_petseg(path: Path) -> str:
    return f"""
With petseg, `network` is also made by:

```python
import json

import msgspec
from petseg import ModelConfig, build_model
from safetensors import safe_open
from safetensors.torch import load_file

with safe_open("{path.name}", "pt") as file:
    architecture = json.loads(file.metadata()["architecture"])
network = build_model(msgspec.convert(architecture, ModelConfig))
network.load_state_dict(load_file("{path.name}"))
network.eval()
```
"""


def escaped(text: str) -> str:
    """Return a text for a Markdown table, in which it means nothing but itself."""
    return "".join(f"\\{letter}" if letter in "\\`*_{}[]<>()#+-.!|~&$" else letter for letter in text)
