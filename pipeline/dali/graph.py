"""The DALI graph: a pure function from (stored bytes, parameters) to uint8 tensors; one graph for CPU and GPU.

What differs between the devices is one function, :func:`load_pixels`: how stored bytes become pixels on the device.
Every later operator runs where its input is. No pixel returns to the host.
"""

from typing import Any

import numpy as np
from nvidia.dali import fn, pipeline_def, types

from pipeline.engine import EngineOptions
from pipeline.order.augmentation import Parameters

# The operators of the graph by their names in DALI's registry; a test asserts that each exists where it is used.
HOST_OPERATORS = ("ExternalSource", "_TensorSubscript")  # always on the CPU: bytes and parameters come from there
DECODERS = ("decoders__Image",)  # on the CPU, or "mixed": bytes on the host in, pixels in device memory out
OPERATORS = ("Slice", "Resize", "Flip", "ColorTwist", "Squeeze", "_ArithmeticGenericOp", "OneHot")


def build_graph(options: EngineOptions, *, batch_size: int, device_id: int | None) -> Any:
    """Return a built DALI pipeline.

    Its outputs are the images, uint8 (B, S, S, 3), and the masks, uint8 (B, 3, S, S) or (B, S, S), with at most
    ``batch_size`` samples. ``device_id`` is the CUDA device's number; None: CPU only, where DALI needs no CUDA.
    """

    def graph() -> tuple[Any, Any]:
        image, mask = load_pixels(options, device_id)
        if options.operations.area:
            start = fn.external_source(name="crop_start", dtype=types.INT32, ndim=1)
            shape = fn.external_source(name="crop_shape", dtype=types.INT32, ndim=1)
            image, mask = crop(image, start, shape), crop(mask, start, shape)
        image, mask = resize_image(image, options.size), resize_mask(mask, options.size)
        if options.operations.flip:
            flipped = fn.external_source(name="flip", dtype=types.INT32, ndim=0)
            image, mask = fn.flip(image, horizontal=flipped), fn.flip(mask, horizontal=flipped)
        if options.operations.colour:
            image = twist_colour(image)
        return image, encode_classes(mask, onehot=options.onehot)

    pipeline = pipeline_def(
        batch_size=batch_size,
        num_threads=options.threads,
        device_id=device_id,
        prefetch_queue_depth=1,  # the loader prefetches
        exec_dynamic=True,  # with it, tensors handed over stay intact after the next run
    )(graph)()
    pipeline.build()
    return pipeline


def load_pixels(options: EngineOptions, device_id: int | None) -> tuple[Any, Any]:
    """Stored bytes to pixels on the device, (H, W, 3) and (H, W, 1): the one place where CPU and GPU differ."""
    if options.storage != "raw":
        return decode("image", device_id, types.RGB), decode("mask", device_id, types.GRAY)
    image = fn.external_source(name="image", dtype=types.UINT8, ndim=3, layout="HWC", no_copy=True)
    mask = fn.external_source(name="mask", dtype=types.UINT8, ndim=3, layout="HWC", no_copy=True)
    return (image, mask) if device_id is None else (image.gpu(), mask.gpu())


def decode(name: str, device_id: int | None, output_type: Any) -> Any:
    """Encoded bytes to pixels (H, W, C)."""
    return fn.decoders.image(
        fn.external_source(name=name, dtype=types.UINT8, ndim=1, no_copy=True),
        device="cpu" if device_id is None else "mixed",
        output_type=output_type,
        adjust_orientation=False,  # a mask has no EXIF, so the image must not be rotated alone
        jpeg_fancy_upsampling=True,  # makes the GPU interpolate chroma as the CPU does
    )


def crop(pixels: Any, start: Any, shape: Any) -> Any:
    """Cut a box of whole pixels out of each image."""
    return fn.slice(pixels, start, shape, axes=[0, 1], normalized_anchor=False, normalized_shape=False)


def resize_image(image: Any, size: int) -> Any:
    """Stretch to size x size with a triangle filter, antialiased when shrinking."""
    return fn.resize(image, size=[size, size], interp_type=types.INTERP_LINEAR, antialias=True)


def resize_mask(mask: Any, size: int) -> Any:
    """Stretch to size x size by the nearest pixel: output i takes input floor((i + 0.5) in / out) exactly.

    ``(i + 0.5) in / out`` is a whole number or at least 1 / (2 out) away from the next one. The region is shifted by
    half of that, 1 / (4 out), so that rounding in single precision can never change the result.
    """
    start = fn.external_source(name="near_start", dtype=types.FLOAT, ndim=1)
    end = fn.external_source(name="near_end", dtype=types.FLOAT, ndim=1)
    return fn.resize(mask, size=[size, size], interp_type=types.INTERP_NN, roi_start=start, roi_end=end)


def twist_colour(image: Any) -> Any:
    """Change saturation, contrast and brightness by each sample's factors; see ``augmentation.colour_matrices``."""
    twist = fn.external_source(name="twist", dtype=types.FLOAT, ndim=1)
    return fn.color_twist(image, brightness=twist[0], contrast=twist[1], saturation=twist[2])


def encode_classes(mask: Any, *, onehot: bool) -> Any:
    """Values 1, 2, 3 (H, W, 1) to class indices 0, 1, 2 (H, W), or to one-hot planes (3, H, W)."""
    classes = fn.squeeze(mask, axes=[2]) - types.Constant(1, dtype=types.UINT8)
    return fn.one_hot(classes, num_classes=3, axis=0, dtype=types.UINT8) if onehot else classes


def graph_inputs(options: EngineOptions, *, images: Any, masks: Any, parameters: Parameters) -> dict[str, Any]:
    """Return what is fed into the graph for one batch, by input name; B values each.

    Images and masks are encoded bytes, or pixels (B, H, W, 3) and values (B, H, W, 1).
    """
    boxes = parameters.boxes
    shift = np.float32(1 / (4 * options.size))
    inputs: dict[str, Any] = {
        "image": images,
        "mask": masks,
        "near_start": np.full((len(boxes), 2), shift, dtype=np.float32),
        "near_end": boxes[:, 2:].astype(np.float32) + shift,
    }
    if options.operations.area:
        inputs["crop_start"] = np.ascontiguousarray(boxes[:, :2])
        inputs["crop_shape"] = np.ascontiguousarray(boxes[:, 2:])
    if options.operations.flip:
        inputs["flip"] = parameters.flip.astype(np.int32)
    if options.operations.colour:
        inputs["twist"] = np.stack([parameters.brightness, parameters.contrast, parameters.saturation], axis=1)
    return inputs
