"""The classes' colours: indexed masks, colour maps of a mask, and overlays on an image."""

import numpy as np
import numpy.typing as npt
from PIL import Image

Rgb = tuple[int, int, int]
Pixels = npt.NDArray[np.uint8]

# Animal, background, border: distinguishable with any colour vision (Okabe and Ito), and in grey.
COLOURS: tuple[Rgb, Rgb, Rgb] = ((230, 159, 0), (0, 70, 120), (255, 255, 255))
_OVERLAY_STRENGTH = (0.45, 0.0, 0.9)  # opacity of each class's colour over the image; background stays as it is
_STRIP_PIXELS = 2_000_000


def colour_map(classes: Pixels) -> Pixels:
    """Return class indices 0..2 (H, W) in the classes' colours: uint8 (H, W, 3)."""
    return np.array(COLOURS, np.uint8)[classes]


def indexed_mask(mask: Pixels) -> Image.Image:
    """Return a mask of values 1, 2, 3 (H, W) as an indexed image whose palette shows the classes."""
    image = Image.fromarray(mask)
    image.putpalette([0, 0, 0, *(value for colour in COLOURS for value in colour)])
    return image


def overlay(image: Image.Image, mask: Pixels) -> Image.Image:
    """Return the image with the animal tinted and its border drawn; mask values 1, 2, 3, shape (H, W)."""
    palette = np.zeros((4, 3), np.float32)
    palette[1:] = COLOURS
    strength = np.zeros((4, 1), np.float32)
    strength[1:, 0] = _OVERLAY_STRENGTH
    pixels = np.asarray(image)
    mixed = np.empty_like(pixels)
    rows = max(1, _STRIP_PIXELS // image.width)
    for start in range(0, image.height, rows):  # strip by strip: floats of a huge image take gigabytes
        part = slice(start, start + rows)
        before, classes = pixels[part].astype(np.float32), mask[part]
        mixed[part] = (before + strength[classes] * (palette[classes] - before)).round()
    return Image.fromarray(mixed)
