"""Reading anybody's pictures, and writing masks and overlays."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from shards.errors import SampleError

Rgb = tuple[int, int, int]
# Animal, background, border: told apart by people with any colour vision (Okabe and Ito), and in grey.
COLOURS: tuple[Rgb, Rgb, Rgb] = ((230, 159, 0), (0, 70, 120), (255, 255, 255))
_STRIP_PIXELS = 2_000_000
MAX_PIXELS = 150_000_000  # beyond it a file is taken for a decompression bomb; Pillow refuses from 179 million
_OVERLAY_STRENGTH = (0.45, 0.0, 0.9)  # of each class's colour over the picture; background stays as it is


def to_rgb(picture: str | Path | Image.Image | npt.NDArray[np.uint8]) -> Image.Image:
    """Return a picture in 8-bit RGB, turned upright by its EXIF orientation.

    16-bit grey is scaled to 8 bits, and so are floating-point values (of 0..1, else taken for 0..255). Transparency is
    laid over white; of an animation the first frame is taken.

    Raises:
        SampleError: the file is not a picture, is damaged, or has more than :data:`MAX_PIXELS` pixels.
    """
    if isinstance(picture, Image.Image):
        return _upright_rgb(picture)
    if not isinstance(picture, str | Path):
        array = np.asarray(picture)
        if array.ndim != 3 or array.shape[2] != 3 or array.dtype != np.uint8:
            raise SampleError(f"a picture must be uint8 (H, W, 3), not {array.dtype} {array.shape}")
        return Image.fromarray(array)
    path = Path(picture)
    try:
        # Pillow warns from half its limit on; the size is checked here instead, before any pixel is decoded.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            opened = Image.open(path)
        with opened:
            if opened.width * opened.height > MAX_PIXELS:
                raise SampleError(f"{path}: {opened.width} x {opened.height} pixels are more than {MAX_PIXELS:,}")
            return _upright_rgb(opened)
    except FileNotFoundError:
        raise SampleError(f"{path}: no such file") from None
    except UnidentifiedImageError:
        raise SampleError(f"{path}: not a picture that Pillow can read") from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise SampleError(f"{path}: cannot be decoded ({error})") from None


def _upright_rgb(picture: Image.Image) -> Image.Image:
    picture = ImageOps.exif_transpose(picture)
    if picture.mode.startswith("I"):  # 16 bits (or 32 with 16 used): 65535 is white
        grey = np.asarray(picture, dtype=np.int64).clip(0, 65535) >> 8
        return Image.fromarray(grey.astype(np.uint8)).convert("RGB")
    if picture.mode == "F":
        values = np.nan_to_num(np.asarray(picture))
        scale = 255.0 if values.max() <= 1.0 else 1.0
        return Image.fromarray((values * scale).clip(0, 255).round().astype(np.uint8)).convert("RGB")
    if picture.has_transparency_data:
        coloured = picture.convert("RGBA")
        white = Image.new("RGBA", coloured.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, coloured).convert("RGB")
    return picture.convert("RGB")


def indexed_mask(mask: npt.NDArray[np.uint8]) -> Image.Image:
    """Return a mask of values 1, 2, 3 (H, W) as an indexed picture whose palette shows the classes."""
    image = Image.fromarray(mask)
    image.putpalette([0, 0, 0, *(value for colour in COLOURS for value in colour)])
    return image


def overlay(picture: Image.Image, mask: npt.NDArray[np.uint8]) -> Image.Image:
    """Return the picture with the animal tinted and its border drawn; mask values 1, 2, 3, shape (H, W)."""
    palette = np.zeros((4, 3), np.float32)
    palette[1:] = COLOURS
    strength = np.zeros((4, 1), np.float32)
    strength[1:, 0] = _OVERLAY_STRENGTH
    pixels = np.asarray(picture)
    mixed = np.empty_like(pixels)
    rows = max(1, _STRIP_PIXELS // picture.width)
    for start in range(0, picture.height, rows):  # strip by strip: floats of a huge picture take gigabytes
        part = slice(start, start + rows)
        before, classes = pixels[part].astype(np.float32), mask[part]
        mixed[part] = (before + strength[classes] * (palette[classes] - before)).round()
    return Image.fromarray(mixed)
