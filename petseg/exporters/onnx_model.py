"""Exports a network as ONNX, with its normalisation, for any batch size and any height and width."""

import contextlib
import copy
import io
import json
import logging
import math
import os
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata, util
from pathlib import Path

import numpy as np
import torch

from petseg.exporters.export_files import write_export
from petseg.exporters.model_card import model_card
from petseg.exporters.onnx_network import OPSET, OnnxNetwork, OnnxOptions
from petseg.exporters.usage_program import card_facts, side_multiple, stride_of
from petseg.inference.probabilities import not_finite
from petseg.inference.trained_network import Predictor
from petseg.nets.model_config import MIN_SIZE
from petseg.nets.timm_encoders import constant_padding
from shards.errors import PetsegError, UsageError, expect_flags, first_line, option, shown_value, spelled
from shards.format.geometry import Size, size_text
from shards.format.readers.output_places import expect_ending, expect_free
from shards.store.addresses import expect_paths
from shards.store.owner_files import scratch_folder

INPUT = "image"
# Both compute in fp32, but add in another order; logits are of the order of 10, probabilities of 1.
TOLERANCE = 1e-3


@dataclass(frozen=True)
class OnnxExport:
    """An exported file, its model card, its size in bytes, and the largest difference of a value to torch's."""

    path: Path
    card: Path
    bytes: int
    largest_difference: float


def export_onnx(
    predictor: Predictor,
    path: str | Path,
    *,
    options: OnnxOptions | None = None,
    overwrite: bool = False,
    on_part: Callable[[str], None] = lambda text: None,
) -> OnnxExport:
    """Write a network as ONNX, with a model card FILE.onnx.md, and check it with onnxruntime against torch.

    Its input ``image`` is uint8 (B, 3, H, W), 0..255, RGB, for any B; what H and W may be, and the output, is explained
    in :class:`petseg.exporters.onnx_network.OnnxOptions`. Classes have the order of the labels.

    Args:
        predictor: on the CPU, in fp32.
        path: the file; written only if the check passed.
        options: None for logits of images of any size.
        overwrite: replace an existing file or card.
        on_part: called with what is done next; the exporter takes from seconds to a minute.

    Raises:
        PetsegError: the ``export`` extra is not installed, a file exists, or the exported network computes something
            else.
    """
    expect_predictor(predictor)
    expect_paths(path=path)
    expect_flags(overwrite=overwrite)
    path, options = Path(path), options or OnnxOptions()
    if not isinstance(options, OnnxOptions):
        raise UsageError(f"options must be OnnxOptions, not {shown_value(options)}")
    expect_ending(path, ".onnx")
    if options.input_size == "original" and predictor.recipe.fit == "cover":
        raise UsageError(
            spelled(
                "--input-size=original is for runs of --fit=stretch and contain: with cover the network takes the "
                "whole image at a size of its own, which --input-size=any allows"
            )
        )
    if options.input_size == "original" and predictor.recipe.crop_scale is not None:
        raise UsageError(
            spelled(
                "--input-size=original: the run was trained on crops, and the file would show the network whole "
                "images, resized; with --input-size=any or fixed the card's program slides windows over them"
            )
        )
    multiple = side_multiple(predictor)
    if options.input_size == "any" and predictor.recipe.fit != "cover" and any(s % multiple for s in predictor.size):
        raise UsageError(
            f"{option('input_size', 'any')}: this network's file takes heights and widths that are multiples of "
            f"{multiple}, and {size_text(predictor.size)} is not; give such a {option('size')}, or "
            f"{option('input_size', 'fixed')}"
        )
    card = path.with_name(f"{path.name}.md")  # not FILE.md, which is that of FILE.safetensors
    expect_free(path, card, overwrite=overwrite)
    require("onnx", "onnxruntime", "onnxscript")
    fit, stride = predictor.recipe.fit, stride_of(predictor)
    # The exporter follows strides: with kernels in channels_last it takes odd sides for even ones, and crops nothing.
    plain = copy.deepcopy(predictor.model).to(memory_format=torch.contiguous_format)
    network = OnnxNetwork(plain, options, size=predictor.size, fit=fit, stride=stride).eval()
    on_part("following the network layer by layer")
    data = _to_onnx(predictor, network)
    on_part("comparing onnxruntime with torch")
    difference = _largest_difference(predictor, network, data)
    if not difference <= TOLERANCE:
        raise PetsegError(
            f"the exported network differs from torch's by {difference:g} in its {options.output}; nothing was written"
        )
    write_export({path: data, card: model_card(predictor, path, options=options)}, overwrite=overwrite)
    return OnnxExport(path=path, card=card, bytes=len(data), largest_difference=difference)


def expect_predictor(predictor: object) -> None:
    """Raise ``UsageError`` for anything but a loaded network, such as the run's folder."""
    if not isinstance(predictor, Predictor):
        raise UsageError(f"predictor must be what petseg.load(run) returns, not {shown_value(predictor)}")


def require(*packages: str) -> None:
    """Raise ``PetsegError`` if a package of the ``export`` extra is missing."""
    missing = [package for package in packages if util.find_spec(package) is None]
    if missing:
        raise PetsegError(f"exporting needs {', '.join(missing)}; install with: pip install 'petseg[export]'")


def _to_onnx(predictor: Predictor, network: OnnxNetwork) -> bytes:
    import onnx

    # Two images: with one, the exporter would take the batch size for a constant.
    example = torch.zeros(2, 3, *_example_size(predictor, network), dtype=torch.uint8)
    dimensions = {0: torch.export.Dim("batch", min=1)}
    if network.options.input_size != "fixed":
        least = MIN_SIZE if network.options.input_size == "any" else 2
        dimensions |= {2: torch.export.Dim("height", min=least), 3: torch.export.Dim("width", min=least)}
    with _quiet(), constant_padding(), scratch_folder("export") as folder:
        target = folder / "model.onnx"
        try:
            torch.onnx.export(
                network,
                (example,),
                target,
                input_names=[INPUT],
                output_names=[network.options.output],
                dynamic_shapes={"image": dimensions},
                opset_version=OPSET,
                dynamo=True,
                external_data=False,
                verbose=False,
            )
        except Exception as error:
            if isinstance(error, OSError | MemoryError):  # the machine's fault
                raise
            raise PetsegError(
                f"torch's exporter cannot follow the network ({first_line(error)}); nothing was written. Try "
                f"{option('input_size', 'fixed')}; a FILE.safetensors can be written of every network"
            ) from None
        model = onnx.load(target)
    # The exporter has a formula of rounded halves for each side of the output, which is as large as the image.
    for name, side in zip(("height", "width"), model.graph.output[0].type.tensor_type.shape.dim[-2:], strict=True):
        if side.dim_param:
            side.dim_param = name
    onnx.checker.check_model(model, full_check=True)
    found = {each.domain: each.version for each in model.opset_import}.get("")
    if found != OPSET:
        raise PetsegError(f"the exporter wrote opset {found}, not {OPSET}; nothing was written")
    facts = {
        **card_facts(predictor),
        "output": network.options.output,
        "input_size": network.options.input_size,
        "classes": json.dumps(predictor.labels.names),  # a name may hold any sign
        "trained_with": f"petseg {metadata.version('petseg')}",
    }
    onnx.helper.set_model_props(model, facts)
    return bytes(model.SerializeToString())


def _example_size(predictor: Predictor, network: OnnxNetwork) -> Size:
    """Return the size of the images that the exporter follows through the network.

    A side of one pixel it would take for a constant, so the coarsest features, of stride 32 or more, have several.
    """
    height, width = _input_sizes(predictor, network.options)[0]
    if network.options.input_size != "any":
        return height, width
    coarsest = math.lcm(32, network.stride, side_multiple(predictor))
    high, wide = (-(-max(side, least) // coarsest) * coarsest for side, least in ((height, 65), (width, 97)))
    return high, wide


def _input_sizes(predictor: Predictor, options: OnnxOptions) -> list[Size]:
    """Return sizes of images that the exported network must take; the first is the network's own, or near it."""
    height, width = predictor.size
    if options.input_size == "fixed":
        return [(height, width)]
    if options.input_size == "original":
        return [(height + 1, width + 7), (2 * height + 1, width // 2 + 3), (height // 2 + 1, 3 * width)]
    multiple = side_multiple(predictor)

    def allowed(*sides: int) -> Size:
        high, wide = (-(-side // multiple) * multiple for side in sides)
        return high, wide

    return [allowed(height, width), allowed(height, width * 4 // 3 + 1), allowed(MIN_SIZE + 1, width)]


def _largest_difference(predictor: Predictor, network: OnnxNetwork, data: bytes) -> float:
    """Return the largest difference of an output to torch's; where classes differ, that of their scores."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # it leaves files in TMPDIR and in the user's cache folder
    import onnxruntime

    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    generator = np.random.default_rng(0)
    largest = 0.0
    for size in _input_sizes(predictor, network.options):
        for count in (1, 3):
            image = generator.integers(0, 256, (count, 3, *size), dtype=np.uint8)
            try:
                (found,) = session.run([network.options.output], {INPUT: image})
            except Exception as error:  # noqa: BLE001 - onnxruntime has a class for each of its codes
                raise PetsegError(
                    f"onnxruntime cannot run the exported network on images of {size_text(size)} "
                    f"({first_line(error)}); nothing was written. Try {option('input_size', 'fixed')}"
                ) from None
            with torch.inference_mode():
                scores = network.scores(torch.from_numpy(image))
            if not bool(torch.isfinite(scores).all()):
                raise not_finite(predictor.placement)
            if network.options.output != "classes":
                difference = np.abs(found - scores.numpy())
            else:  # classes may differ where two scores are the same up to rounding
                chosen = scores.gather(1, torch.from_numpy(found).long()[:, None])[:, 0]
                difference = (scores.amax(dim=1) - chosen).numpy()
            worst = float(difference.max())
            largest = max(largest, worst if math.isfinite(worst) else math.inf)  # max() would pass over NaN
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
