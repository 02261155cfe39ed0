"""JPEGs decoded at a reduced scale: the inverse DCT computes fewer pixels of each block.

Huffman decoding, most of the time, is the same; what is saved is the rest of decoding and most of resizing. The result
is not that of decoding in full: the DCT's low frequencies replace the antialiasing filter. docs/performance.md has the
difference.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import simplejpeg

from pipeline.cpu.pixel_ops import Box, Pixels
from pipeline.cpu.stored_png import size_problem
from pipeline.io.scratch import Bytes, Scratch
from shards.format.geometry import Size

# Scales at which libjpeg-turbo's vector code computes the inverse DCT, and what it computes: 1 x 1, 2 x 2, 4 x 4 or
# 8 x 8 pixels of each 8 x 8 block. The scales between them take longer than decoding in full.
_EIGHTHS = (1, 2, 4)


def jpeg_scales(
    boxes: npt.NDArray[Any], places: npt.NDArray[Any], sides: tuple[npt.NDArray[Any], npt.NDArray[Any]]
) -> npt.NDArray[np.int64]:
    """Return in how many eighths of their size images are decoded, 1, 2, 4 or 8: int64 (B,).

    Args:
        boxes: what is shown of each image, in its pixels: top, left, height, width; (B, 4).
        places: where that is put in the output, likewise.
        sides: heights and widths of the images, (B,) each.
    """
    chosen = np.full(len(boxes), 8, dtype=np.int64)
    for scale in reversed(_EIGHTHS):
        enough = np.ones(len(boxes), dtype=bool)
        for side, lengths in enumerate(sides):
            ends = scaled_ends(boxes[:, side], boxes[:, side + 2], full=lengths, scaled=scaled_length(lengths, scale))
            enough &= ends[1] - ends[0] >= places[:, side + 2]
        chosen[enough] = scale
    return chosen


def scaled_length(length: Any, eighths: int) -> Any:
    """Return the length in pixels that libjpeg-turbo gives a side at a scale: rounded up."""
    return -(-length * eighths // 8)


def scaled_ends(start: Any, length: Any, *, full: Any, scaled: Any) -> tuple[Any, Any]:
    """Return where a part of a side begins and ends at another scale, in whole pixels: the nearest, rounded up.

    So an end is at most half a pixel of the scaled image from its exact place.
    """
    return (2 * start * scaled + full) // (2 * full), (2 * (start + length) * scaled + full) // (2 * full)


def decode_scaled_jpeg(data: Bytes, size: Size, eighths: int, scratch: Scratch) -> Pixels | str:
    """Return the pixels of a JPEG of (height, width) at a scale, in the thread's scratch memory; or what is wrong."""
    expected = scaled_length(size[0], eighths), scaled_length(size[1], eighths), 3
    try:
        height, width = simplejpeg.decode_jpeg_header(data)[:2]
        if (height, width) != tuple(size):
            return size_problem((height, width, 3), (*size, 3))
        memory = scratch.take("image", expected)
        pixels: Pixels = simplejpeg.decode_jpeg(
            data, "RGB", min_height=expected[0], min_width=expected[1], strict=True, buffer=memory.reshape(-1)
        )
    except ValueError as error:
        return f"cannot be decoded: {error}"
    return pixels if pixels.shape == expected else size_problem(pixels.shape, expected)


def scaled_box(box: Box, *, full: Size, scaled: Size) -> Box:
    """Return a box of an image of ``full`` pixels, (height, width), in the same image at another size."""
    top, bottom = scaled_ends(box[0], box[2], full=full[0], scaled=scaled[0])
    left, right = scaled_ends(box[1], box[3], full=full[1], scaled=scaled[1])
    return top, left, bottom - top, right - left
