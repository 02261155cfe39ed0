"""Exports a network's weights as safetensors, with a model card."""

from pathlib import Path

from petseg.exporters.model_card import card_facts, expect_absent, model_card
from petseg.exporters.onnx_model import require
from petseg.inference.trained_network import Predictor
from shards.store.atomic import write_atomically


def export_weights(predictor: Predictor, path: str | Path, *, overwrite: bool = False) -> Path:
    """Write the (averaged) weights to ``path`` and a model card next to it, FILE.md; return the card's path.

    The file's metadata contain the architecture, from which ``petseg.build_model`` rebuilds the network, and the
    labels; the card also contains code that needs torch alone.

    Raises:
        PetsegError: the ``export`` extra is not installed, or a file exists already and ``overwrite`` is False.
    """
    path = Path(path)
    card = path.with_suffix(".md")
    expect_absent(path, card, overwrite=overwrite)
    require("safetensors")
    from safetensors.torch import save

    weights = {name: value.contiguous() for name, value in predictor.model.state_dict().items()}
    write_atomically(path, save(weights, metadata={"format": "pt", **card_facts(predictor)}))
    write_atomically(card, model_card(predictor, path))
    return card
