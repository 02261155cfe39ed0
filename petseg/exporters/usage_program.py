"""The program of a model card: it predicts one image with an exported file alone, at its original resolution."""

import json
import textwrap

import msgspec

from petseg.exporters.onnx_network import OnnxOptions
from petseg.exporters.plain_torch import forward_code, module_of_encoder
from petseg.inference.network_inputs import OVERLAP, scaled_size
from petseg.inference.trained_network import Predictor
from shards.format.geometry import PAD_COLOUR, middle_scale

_IMPORTS = """
import json
import sys

import numpy as np
{imports}
from PIL import Image, ImageOps
"""
_LOAD_ONNX = """
session = onnxruntime.InferenceSession({file})
facts = session.get_modelmeta().custom_metadata_map
"""
_LOAD_WEIGHTS = """
with safe_open({file}, "pt") as file:
    facts, w = file.metadata(), {{name: file.get_tensor(name) for name in file.keys()}}
"""
_READ = """
labels = json.loads(facts["labels"])
image = ImageOps.exif_transpose(Image.open(sys.argv[1]))
if image.mode[0] in "IF":  # Pillow would clip it
    sys.exit(f"{sys.argv[1]}: more than 8 bits per channel; convert it to 8, how depends on what it shows")
image = image.convert("RGBA")
image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
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
_WHOLE = """
pixels = np.asarray(image)
"""
_RUN_ONNX = """
(result,) = session.run(["{output}"], {{"image": pixels.transpose(2, 0, 1)[None]}})
"""
_RUN_WEIGHTS = """
with torch.inference_mode():
    result = network(torch.from_numpy(pixels.transpose(2, 0, 1)[None].copy())).numpy()
"""
_SOFTMAX = """
exponentials = np.exp(result[0] - result[0].max(axis=0))
probabilities = exponentials / exponentials.sum(axis=0)
"""
_PROBABILITIES = """
probabilities = result[0]
"""
# Class by class: 150 planes of a large photo would take gigabytes.
_BACK = """
probabilities = probabilities[:, top : top + inner_rows, left : left + inner_columns]
best, index = np.full((height, width), -1, np.float32), np.zeros((height, width), np.uint8)
for number, plane in enumerate(probabilities):
    plane = np.asarray(Image.fromarray(plane).resize((width, height), Image.Resampling.BILINEAR))
    index[plane > best] = number
    best = np.maximum(best, plane)
"""
_CLASSES_BACK = """
small = Image.fromarray(result[0][top : top + inner_rows, left : left + inner_columns])
index = np.asarray(small.resize((width, height), Image.Resampling.NEAREST))
"""
# A network that was trained on crops: windows slide over the image, at the scale of those crops. The recipe is that of
# petseg.inference.sliding_window; the weights need not add up to 1, because only the largest sum matters.
_WINDOWS = """
window, shown, overlap = {window}, {shown}, {overlap}  # (height, width): in image pixels, and as the network gets them


def places(length, side):
    room, step = length - side, max(1, int(side * (1 - overlap)))
    last = max(1, -(-room // step))
    return [(2 * n * room + last) // (2 * last) for n in range(last + 1)] if room > 0 else [-(-room // 2)]


bells = [np.exp(-32 * ((np.arange(side) + 0.5) / side - 0.5) ** 2) for side in window]
weights = np.outer(*bells).astype(np.float32)
total = np.zeros((len(labels["classes"]), height, width), np.float32)
for top, left in [(top, left) for top in places(height, window[0]) for left in places(width, window[1])]:
    part = Image.new("RGB", window[::-1], {pad})
    part.paste(image, (-left, -top))
    pixels = np.asarray(part.resize(shown[::-1], Image.Resampling.BILINEAR))
{run}
    above, before = max(0, -top), max(0, -left)
    inside = slice(above, min(window[0], height - top)), slice(before, min(window[1], width - left))
    place = slice(top + above, top + inside[0].stop), slice(left + before, left + inside[1].stop)
    for number, plane in enumerate(probabilities):
        plane = Image.fromarray(plane).resize(window[::-1], Image.Resampling.BILINEAR)
        total[number][place] += (np.asarray(plane) * weights)[inside]
index = total.argmax(axis=0)
"""
_VOTES = """
probabilities = (result[0] == np.arange(len(labels["classes"]))[:, None, None]).astype(np.float32)
"""
_SAME_SIZE = {"classes": "index = result[0]", "logits": "index = result[0].argmax(axis=0)"}
_SAME_SIZE["probabilities"] = _SAME_SIZE["logits"]
_PROBABILITIES_OF = {"logits": _SOFTMAX, "probabilities": _PROBABILITIES, "classes": _VOTES}
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


def quoted(text: str) -> str:
    """Return a text, such as a file's name, as Python writes it, in one line; with double quotes where it may have."""
    return json.dumps(text, ensure_ascii=False) if text.isprintable() else ascii(text)


def card_facts(predictor: Predictor) -> dict[str, str]:
    """Return what an exported file says of itself in its metadata: JSON texts that the card's code reads."""
    return {
        "labels": json.dumps(msgspec.to_builtins(predictor.labels)),
        "size": json.dumps(predictor.size),
        "fit": predictor.recipe.fit,
        "architecture": json.dumps(msgspec.to_builtins(predictor.recipe.model)),
    }


def stride_of(predictor: Predictor) -> int:
    """Return what images are padded to multiples of before the network, as it pads them itself."""
    if predictor.recipe.model.name == "tutorial":
        return 4
    return int(getattr(predictor.model, "stride", 1))


def side_multiple(predictor: Predictor) -> int:
    """Return what the sides of an ONNX file's inputs must be multiples of: 1, but for most transposed convolutions.

    Without padding, a branch of the decoder mends odd sides, and that is not part of the exported graph.
    """
    model = predictor.recipe.model
    if model.upsample != "transposed" or stride_of(predictor) > 1 or model.input_scale > 1:
        return 1
    return 32 if model.encoder != "none" else 2 ** (len(model.widths) - 1) * (2 if model.stem == "half" else 1)


def usage_code(predictor: Predictor, file: str, options: OnnxOptions | None = None) -> str:
    """Return a program that predicts one image with an exported file alone, and writes the mask at its original size.

    ``file`` is the name of the ONNX or safetensors file, ``options`` are those of the former; the program's arguments
    are an image and the mask to write.
    """
    fit, labels, onnx = predictor.recipe.fit, predictor.labels, file.lower().endswith(".onnx")
    options = options or OnnxOptions()
    imports = "import onnxruntime"
    if not onnx:
        encoder = module_of_encoder(predictor.recipe.model)
        more = "" if encoder is None else f"import {encoder}\n"
        imports = f"import torch\nimport torch.nn.functional as F\n{more}from safetensors import safe_open"
    multiple = side_multiple(predictor) if onnx else 1
    run = _RUN_ONNX.format(output=options.output) if onnx else _RUN_WEIGHTS
    place = _SIZE + _PLACE[fit].replace("{pad}", str(PAD_COLOUR)).replace("{multiple}", str(multiple)).strip("\n")
    after: tuple[str, ...]
    if options.input_size == "original":
        after = _WHOLE, run, _SAME_SIZE[options.output]
    elif predictor.recipe.crop_scale is not None:
        fixed = onnx and options.input_size == "fixed"
        after = (_windows(predictor, run, options.output, multiple=multiple, fixed=fixed),)
    elif options.output == "classes":
        after = place, run, _CLASSES_BACK
    else:
        after = place, run, _PROBABILITIES_OF[options.output].strip("\n") + _BACK
    parts = [
        _IMPORTS.format(imports=imports),
        (_LOAD_ONNX if onnx else _LOAD_WEIGHTS).format(file=quoted(file)),
        "" if onnx else forward_code(predictor.recipe.model),
        _READ.strip("\n") + "\n" + after[0].strip("\n"),
        *after[1:],
        _WRITE_COLOURS if labels.rgb else _WRITE_VALUES,
    ]
    return "\n\n".join(part.strip("\n") for part in parts if part) + "\n"


def _windows(predictor: Predictor, run: str, output: str, *, multiple: int, fixed: bool) -> str:
    """Return the part of the program that predicts in windows, as petseg-predict does for a run on crops."""
    scale = middle_scale(predictor.recipe.crop_scale or (1.0, 1.0))
    window = scaled_size(predictor.size, 1 / scale)
    shown = predictor.size if fixed else scaled_size(window, scale)
    height, width = (multiple * max(1, round(side / multiple)) for side in shown)
    body = run.strip("\n") + "\n" + _PROBABILITIES_OF[output].strip("\n")
    return _WINDOWS.format(
        window=window,
        shown=(height, width),
        overlap=OVERLAP,
        pad=PAD_COLOUR,
        run=textwrap.indent(body, "    "),
    )
