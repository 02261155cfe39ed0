"""Operations on pixels: the same as those of the DALI graph, faster than DALI's on a CPU.

Shrinking uses torch's antialiased resize (a triangle filter as wide as an output pixel); enlarging, where that filter
is plain bilinear interpolation, OpenCV's. Each function processes one image in the calling thread, without the
interpreter lock for most of the time, and starts no threads.
"""

import cv2
import numpy as np
import numpy.typing as npt

from pipeline.io.scratch import Scratch
from pipeline.order.augmentation import Parameters, colour_matrices
from shards.format.geometry import Size, nearest_places
from shards.format.labels import IGNORE

Pixels = npt.NDArray[np.uint8]
Colour = npt.NDArray[np.float32]  # matrix and offset, (3, 4)
Box = tuple[int, int, int, int]  # top, left, height, width in whole pixels

_scratch = Scratch()

FEW_CLASSES = 8  # up to here, comparing a batch with each class in turn is faster than a sample with all of them


def transform_image(pixels: Pixels, box: Box, *, flip: bool, colour: Colour | None, out: Pixels) -> None:
    """Crop an image (h, w, 3), stretch it with a triangle filter, flip it horizontally, and change its colours.

    The result is written to ``out``, uint8 (H, W, 3), rows of pixels without gaps between pixels.
    """
    top, left, height, width = box
    out_height, out_width = out.shape[:2]
    resized: Pixels = pixels[top : top + height, left : left + width]
    # All but the last step write into memory of this thread: page faults of a new array would cost more than a flip.
    last = not flip and colour is None
    if (height, width) != (out_height, out_width) and height <= out_height and width <= out_width:
        into = out if last else _scratch.take("resized", out.shape)
        resized = cv2.resize(resized, (out_width, out_height), dst=into, interpolation=cv2.INTER_LINEAR)  # type: ignore[assignment]
    else:
        if (height, width) != (out_height, out_width):
            resized = shrink(resized, (out_height, out_width))
        if last:
            out[:] = resized
    if flip:
        into = out if colour is None else _scratch.take("flipped", out.shape)
        resized = cv2.flip(resized, 1, dst=into)  # type: ignore[assignment]
    if colour is not None:
        cv2.transform(resized, colour, dst=out)


def shrink(region: Pixels, size: Size) -> Pixels:
    """Stretch (h, w, 3) to (H, W, 3), ``size``, with an antialiasing triangle filter, like Pillow's BILINEAR."""
    import torch
    from torch.nn.functional import interpolate

    height, width, channels = region.shape
    flat = torch.from_numpy(np.require(region, requirements=["C", "W"]).reshape(-1))  # torch warns of what is read-only
    # With a batch of one, only explicit strides tell torch that this is channels_last; its result then is, too.
    strides = (height * width * channels, 1, width * channels, channels)
    pixels = flat.as_strided((1, channels, height, width), strides)
    resized = interpolate(pixels, size=size, mode="bilinear", antialias=True)
    return resized.permute(0, 2, 3, 1)[0].numpy()


def transform_mask(mask: Pixels, box: Box, *, flip: bool, out: Pixels) -> None:
    """Crop a mask, stretch it to the size of ``out`` by the nearest pixel, and flip it.

    The arguments are those of :func:`transform_image`, with ``mask`` (h, w) and ``out`` (H, W).
    """
    top, left, height, width = box
    out_height, out_width = out.shape
    region = mask[top : top + height, left : left + width]
    if (height, width) == (out_height, out_width):
        out[:] = region[:, ::-1] if flip else region
    else:
        rows, columns = nearest_places(height, out_height), nearest_places(width, out_width)
        turned = _scratch.take("columns", (width, out_height))
        cv2.transpose(region[rows], dst=turned)  # rows are copied faster than columns
        taken = _scratch.take("rows", (out_width, out_height))
        turned.take(columns[::-1] if flip else columns, axis=0, out=taken, mode="clip")
        cv2.transpose(taken, dst=out)


def colour_transforms(parameters: Parameters) -> Colour:
    """Return matrix and offset of each sample as one float32 (B, 3, 4); see ``augmentation.colour_matrices``."""
    matrices, offsets = colour_matrices(parameters)
    return np.concatenate([matrices, offsets[:, :, None]], axis=2)


def place_inside(out: Pixels, place: Box, fill: int | tuple[int, int, int]) -> Pixels:
    """Return the part of a letterboxed output (H, W, ...) that the image is put into, and fill the bars around it."""
    top, left, height, width = place
    bottom, right = top + height, left + width
    for bar in (out[:top], out[bottom:], out[top:bottom, :left], out[top:bottom, right:]):
        bar[:] = fill
    return out[top:bottom, left:right]


def encode_onehot(classes: Pixels, planes: Pixels) -> None:
    """Write class indices, uint8 (B, H, W), as one-hot planes, uint8 (B, N, H, W): zero in all where IGNORE.

    Every plane is written once, by a comparison: setting single pixels in planes of zeros takes longer for any N.
    """
    if planes.shape[1] <= FEW_CLASSES:
        for number in range(planes.shape[1]):
            np.equal(classes, number, out=planes[:, number].view(np.bool_))
        return
    numbers = np.arange(planes.shape[1], dtype=np.uint8)[:, None, None]
    for one, into in zip(classes, planes, strict=True):
        np.equal(one, numbers, out=into.view(np.bool_))


def invalid_problem(count: int) -> str:
    """Return what is wrong with the masks that :func:`invalid_masks` finds."""
    return f"a value that is neither a class, 0 to {count - 1}, nor {IGNORE} (ignored)"


def invalid_masks(classes: Pixels, count: int) -> list[int]:
    """Return which masks of (B, H, W) hold a value that is neither one of ``count`` classes nor IGNORE."""
    if not classes.size or int(classes.max()) < count:
        return []
    shifted = classes + np.uint8(1)  # IGNORE, the highest value, becomes 0
    if int(shifted.max()) <= count:
        return []
    return np.flatnonzero(shifted.max(axis=(1, 2)) > count).tolist()
