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

# Side of an image times side of the output up to which coordinates in the image are exact enough for the nearest pixel:
# an error of two units in the last place of float32 stays below 1 / (4 out).
MAX_REGION = 1 << 20


def build_graph(options: EngineOptions, *, batch_size: int, device_id: int | None) -> Any:
    """Return a built DALI pipeline.

    Its outputs are the images, uint8 (B, H, W, 3), and the masks as class indices, uint8 (B, H, W, 1), with at most
    ``batch_size`` samples. ``device_id`` is the CUDA device's number; None: CPU only, where DALI needs no CUDA.
    """
    pipeline = define_graph(options, batch_size=batch_size, device_id=device_id)
    pipeline.build()
    return pipeline


def define_graph(options: EngineOptions, *, batch_size: int, device_id: int | None) -> Any:
    """Return the pipeline of :func:`build_graph` before it is built, for which no GPU is needed.

    With a device, DALI runs everything, copies included, on streams of its own, and binds the outputs to the stream
    that they are handed over to; it never uses the stream that the caller's work is queued on.

    An operator costs the host 5 to 10 us for each sample, whatever it does (docs/gpu.md). Hence resizing also flips,
    and crops masks, and what changes nothing is left out.
    """

    def graph() -> tuple[Any, Any]:
        image, mask = load_pixels(options, device_id)
        if options.crops:
            start = fn.external_source(name="crop_start", dtype=types.INT32, ndim=1)
            shape = fn.external_source(name="crop_shape", dtype=types.INT32, ndim=1)
            image = crop(image, start, shape)
            mask = mask if crops_by_region(options) else crop(mask, start, shape)
        if resizes(options):
            placed = fn.external_source(name="placed_size", dtype=types.FLOAT, ndim=1) if options.letterboxes else None
            image = resize_image(image, options.size, placed, flip=options.operations.flip > 0)
            mask = resize_mask(mask, options.size, placed)
        elif options.operations.flip:
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
        return image, mask

    return pipeline_def(
        batch_size=batch_size,
        num_threads=options.threads,
        device_id=device_id,
        prefetch_queue_depth=1,  # the loader prefetches, and starts several runs
        exec_dynamic=True,  # with it, tensors handed over stay intact after the next run
    )(graph)()


def resizes(options: EngineOptions) -> bool:
    """Whether any image has another size than the output, or is cropped: else nothing is to be resized."""
    return options.crops or options.letterboxes or options.stored_size != options.size


def crops_by_region(options: EngineOptions) -> bool:
    """Whether masks are cropped by resizing a region of them, rather than cut out before.

    Coordinates in a large image are not exact enough in single precision to find the nearest pixel in a region of it;
    see :func:`resize_mask`. Images are always cut out, since the filter must not see what is beside a crop.
    """
    largest = max(*options.largest, *(options.stored_size or (0, 0)))
    return 0 < largest * max(options.size) <= MAX_REGION


def load_pixels(options: EngineOptions, device_id: int | None) -> tuple[Any, Any]:
    """Stored bytes to pixels on the device, (H, W, 3) and (H, W, 1): the one place where CPU and GPU differ.

    Images are decoded by the GPU. Masks are PNGs, for which there is no GPU decoder: the host decodes them, one byte a
    pixel, and they are copied before the first operation. Pixels of ``raw`` storage are copied alone.
    """
    if options.storage == "raw":
        image = fn.external_source(name="image", dtype=types.UINT8, ndim=3, layout="HWC", no_copy=True)
        mask = fn.external_source(name="mask", dtype=types.UINT8, ndim=3, layout="HWC", no_copy=True)
        if device_id is not None:
            return image.gpu(), mask.gpu()
        # What is handed over must not be the memory that the next batches are read into.
        return (image, mask) if resizes(options) else (fn.copy(image), fn.copy(mask))
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


def resize_image(image: Any, size: Size, placed: Any = None, *, flip: bool = False) -> Any:
    """Stretch to ``size``, or to each sample's ``placed`` size, with a triangle filter, antialiased when shrinking.

    With ``flip``, from right to left where the region, which is all of the image, begins right and ends left.
    """
    part = {}
    if flip:
        part["roi_start"] = fn.external_source(name="flip_start", dtype=types.FLOAT, ndim=1)
        part["roi_end"] = fn.external_source(name="flip_end", dtype=types.FLOAT, ndim=1)
    return fn.resize(image, size=target(size, placed), interp_type=types.INTERP_LINEAR, antialias=True, **part)


def target(size: Size, placed: Any) -> Any:
    """Return what to resize to: the same size for all samples unless each has its own."""
    return list(size) if placed is None else placed


def resize_mask(mask: Any, size: Size, placed: Any = None) -> Any:
    """Stretch likewise by the nearest pixel: output i takes input floor((i + 0.5) in / out) exactly.

    ``(i + 0.5) in / out`` is a whole number or at least 1 / (2 out) away from the next one. The region is shifted by
    half of that, 1 / (4 out), so that rounding in single precision does not change the result.
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


def graph_inputs(options: EngineOptions, *, images: Any, masks: Any, parameters: Parameters) -> dict[str, Any]:
    """Return what is fed into the graph for one batch, by input name; B values each.

    Images and masks are encoded bytes, or pixels (B, h, w, 3) and values (B, h, w, 1).
    """
    boxes, places = parameters.boxes, parameters.places
    inputs: dict[str, Any] = {"image": images, "mask": masks}
    if options.crops:
        inputs["crop_start"] = np.ascontiguousarray(boxes[:, :2])
        inputs["crop_shape"] = np.ascontiguousarray(boxes[:, 2:])
    if resizes(options):
        ends = boxes[:, 2:].astype(np.float32)
        starts = np.zeros_like(ends)
        if options.operations.flip:
            starts[:, 1] = np.where(parameters.flip, ends[:, 1], 0)
            ends[:, 1] -= starts[:, 1]
            inputs |= {"flip_start": starts, "flip_end": ends}
        shifts = (1 / (4 * places[:, 2:])).astype(np.float32)
        corners = boxes[:, :2].astype(np.float32) if crops_by_region(options) else np.float32(0)
        inputs |= {"near_start": starts + corners + shifts, "near_end": ends + corners + shifts}
    elif options.operations.flip:
        inputs["flip"] = parameters.flip.astype(np.int32)
    if options.letterboxes:
        inputs["placed_size"] = places[:, 2:].astype(np.float32)
        inputs["placed_start"] = -places[:, :2]
    if options.operations.colour:
        inputs["twist"] = np.stack([parameters.brightness, parameters.contrast, parameters.saturation], axis=1)
    return inputs
