"""Exports a network's weights as safetensors, with a model card."""

import json
from pathlib import Path

import numpy as np

from petseg.exporters.export_files import write_export
from petseg.exporters.model_card import model_card
from petseg.exporters.onnx_model import expect_predictor, require
from petseg.exporters.usage_program import card_facts
from petseg.host.tensor_archive import safetensors_header
from petseg.inference.trained_network import Predictor
from shards.errors import expect_flags
from shards.format.readers.output_places import expect_ending, expect_free
from shards.store.addresses import expect_paths


def export_weights(predictor: Predictor, path: str | Path, *, overwrite: bool = False) -> Path:
    """Write the (averaged) weights to ``path`` and a model card next to it, FILE.md; return the card's path.

    The file's metadata contain the architecture, from which ``petseg.build_model`` rebuilds the network, and the
    labels; the card also contains code that needs torch alone.

    Raises:
        PetsegError: the ``export`` extra is not installed, a file exists already and ``overwrite`` is False, or the
            network's outputs are not finite.
    """
    expect_predictor(predictor)
    expect_paths(path=path)
    expect_flags(overwrite=overwrite)
    path = Path(path)
    expect_ending(path, ".safetensors")
    card = path.with_suffix(".md")
    expect_free(path, card, overwrite=overwrite)
    contents: dict[Path, bytes | str] = {path: weights_file(predictor), card: model_card(predictor, path)}
    write_export(contents, overwrite=overwrite)
    return card


def weights_file(predictor: Predictor) -> bytes:
    """Return the (averaged) weights as a safetensors file, whose metadata are those of :func:`card_facts`."""
    require("safetensors")
    from safetensors.torch import save

    noise = np.random.default_rng(0).integers(0, 256, (*predictor.size, 3), dtype=np.uint8)
    predictor.predict(noise)  # its outputs are finite
    weights = {name: value.contiguous() for name, value in predictor.model.state_dict().items()}
    return _in_one_order(save(weights, metadata={"format": "pt", **card_facts(predictor)}))


def _in_one_order(data: bytes) -> bytes:
    """Return a safetensors file whose metadata are sorted by name: the library writes them in an order of chance."""
    header, start = safetensors_header(data)
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # the tensors are aligned
    return len(text).to_bytes(8, "little") + text + data[start:]
