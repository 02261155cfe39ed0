"""Operations on pixels: the same as those of the DALI graph, faster than DALI's on a CPU.

Shrinking uses torch's antialiased resize (a triangle filter as wide as an output pixel); enlarging, where that filter
is plain bilinear interpolation, OpenCV's. Each function processes one image in the calling thread, without the
interpreter lock for most of the time, and starts no threads.
"""

from functools import lru_cache

import cv2
import numpy as np
import numpy.typing as npt

from pipeline.order.augmentation import Parameters, colour_matrices

Pixels = npt.NDArray[np.uint8]
Colour = npt.NDArray[np.float32]  # matrix and offset, (3, 4)
Box = tuple[int, int, int, int]  # top, left, height, width in whole pixels


def transform_image(pixels: Pixels, box: Box, *, flip: bool, colour: Colour | None, out: Pixels) -> None:
    """Crop an image (H, W, 3), stretch it with a triangle filter, flip it horizontally, and change its colours.

    The result is written to ``out``, uint8 (S, S, 3), contiguous.
    """
    top, left, height, width = box
    size = out.shape[0]
    region = pixels[top : top + height, left : left + width]
    if height == size == width:
        resized: Pixels = region
    elif height <= size and width <= size:
        resized = cv2.resize(region, (size, size), interpolation=cv2.INTER_LINEAR)  # type: ignore[assignment]
    else:
        resized = shrink(region, size)
    if flip:
        resized = cv2.flip(resized, 1)  # type: ignore[assignment]
    if colour is None:
        out[:] = resized
    else:
        cv2.transform(resized, colour, dst=out)


def shrink(region: Pixels, size: int) -> Pixels:
    """Stretch (H, W, 3) to (S, S, 3) with an antialiasing triangle filter, like Pillow's BILINEAR."""
    import torch
    from torch.nn.functional import interpolate

    height, width, channels = region.shape
    flat = torch.from_numpy(np.ascontiguousarray(region).reshape(-1))
    # With a batch of one, only explicit strides tell torch that this is channels_last; its result then is, too.
    strides = (height * width * channels, 1, width * channels, channels)
    pixels = flat.as_strided((1, channels, height, width), strides)
    resized = interpolate(pixels, size=(size, size), mode="bilinear", antialias=True)
    return resized.permute(0, 2, 3, 1)[0].numpy()


def transform_mask(mask: Pixels, box: Box, *, flip: bool, out: Pixels) -> None:
    """Crop a mask, stretch it to the size of ``out`` by the nearest pixel, and flip it.

    The arguments are those of :func:`transform_image`, with ``mask`` (H, W) and ``out`` (S, S).
    """
    top, left, height, width = box
    size = out.shape[0]
    region = mask[top : top + height, left : left + width]
    if (height, width) == (size, size):
        out[:] = region[:, ::-1] if flip else region
    elif opencv_is_exact(height, size) and opencv_is_exact(width, size):
        if not flip:
            cv2.resize(region, (size, size), dst=out, interpolation=cv2.INTER_NEAREST_EXACT)
        else:
            cv2.flip(cv2.resize(region, (size, size), interpolation=cv2.INTER_NEAREST_EXACT), 1, dst=out)
    else:
        rows, columns = nearest_places(height, size) + top, nearest_places(width, size) + left
        mask[rows].take(columns[::-1] if flip else columns, axis=1, out=out, mode="clip")


@lru_cache(maxsize=1 << 16)
def opencv_is_exact(length: int, size: int) -> bool:
    """Whether OpenCV's nearest resize takes exactly :func:`nearest_places` for these lengths; found by trying.

    It uses 16-bit fixed-point arithmetic, which is exact for most lengths, not for all.
    """
    ramp = np.arange(length, dtype=np.float32)[None]
    resized = cv2.resize(ramp, (size, 1), interpolation=cv2.INTER_NEAREST_EXACT)[0]
    return bool(np.array_equal(resized.astype(np.int64), nearest_places(length, size)))


@lru_cache(maxsize=4096)
def nearest_places(length: int, size: int) -> npt.NDArray[np.int64]:
    """Return which of ``length`` pixels each of ``size`` outputs takes: floor((i + 0.5) length / size), exactly."""
    places = (2 * np.arange(size, dtype=np.int64) + 1) * length // (2 * size)
    places.flags.writeable = False
    return places


def colour_transforms(parameters: Parameters) -> Colour:
    """Return matrix and offset of each sample as one float32 (B, 3, 4); see ``augmentation.colour_matrices``."""
    matrices, offsets = colour_matrices(parameters)
    return np.concatenate([matrices, offsets[:, :, None]], axis=2)


def encode_mask(values: Pixels, out: Pixels) -> None:
    """Write mask values 1, 2, 3, uint8 (B, S, S), into ``out`` as class indices 0, 1, 2 or as one-hot planes.

    ``out`` is uint8 (B, S, S), perhaps ``values`` itself, or (B, 3, S, S) for one-hot.
    """
    if out.ndim == values.ndim:
        np.subtract(values, 1, out=out)
        return
    for value in (1, 2, 3):
        np.equal(values, value, out=out[:, value - 1].view(np.bool_))


def invalid_masks(values: Pixels) -> list[int]:
    """Return which masks of (B, S, S) hold a value other than 1, 2, 3."""
    if not values.size or (int(values.min()) >= 1 and int(values.max()) <= 3):
        return []
    return np.flatnonzero(((values < 1) | (values > 3)).any(axis=(1, 2))).tolist()
