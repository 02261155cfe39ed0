"""DALI's part: a pure graph from (encoded bytes, parameters) to uint8 tensors; one graph for CPU and GPU.

The graph holds no random state and no order; both come in with the bytes. What differs between the devices is one
word, the decoder's device: on the GPU it is "mixed" (bytes on the host in, pixels in device memory out), and every
later operator runs where its input lies. No pixel returns to the host.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.augment import Parameters

# The operators of the graph by their names in DALI's registry; a test asserts that each exists for both devices.
DECODER = "decoders__Image"
OPERATORS = ("Slice", "Resize", "Flip", "ColorTwist", "Squeeze", "ArithmeticGenericOp", "OneHot")
HOST_OPERATORS = ("ExternalSource",)

INPUTS = ("image", "trimap", "crop_start", "crop_shape", "near_start", "near_end", "flip", "twist")


@dataclass(frozen=True, kw_only=True)
class GraphOptions:
    """What a graph is built for.

    Attributes:
        size: side of the output in pixels.
        onehot: masks as one-hot channels instead of a class index.
        crop: the boxes differ from the whole picture.
        flip: some samples are mirrored.
        colour: some samples change their colour.
    """

    size: int
    onehot: bool
    crop: bool
    flip: bool
    colour: bool


def build_graph(options: GraphOptions, *, batch_size: int, threads: int, device_id: int | None) -> Any:
    """Return a built DALI pipeline.

    Its outputs are the pictures, uint8 (B, S, S, 3), and the masks, uint8 (B, S, S, 3) or (B, S, S).

    Args:
        options: what the graph does.
        batch_size: B, at most that many samples a run.
        threads: of DALI's worker pool.
        device_id: the CUDA device's number; None: the CPU alone, which is what makes DALI do without CUDA.
    """
    from nvidia.dali import fn, pipeline_def, types

    @pipeline_def(  # type: ignore[untyped-decorator]
        batch_size=batch_size,
        num_threads=threads,
        device_id=device_id,
        prefetch_queue_depth=1,  # reading ahead is the loader's business; see engine_dali
        exec_dynamic=True,  # with it, tensors handed over stay whole after the next run
    )
    def graph() -> tuple[Any, Any]:
        encoded = fn.external_source(name="image", dtype=types.UINT8, ndim=1, no_copy=True)
        encoded_trimap = fn.external_source(name="trimap", dtype=types.UINT8, ndim=1, no_copy=True)
        image = decode(encoded, device_id, types.RGB)
        trimap = decode(encoded_trimap, device_id, types.GRAY)
        if options.crop:
            start = fn.external_source(name="crop_start", dtype=types.INT32, ndim=1)
            shape = fn.external_source(name="crop_shape", dtype=types.INT32, ndim=1)
            image, trimap = crop(image, start, shape), crop(trimap, start, shape)
        image, trimap = resize_picture(image, options.size), resize_trimap(trimap, options.size)
        if options.flip:
            mirrored = fn.external_source(name="flip", dtype=types.INT32, ndim=0)
            image, trimap = fn.flip(image, horizontal=mirrored), fn.flip(trimap, horizontal=mirrored)
        if options.colour:
            image = twist_colour(image)
        return image, class_mask(trimap, onehot=options.onehot)

    pipeline = graph()
    pipeline.build()
    return pipeline


def decode(encoded: Any, device_id: int | None, output_type: Any) -> Any:
    """Bytes to pixels (H, W, C): the one place where CPU and GPU differ."""
    from nvidia.dali import fn

    return fn.decoders.image(
        encoded,
        device="cpu" if device_id is None else "mixed",
        output_type=output_type,
        adjust_orientation=False,  # a trimap has no EXIF, so the picture must not be turned alone
        jpeg_fancy_upsampling=True,  # makes the GPU interpolate chroma as the CPU does
    )


def crop(pixels: Any, start: Any, shape: Any) -> Any:
    """Cut a box of whole pixels out of each picture."""
    from nvidia.dali import fn

    return fn.slice(pixels, start, shape, axes=[0, 1], normalized_anchor=False, normalized_shape=False)


def resize_picture(image: Any, size: int) -> Any:
    """Squash to size x size with a triangle filter, antialiased when shrinking."""
    from nvidia.dali import fn, types

    return fn.resize(image, size=[size, size], interp_type=types.INTERP_LINEAR, antialias=True)


def resize_trimap(trimap: Any, size: int) -> Any:
    """Squash to size x size by the nearest pixel: output i takes input floor((i + 0.5) in / out) exactly.

    ``(i + 0.5) in / out`` is a whole number or at least 1 / (2 out) away from the next one. The region is moved by half
    of that, 1 / (4 out), so that rounding in single precision can never fall on the wrong side.
    """
    from nvidia.dali import fn, types

    start = fn.external_source(name="near_start", dtype=types.FLOAT, ndim=1)
    end = fn.external_source(name="near_end", dtype=types.FLOAT, ndim=1)
    return fn.resize(trimap, size=[size, size], interp_type=types.INTERP_NN, roi_start=start, roi_end=end)


def twist_colour(image: Any) -> Any:
    """Change saturation, contrast and brightness by each sample's factors; see ``augment.colour_matrices``."""
    from nvidia.dali import fn, types

    twist = fn.external_source(name="twist", dtype=types.FLOAT, ndim=1)
    return fn.color_twist(image, brightness=twist[0], contrast=twist[1], saturation=twist[2])


def class_mask(trimap: Any, *, onehot: bool) -> Any:
    """Values 1, 2, 3 (H, W, 1) to class indices 0, 1, 2 (H, W), or to one-hot channels (H, W, 3)."""
    from nvidia.dali import fn, types

    classes = fn.squeeze(trimap, axes=[2]) - types.Constant(1, dtype=types.UINT8)
    return fn.one_hot(classes, num_classes=3, axis=2, dtype=types.UINT8) if onehot else classes


def graph_inputs(
    options: GraphOptions,
    *,
    images: list[npt.NDArray[np.uint8]],
    trimaps: list[npt.NDArray[np.uint8]],
    parameters: Parameters,
) -> dict[str, Any]:
    """Return what is fed into the graph for one batch, by input name."""
    boxes = parameters.boxes
    nudge = np.float32(1 / (4 * options.size))
    inputs: dict[str, Any] = {
        "image": images,
        "trimap": trimaps,
        "near_start": np.full((len(boxes), 2), nudge, dtype=np.float32),
        "near_end": boxes[:, 2:].astype(np.float32) + nudge,
    }
    if options.crop:
        inputs |= {
            "crop_start": np.ascontiguousarray(boxes[:, :2]),
            "crop_shape": np.ascontiguousarray(boxes[:, 2:]),
        }
    if options.flip:
        inputs["flip"] = parameters.flip.astype(np.int32)
    if options.colour:
        inputs["twist"] = np.stack([parameters.brightness, parameters.contrast, parameters.saturation], axis=1)
    return inputs
