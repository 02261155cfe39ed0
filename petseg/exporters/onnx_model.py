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

from petseg.inference.trained_network import Predictor
from shards.errors import PetsegError, UsageError
from shards.format.layout import CLASSES
from shards.store.atomic import write_atomically

INPUT, OUTPUT = "image", "logits"
# Both compute in fp32, but add in another order; logits are of the order of 10.
TOLERANCE = 1e-3
_OPSET = 18


@dataclass(frozen=True)
class OnnxExport:
    """An exported file, its size in bytes, and the largest difference between a logit of it and of torch."""

    path: Path
    bytes: int
    largest_difference: float


def export_onnx(predictor: Predictor, path: str | Path) -> OnnxExport:
    """Write a network as ONNX and check the file with onnxruntime against torch.

    Its input ``image`` is uint8 (N, 3, S, S), 0..255, RGB, for any N; its output ``logits`` float32
    (N, 3, S, S), in class order.

    Args:
        predictor: on the CPU, in fp32.
        path: the file; written only if the check passed.

    Raises:
        PetsegError: the ``export`` extra is not installed, or the exported network computes something else.
    """
    path = Path(path)
    if path.suffix != ".onnx":
        raise UsageError(f"{path}: the name must end in .onnx or .safetensors")
    require("onnx", "onnxruntime", "onnxscript")
    data = _to_onnx(predictor)
    difference = _largest_difference(predictor, data)
    if not difference <= TOLERANCE:
        raise PetsegError(
            f"the exported network differs from torch's by {difference:g} in a logit; nothing was written"
        )
    write_atomically(path, data)
    return OnnxExport(path=path, bytes=len(data), largest_difference=difference)


def require(*packages: str) -> None:
    """Raise ``PetsegError`` if a package of the ``export`` extra is missing."""
    missing = [package for package in packages if util.find_spec(package) is None]
    if missing:
        raise PetsegError(f"exporting needs {', '.join(missing)}; install with: pip install 'petseg[export]'")


def _to_onnx(predictor: Predictor) -> bytes:
    import onnx

    # Two images: with one, the exporter would take the batch size for a constant.
    example = torch.zeros(2, 3, predictor.size, predictor.size, dtype=torch.uint8)
    with _quiet(), tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "model.onnx"
        torch.onnx.export(
            predictor.model,
            (example,),
            target,
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes={"image": {0: torch.export.Dim("batch", min=1)}},
            opset_version=_OPSET,
            dynamo=True,
            external_data=False,
            verbose=False,
        )
        model = onnx.load(target)
    onnx.checker.check_model(model)
    facts = {
        "classes": ",".join(CLASSES),
        "input": "uint8 RGB, 0..255, the whole image stretched to the network's size, antialiased",
        "trained_with": f"petseg {metadata.version('petseg')}",
        "architecture": predictor.recipe.model.name,
    }
    onnx.helper.set_model_props(model, facts)
    return bytes(model.SerializeToString())


def _largest_difference(predictor: Predictor, data: bytes) -> float:
    import onnxruntime

    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    generator = np.random.default_rng(0)
    largest = 0.0
    for count in (1, 3):
        image = generator.integers(0, 256, (count, 3, predictor.size, predictor.size), dtype=np.uint8)
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
