"""Exports a network's weights as safetensors, with a model card."""

import json
from pathlib import Path

import msgspec

from petseg.exporters.onnx_model import require
from petseg.inference.trained_network import Predictor
from petseg.nets.factory import count_parameters
from petseg.runs.checkpoint import load_checkpoint
from petseg.runs.run_config import versions
from shards.store.atomic import write_atomically


def export_weights(predictor: Predictor, path: str | Path) -> Path:
    """Write the (averaged) weights to ``path`` and a model card next to it; return the card's path.

    The file's metadata contain the architecture, from which ``petseg.build_model`` rebuilds the network.

    Raises:
        PetsegError: the ``export`` extra is not installed.
    """
    path = Path(path)
    require("safetensors")
    from safetensors.torch import save

    weights = {name: value.contiguous() for name, value in predictor.model.state_dict().items()}
    architecture = json.dumps(msgspec.to_builtins(predictor.recipe.model))
    metadata = {"format": "pt", "architecture": architecture, "size": str(predictor.size)}
    card = path.with_suffix(".md")
    write_atomically(path, save(weights, metadata=metadata))
    write_atomically(card, _card(predictor, path))
    return card


def _card(predictor: Predictor, path: Path) -> str:
    history = load_checkpoint(predictor.source).history
    scores = "not measured"
    if history:
        entry = history[-1]
        part, images = (entry["val"], "validation") if entry["val"] else (entry["train"], "training")
        iou = ", ".join("-" if value is None else f"{value:.3f}" for value in part["iou"])
        scores = f"mean IoU {part['mean_iou']:.3f} (animal, background, border: {iou}) on the {images} images"
        scores += f", at the network's size, after epoch {entry['epoch']}"
    recipe = json.dumps(msgspec.to_builtins(predictor.recipe), indent=2)
    return f"""# {path.stem}

Segments a pet in an image into animal, background and border (three logits per pixel, in this order).

- Network: `{predictor.recipe.model.name}`, {count_parameters(predictor.model):,} weights; it contains its
  normalisation.
- Input: uint8 or float (N, 3, H, W), RGB, 0..255; trained on whole images stretched to
  {predictor.size} x {predictor.size} pixels with an antialiasing filter.
- Scores: {scores}.
- Made with: {", ".join(f"{name} {version}" for name, version in versions().items())}.

```python
import json

import msgspec
from petseg import ModelConfig, build_model
from safetensors import safe_open
from safetensors.torch import load_file

with safe_open("{path.name}", "pt") as file:
    architecture = json.loads(file.metadata()["architecture"])
network = build_model(msgspec.convert(architecture, ModelConfig), load_pretrained=False)
network.load_state_dict(load_file("{path.name}"))
network.eval()
```

## Recipe

```json
{recipe}
```

## Limits

It was trained on the breeds and photographs of its training set only. The border class is a few pixels wide and drawn
by hand in the dataset: differences of a pixel or two are not errors. It knows pets only, and takes anything that
resembles fur for one.
"""
