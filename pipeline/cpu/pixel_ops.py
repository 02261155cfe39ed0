"""The operations on pixels where the CPU does them: the same as those of DALI's graph, faster than DALI's on a CPU.

Shrinking uses torch's antialiased resize (a triangle filter as wide as an output pixel); enlarging, where that filter
is plain bilinear interpolation, OpenCV's. Everything here works on one picture in the calling thread, without the
interpreter lock for most of the time; nothing starts threads of its own.
"""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np
import numpy.typing as npt

from pipeline.order.augmentation import Parameters, colour_matrices

Pixels = npt.NDArray[np.uint8]
Colour = npt.NDArray[np.float32]
Box = tuple[int, int, int, int]


def fit_picture(pixels: Pixels, box: Box, *, flip: bool, colour: Colour | None, out: Pixels) -> None:
    """Cut a box out of a picture, squash it to ``out``'s size with a triangle filter, mirror and colour it if asked.

    Args:
        pixels: uint8 (H, W, 3).
        box: top, left, height, width in whole pixels.
        flip: mirror left-right.
        colour: matrix and offset, float32 (3, 4); None: as it is.
        out: uint8 (S, S, 3), contiguous, written to.
    """
    top, left, height, width = box
    size = out.shape[0]
    region = pixels[top : top + height, left : left + width]
    if height == size == width:
        squashed: Pixels = region
    elif height <= size and width <= size:
        squashed = cv2.resize(region, (size, size), interpolation=cv2.INTER_LINEAR)  # type: ignore[assignment]
    else:
        squashed = shrink(region, size)
    if flip:
        squashed = cv2.flip(squashed, 1)  # type: ignore[assignment]
    if colour is None:
        out[:] = squashed
    else:
        cv2.transform(squashed, colour, dst=out)


def shrink(region: Pixels, size: int) -> Pixels:
    """Squash (H, W, 3) to (S, S, 3) with an antialiasing triangle filter, like Pillow's BILINEAR."""
    import torch
    from torch.nn.functional import interpolate

    height, width, channels = region.shape
    flat = torch.from_numpy(np.ascontiguousarray(region).reshape(-1))
    # With a batch of one, only spelled-out strides tell torch that this is channels_last; its result then is, too.
    strides = (height * width * channels, 1, width * channels, channels)
    pixels = flat.as_strided((1, channels, height, width), strides)
    squashed = interpolate(pixels, size=(size, size), mode="bilinear", antialias=True)
    return squashed.permute(0, 2, 3, 1)[0].numpy()


def fit_trimap(trimap: Pixels, box: Box, *, flip: bool, out: Pixels) -> None:
    """Cut a box out of a trimap and squash it to ``out``'s size by the nearest pixel, and mirror it if asked.

    Args:
        trimap: uint8 (H, W), values 1, 2, 3.
        box: top, left, height, width in whole pixels.
        flip: mirror left-right.
        out: uint8 (S, S), written to.
    """
    top, left, height, width = box
    size = out.shape[0]
    if (height, width) == (size, size):
        region = trimap[top : top + height, left : left + width]
        out[:] = region[:, ::-1] if flip else region
        return
    if opencv_is_exact(height, size) and opencv_is_exact(width, size):
        region = trimap[top : top + height, left : left + width]
        if not flip:
            cv2.resize(region, (size, size), dst=out, interpolation=cv2.INTER_NEAREST_EXACT)
        else:
            cv2.flip(cv2.resize(region, (size, size), interpolation=cv2.INTER_NEAREST_EXACT), 1, dst=out)
        return
    rows, columns = nearest_places(height, size) + top, nearest_places(width, size) + left
    trimap[rows].take(columns[::-1] if flip else columns, axis=1, out=out, mode="clip")


@lru_cache(maxsize=1 << 16)
def opencv_is_exact(length: int, size: int) -> bool:
    """Whether OpenCV's nearest resize takes exactly :func:`nearest_places` for these lengths; found by trying.

    It works in 16-bit fixed point, which is exact for most lengths, not for all.
    """
    ramp = np.arange(length, dtype=np.float32)[None]
    tried = cv2.resize(ramp, (size, 1), interpolation=cv2.INTER_NEAREST_EXACT)[0]
    return bool(np.array_equal(tried.astype(np.int64), nearest_places(length, size)))


@lru_cache(maxsize=4096)
def nearest_places(length: int, size: int) -> npt.NDArray[np.int64]:
    """Return which of ``length`` pixels each of ``size`` outputs takes: floor((i + 0.5) length / size), exactly."""
    places = (2 * np.arange(size, dtype=np.int64) + 1) * length // (2 * size)
    places.flags.writeable = False
    return places


def colour_transforms(parameters: Parameters) -> Colour:
    """Return the matrix and offset of each sample as one float32 (B, 3, 4); see ``augment.colour_matrices``."""
    matrices, offsets = colour_matrices(parameters)
    return np.concatenate([matrices, offsets[:, :, None]], axis=2)


def write_mask(trimaps: Pixels, out: Pixels) -> None:
    """Turn trimap values 1, 2, 3 into class indices or one-hot planes.

    Args:
        trimaps: uint8 (B, S, S).
        out: uint8 (B, S, S) for 0, 1, 2 (may be ``trimaps`` itself), or (B, 3, S, S) for one-hot; written to.
    """
    if out.ndim == trimaps.ndim:
        np.subtract(trimaps, 1, out=out)
        return
    for value in (1, 2, 3):
        np.equal(trimaps, value, out=out[:, value - 1].view(np.bool_))


def illegal_values(trimaps: Pixels) -> list[int]:
    """Return which trimaps (B, S, S) hold a value other than 1, 2, 3."""
    if not trimaps.size or (int(trimaps.min()) >= 1 and int(trimaps.max()) <= 3):
        return []
    return np.flatnonzero(((trimaps < 1) | (trimaps > 3)).any(axis=(1, 2))).tolist()
