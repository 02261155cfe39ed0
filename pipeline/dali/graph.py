"""The DALI graph: a pure function from (stored bytes, parameters) to uint8 tensors; one graph for CPU and GPU.

What differs between the devices is one function, :func:`load_pixels`: how stored bytes become pixels on the device.
Every later operator runs where its input is. No pixel returns to the host.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from nvidia.dali import fn, pipeline_def, types

from pipeline.engine import EngineOptions
from pipeline.order.augmentation import Parameters
from shards.format.geometry import PAD_COLOUR, Size
from shards.format.labels import IGNORE


def build_graph(options: EngineOptions, *, batch_size: int, device_id: int | None) -> Any:
    """Return a built DALI pipeline.

    Its outputs are the images, uint8 (B, H, W, 3), and the masks, uint8 (B, N, H, W) or (B, H, W), with at most
    ``batch_size`` samples. ``device_id`` is the CUDA device's number; None: CPU only, where DALI needs no CUDA.
    """
    pipeline = define_graph(options, batch_size=batch_size, device_id=device_id)
    pipeline.build()
    return pipeline


def define_graph(options: EngineOptions, *, batch_size: int, device_id: int | None) -> Any:
    """Return the pipeline of :func:`build_graph` before it is built, for which no GPU is needed.

    With a device, DALI runs everything, copies included, on streams of its own, and binds the outputs to the stream
    that they are handed over to; it never uses the stream that the caller's work is queued on.
    """

    def graph() -> tuple[Any, Any]:
        image, mask = load_pixels(options, device_id)
        if options.crops:
            start = fn.external_source(name="crop_start", dtype=types.INT32, ndim=1)
            shape = fn.external_source(name="crop_shape", dtype=types.INT32, ndim=1)
            image, mask = crop(image, start, shape), crop(mask, start, shape)
        placed = fn.external_source(name="placed_size", dtype=types.FLOAT, ndim=1) if options.letterboxes else None
        image, mask = resize_image(image, options.size, placed), resize_mask(mask, options.size, placed)
        if options.operations.flip:
            flipped = fn.external_source(name="flip", dtype=types.INT32, ndim=0)
            image, mask = fn.flip(image, horizontal=flipped), fn.flip(mask, horizontal=flipped)
        if options.operations.colour:
            image = twist_colour(image)
        if options.letterboxes:
            start = fn.external_source(name="placed_start", dtype=types.INT32, ndim=1)
            image, mask = (
                letterbox(image, start, options.size, PAD_COLOUR),
                letterbox(mask, start, options.size, [IGNORE]),
            )
        return image, encode_classes(mask, options.classes if options.onehot else None)

    return pipeline_def(
        batch_size=batch_size,
        num_threads=options.threads,
        device_id=device_id,
        prefetch_queue_depth=1,  # the loader prefetches
        exec_dynamic=True,  # with it, tensors handed over stay intact after the next run
    )(graph)()


def load_pixels(options: EngineOptions, device_id: int | None) -> tuple[Any, Any]:
    """Stored bytes to pixels on the device, (H, W, 3) and (H, W, 1): the one place where CPU and GPU differ.

    Images are decoded by the GPU. Masks are PNGs, for which there is no GPU decoder: the host decodes them, one byte a
    pixel, and they are copied before the first operation. Pixels of ``raw`` storage are copied alone.
    """
    if options.storage == "raw":
        image = fn.external_source(name="image", dtype=types.UINT8, ndim=3, layout="HWC", no_copy=True)
        mask = fn.external_source(name="mask", dtype=types.UINT8, ndim=3, layout="HWC", no_copy=True)
        return (image, mask) if device_id is None else (image.gpu(), mask.gpu())
    mask = decode("mask", "cpu", types.GRAY)
    if device_id is None:
        return decode("image", "cpu", types.RGB), mask
    arguments = options.decoder.arguments(largest=options.largest, batch_size=options.batch_size)
    return decode("image", "mixed", types.RGB, **arguments), mask.gpu()


def decode(name: str, device: str, output_type: Any, **arguments: Any) -> Any:
    """Encoded bytes on the host to pixels (H, W, C), on the host or, with device "mixed", on the GPU."""
    return fn.decoders.image(
        fn.external_source(name=name, dtype=types.UINT8, ndim=1, no_copy=True),
        device=device,
        output_type=output_type,
        adjust_orientation=False,  # a mask has no EXIF, so the image must not be rotated alone
        jpeg_fancy_upsampling=True,  # makes the GPU interpolate chroma as the CPU does
        use_fast_idct=False,  # the host's part of it: exact, as the CPU engine is
        **arguments,
    )


def crop(pixels: Any, start: Any, shape: Any) -> Any:
    """Cut a box of whole pixels out of each image."""
    return fn.slice(pixels, start, shape, axes=[0, 1], normalized_anchor=False, normalized_shape=False)


def resize_image(image: Any, size: Size, placed: Any = None) -> Any:
    """Stretch to ``size``, or to each sample's ``placed`` size, with a triangle filter, antialiased when shrinking."""
    return fn.resize(image, size=target(size, placed), interp_type=types.INTERP_LINEAR, antialias=True)


def target(size: Size, placed: Any) -> Any:
    """Return what to resize to: the same size for all samples unless each has its own."""
    return list(size) if placed is None else placed


def resize_mask(mask: Any, size: Size, placed: Any = None) -> Any:
    """Stretch likewise by the nearest pixel: output i takes input floor((i + 0.5) in / out) exactly.

    ``(i + 0.5) in / out`` is a whole number or at least 1 / (2 out) away from the next one. The region is shifted by
    half of that, 1 / (4 out), so that rounding in single precision can never change the result.
    """
    start = fn.external_source(name="near_start", dtype=types.FLOAT, ndim=1)
    end = fn.external_source(name="near_end", dtype=types.FLOAT, ndim=1)
    return fn.resize(mask, size=target(size, placed), interp_type=types.INTERP_NN, roi_start=start, roi_end=end)


def twist_colour(image: Any) -> Any:
    """Change saturation, contrast and brightness by each sample's factors; see ``augmentation.colour_matrices``."""
    twist = fn.external_source(name="twist", dtype=types.FLOAT, ndim=1)
    return fn.color_twist(image, brightness=twist[0], contrast=twist[1], saturation=twist[2])


def letterbox(pixels: Any, start: Any, size: Size, fill: Sequence[int]) -> Any:
    """Put each image into an output of ``size``, with bars around it: a box that begins before it and ends after."""
    return fn.slice(
        pixels,
        start=start,
        shape=list(size),
        axes=[0, 1],
        out_of_bounds_policy="pad",
        fill_values=list(fill),
    )


def encode_classes(mask: Any, classes: int | None) -> Any:
    """Class indices (H, W, 1) to (H, W), or to one-hot planes (N, H, W) of N ``classes``: zero in all where IGNORE."""
    indices = fn.squeeze(mask, axes=[2])
    if classes is None:
        return indices
    return fn.one_hot(indices, num_classes=classes, axis=0, dtype=types.UINT8)


def graph_inputs(options: EngineOptions, *, images: Any, masks: Any, parameters: Parameters) -> dict[str, Any]:
    """Return what is fed into the graph for one batch, by input name; B values each.

    Images and masks are encoded bytes, or pixels (B, h, w, 3) and values (B, h, w, 1).
    """
    boxes, places = parameters.boxes, parameters.places
    shifts = (1 / (4 * places[:, 2:])).astype(np.float32)
    inputs: dict[str, Any] = {
        "image": images,
        "mask": masks,
        "near_start": shifts,
        "near_end": boxes[:, 2:].astype(np.float32) + shifts,
    }
    if options.letterboxes:
        inputs["placed_size"] = places[:, 2:].astype(np.float32)
        inputs["placed_start"] = -places[:, :2]
    if options.crops:
        inputs["crop_start"] = np.ascontiguousarray(boxes[:, :2])
        inputs["crop_shape"] = np.ascontiguousarray(boxes[:, 2:])
    if options.operations.flip:
        inputs["flip"] = parameters.flip.astype(np.int32)
    if options.operations.colour:
        inputs["twist"] = np.stack([parameters.brightness, parameters.contrast, parameters.saturation], axis=1)
    return inputs
