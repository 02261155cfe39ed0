"""Exports a network as ONNX, with its normalisation and for any batch size."""

import contextlib
import io
import logging
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata, util
from pathlib import Path

import numpy as np
import torch

from petseg.exporters.model_card import card_facts, expect_absent, model_card, side_multiple
from petseg.inference.trained_network import Predictor
from petseg.nets.model_config import MIN_SIZE
from shards.errors import PetsegError, UsageError
from shards.format.geometry import Size
from shards.store.atomic import write_atomically

INPUT, OUTPUT = "image", "logits"
# Both compute in fp32, but add in another order; logits are of the order of 10.
TOLERANCE = 1e-3
_OPSET = 18


@dataclass(frozen=True)
class OnnxExport:
    """An exported file, its model card, its size in bytes, and the largest difference of a logit to torch's."""

    path: Path
    card: Path
    bytes: int
    largest_difference: float


def export_onnx(predictor: Predictor, path: str | Path, *, overwrite: bool = False) -> OnnxExport:
    """Write a network as ONNX, with a model card FILE.onnx.md, and check it with onnxruntime against torch.

    Its input ``image`` is uint8 (B, 3, H, W), 0..255, RGB, for any B, of the network's size, or of any H and W if the
    run's fit is ``cover``; its output ``logits`` float32 (B, N, H, W), of N classes in the order of the labels.

    Args:
        predictor: on the CPU, in fp32.
        path: the file; written only if the check passed.
        overwrite: replace an existing file or card.

    Raises:
        PetsegError: the ``export`` extra is not installed, a file exists, or the exported network computes something
            else.
    """
    path = Path(path)
    if path.suffix != ".onnx":
        raise UsageError(f"{path}: the name must end in .onnx or .safetensors")
    card = path.with_name(f"{path.name}.md")  # not FILE.md, which is that of FILE.safetensors
    expect_absent(path, card, overwrite=overwrite)
    require("onnx", "onnxruntime", "onnxscript")
    data = _to_onnx(predictor)
    difference = _largest_difference(predictor, data)
    if not difference <= TOLERANCE:
        raise PetsegError(
            f"the exported network differs from torch's by {difference:g} in a logit; nothing was written"
        )
    write_atomically(path, data)
    write_atomically(card, model_card(predictor, path))
    return OnnxExport(path=path, card=card, bytes=len(data), largest_difference=difference)


def require(*packages: str) -> None:
    """Raise ``PetsegError`` if a package of the ``export`` extra is missing."""
    missing = [package for package in packages if util.find_spec(package) is None]
    if missing:
        raise PetsegError(f"exporting needs {', '.join(missing)}; install with: pip install 'petseg[export]'")


def _to_onnx(predictor: Predictor) -> bytes:
    import onnx

    # Two images: with one, the exporter would take the batch size for a constant.
    example = torch.zeros(2, 3, *_input_sizes(predictor)[0], dtype=torch.uint8)
    dimensions = {0: torch.export.Dim("batch", min=1)}
    if predictor.recipe.fit == "cover":
        dimensions |= {2: torch.export.Dim("height", min=MIN_SIZE), 3: torch.export.Dim("width", min=MIN_SIZE)}
    with _quiet(), tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "model.onnx"
        torch.onnx.export(
            predictor.model,
            (example,),
            target,
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes={"image": dimensions},
            opset_version=_OPSET,
            dynamo=True,
            external_data=False,
            verbose=False,
        )
        model = onnx.load(target)
    onnx.checker.check_model(model)
    facts = {
        **card_facts(predictor),
        "classes": ",".join(predictor.labels.names),
        "trained_with": f"petseg {metadata.version('petseg')}",
    }
    onnx.helper.set_model_props(model, facts)
    return bytes(model.SerializeToString())


def _input_sizes(predictor: Predictor) -> list[Size]:
    """Return sizes of images that the exported network must take: its own, and with ``cover`` a longer one."""
    if predictor.recipe.fit != "cover":
        return [predictor.size]
    multiple = side_multiple(predictor)
    height, width = (-(-side // multiple) * multiple for side in predictor.size)
    return [(height, width), (height, -(-(width * 4 // 3 + 1) // multiple) * multiple)]


def _largest_difference(predictor: Predictor, data: bytes) -> float:
    import onnxruntime

    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    generator = np.random.default_rng(0)
    largest = 0.0
    for size in _input_sizes(predictor):
        for count in (1, 3):
            image = generator.integers(0, 256, (count, 3, *size), dtype=np.uint8)
            with torch.inference_mode():
                expected = predictor.model(torch.from_numpy(image)).numpy()
            (found,) = session.run([OUTPUT], {INPUT: image})
            largest = max(largest, float(np.abs(found - expected).max()))
    return largest


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter's warnings and output; its errors are exceptions."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(action="ignore"), contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(before)
