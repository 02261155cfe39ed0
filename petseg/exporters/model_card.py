"""The model card beside an exported network: what it predicts, what it takes and gives, and code that uses it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec

from petseg.exporters.onnx_network import OPSET, OnnxOptions
from petseg.exporters.plain_torch import module_of_encoder
from petseg.exporters.usage_program import quoted, side_multiple, usage_code
from petseg.inference.network_inputs import scaled_size
from petseg.inference.trained_network import Predictor
from petseg.nets.factory import count_parameters
from petseg.nets.model_config import MIN_SIZE
from petseg.runs.history import judged_part
from petseg.runs.run_config import versions
from shards.errors import escaped_markdown, printable
from shards.format.geometry import PAD_COLOUR, middle_scale, size_text
from shards.format.labels import UNTINTED, Labels

_FITS = {
    "stretch": "The whole image is stretched to {size} pixels (height x width) with an antialiasing bilinear filter.",
    "contain": "The whole image is resized to fit into {size} pixels (height x width), keeping its aspect ratio, with "
    "an antialiasing bilinear filter, and put into the middle; around it is the colour {pad}.",
    "cover": "The whole image is resized, keeping its aspect ratio, with an antialiasing bilinear filter, to the "
    "smallest size that covers {size} pixels (height x width). The network was trained on crops of {size}, and takes "
    "any height and width.",
}
_LARGEST = {
    "logits": "; the largest is the predicted class",
    "probabilities": ", which sum to 1 over the classes; the largest is the predicted class",
    "classes": ", the index of the predicted class",
}


@dataclass(frozen=True)
class CardScores:
    """The scores of the exported weights: on which images, after which epoch, as in a line of metrics.jsonl."""

    images: Literal["validation", "training"]
    epoch: int
    values: Mapping[str, Any]


def card_scores(predictor: Predictor) -> CardScores | None:
    """Return the scores of the checkpoint's last epoch, which in best.pt is the best; None if it has none."""
    if not predictor.history:
        return None
    part, judged = judged_part(predictor.history)
    return CardScores("validation" if part == "val" else "training", judged[-1]["epoch"], judged[-1][part])


def model_card(
    predictor: Predictor, path: Path, *, title: str | None = None, options: OnnxOptions | None = None
) -> str:
    """Return the text (Markdown) of the card of an exported file.

    Its stem is the title if none is given; ``options`` are those of an ONNX file.
    """
    labels, scores, onnx = predictor.labels, card_scores(predictor), path.suffix.lower() == ".onnx"
    options = options or OnnxOptions()
    height, width = predictor.size
    network = f"`{predictor.recipe.model.name}`, {count_parameters(predictor.model):,} weights"
    made = ", ".join(f"{name} {version}" for name, version in versions().items())
    tensor = "uint8 or float (B, 3, H, W)"
    if onnx:
        fixed = options.input_size == "fixed"
        tensor = f"`image`, uint8 {f'(B, 3, {height}, {width})' if fixed else '(B, 3, H, W)'}"
        made += f"; ONNX opset {OPSET}"
    classes = "one class" if len(labels) == 1 else f"{len(labels)} classes"
    encoder = module_of_encoder(predictor.recipe.model)
    more = "" if encoder is None else f"{encoder}, "
    needs = "onnxruntime, NumPy and Pillow" if onnx else f"torch, {more}safetensors, NumPy and Pillow"
    return f"""# {escaped_markdown(printable(title or path.stem))}

Segments an image into {classes}, in this order.

{_class_table(labels, scores)}

{_ignored(labels)}

- Network: {network}; it contains its normalisation.
- Input: {tensor}, channels first, RGB, 0..255, any number B of images. {_sides(predictor, options if onnx else None)}
  {_shown(predictor)}{_inside(options)}
- Output: {_output(options, len(labels)) if onnx else f"float32 (B, {len(labels)}, H, W)"}{_LARGEST[options.output]}.
- Scores: {_scores(scores)}.
- Made with: {made}.

## Use

This needs {needs}, and nothing of petseg. Saved as use.py beside the file, `python use.py photo.jpg mask.png` writes
the mask of a photo at its original size, {"in the colours" if labels.rgb else "with the values"} of the table.

```python
{usage_code(predictor, path.name, options).rstrip()}
```
{"" if onnx else _with_petseg(path)}
## Recipe

```json
{json.dumps(shown_recipe(predictor), indent=2)}
```

## Limits

It was trained at {size_text(predictor.size)} pixels, on the images of its training set only, and assigns one of its
classes to every pixel of any image. Classes that are a few pixels wide, such as borders, are drawn by hand in most
datasets: differences of a pixel or two are not errors.
{_crops(predictor)}"""


def _shown(predictor: Predictor) -> str:
    """Return how an image becomes the network's input."""
    height, width = predictor.size
    if predictor.recipe.crop_scale is None:
        return _FITS[predictor.recipe.fit].format(size=f"{height} x {width}", pad=PAD_COLOUR)
    scale = middle_scale(predictor.recipe.crop_scale)
    return (
        f"Images are not resized to one size: parts of {height} x {width} pixels (height x width) are, at a scale of "
        f"{scale:.4g}; beyond an image's edges is the colour {PAD_COLOUR}."
    )


def _crops(predictor: Predictor) -> str:
    """Return a paragraph about which images a network that was trained on crops is for; else nothing."""
    scales = predictor.recipe.crop_scale
    if scales is None:
        return ""
    size, middle = predictor.size, middle_scale(scales)
    return f"""
It was trained on crops of {size_text(size)} pixels, at {scales[0]:g} to {scales[1]:g} pixels for each of the image's,
never on whole images. The program above therefore slides windows of {size_text(scaled_size(size, 1 / middle))} image
pixels over an image, and scales each by {middle:.4g}, as `petseg-predict` does. It keeps the probabilities of the whole
image in memory, 4 bytes for each pixel and class; `petseg-predict` does not.
"""


def shown_recipe(predictor: Predictor) -> dict[str, Any]:
    """Return the recipe as JSON values, with the names of files alone: a card may be published, folders are private."""
    recipe: dict[str, Any] = msgspec.to_builtins(predictor.recipe)
    for name in ("encoder_weights", "init_from"):
        if recipe.get(name):
            recipe[name] = Path(recipe[name]).name
    return recipe


def _class_table(labels: Labels, scores: CardScores | None) -> str:
    iou = [None] * len(labels) if scores is None else scores.values["iou"]
    what = "colour in masks" if labels.rgb else "value in masks"
    lines = [f"| index | class | {what} | colour | IoU |", "|---|---|---|---|---|"]
    for index, (each, value) in enumerate(zip(labels.classes, iou, strict=True)):
        sources = ", ".join(map(str, each.source_colors or each.values))
        colour = "not drawn" if each.color == UNTINTED else each.color
        score = "-" if value is None else f"{value:.3f}"
        lines.append(f"| {index} | {escaped_markdown(each.name)} | {sources} | {colour} | {score} |")
    return "\n".join(lines)


def _sides(predictor: Predictor, options: OnnxOptions | None) -> str:
    """Return what H and W may be."""
    if options is None or options.input_size == "any":
        multiple = 1 if options is None else side_multiple(predictor)
        multiples = f", and multiples of {multiple}" if multiple > 1 else ""
        return f"H and W are at least {MIN_SIZE}{multiples}; near those of the training the network is at its best."
    return "H and W are these alone." if options.input_size == "fixed" else "H and W are at least 2, those of a photo."


def _inside(options: OnnxOptions) -> str:
    return " The file contains this." if options.input_size == "original" else ""


def _output(options: OnnxOptions, classes: int) -> str:
    shape = "uint8 (B, H, W)" if options.output == "classes" else f"float32 (B, {classes}, H, W)"
    return f"`{options.output}`, {shape}"


def _ignored(labels: Labels) -> str:
    ignored = ", ".join(map(str, labels.ignore_colors or labels.ignore))
    what = "colour" if labels.rgb else "value"
    if not ignored:
        return "In its training masks every pixel had a class."
    return f"Pixels of its training masks with the {what} {ignored} counted nowhere; it never predicts them."


def _scores(scores: CardScores | None) -> str:
    if scores is None:
        return "not measured"
    return (
        f"mean IoU {scores.values['mean_iou']:.3f}, IoU by class in the table, on the {scores.images} images, at the "
        f"network's size, after epoch {scores.epoch}"
    )


def _with_petseg(path: Path) -> str:
    return f"""
With petseg, `network` is also made by:

```python
import json

import msgspec
from petseg import ModelConfig, build_model
from safetensors import safe_open
from safetensors.torch import load_file

with safe_open({quoted(path.name)}, "pt") as file:
    architecture = json.loads(file.metadata()["architecture"])
network = build_model(msgspec.convert(architecture, ModelConfig))
network.load_state_dict(load_file({quoted(path.name)}))
network.eval()
```
"""
