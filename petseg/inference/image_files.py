"""Finding image files, and reading images of any format and mode."""

import glob
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from shards.errors import SampleError, UsageError

MAX_PIXELS = 150_000_000  # a larger file is taken for a decompression bomb; Pillow refuses from 179 million
_GLOB_CHARACTERS = frozenset("*?[")


def find_images(arguments: Sequence[str]) -> tuple[list[Path], int]:
    """Resolve files, folders (not their subfolders) and globs (also ``**``) to images and the number of other files.

    A named file is taken whatever its name; of a folder or glob, files with an image's suffix. Each file is taken once.
    An argument that names nothing raises ``UsageError``.
    """
    suffixes = Image.registered_extensions()
    images: dict[Path, Path] = {}
    ignored = 0
    for argument in arguments:
        path = Path(argument)
        if path.is_dir():
            found = sorted(entry for entry in path.iterdir() if entry.is_file())
        elif path.exists():
            images.setdefault(path.resolve(), path)
            continue
        elif _GLOB_CHARACTERS & set(argument):
            found = sorted(Path(name) for name in glob.glob(argument, recursive=True) if Path(name).is_file())  # noqa: PTH207
        else:
            raise UsageError(f"no such image or folder: {argument}")
        chosen = [entry for entry in found if entry.suffix.lower() in suffixes and not entry.name.startswith(".")]
        if not chosen:
            raise UsageError(f"no images in {argument}" if path.is_dir() else f"no images match {argument}")
        ignored += len(found) - len(chosen)
        for entry in chosen:
            images.setdefault(entry.resolve(), entry)
    return list(images.values()), ignored


def to_rgb(image: str | Path | Image.Image | npt.NDArray[np.uint8]) -> Image.Image:
    """Return an image in 8-bit RGB, with its EXIF orientation applied.

    16-bit grey is scaled to 8 bits, and so are floating-point values (of 0..1, else taken for 0..255). Transparent
    pixels are blended with white; of an animation the first frame is taken. Raises ``SampleError`` for a file that is
    not an image, is damaged, or has more than :data:`MAX_PIXELS` pixels.
    """
    if isinstance(image, Image.Image):
        return _upright_rgb(image)
    if not isinstance(image, str | Path):
        array = np.asarray(image)
        if array.ndim != 3 or array.shape[2] != 3 or array.dtype != np.uint8:
            raise SampleError(f"an image must be uint8 (H, W, 3), not {array.dtype} {array.shape}")
        return Image.fromarray(array)
    path = Path(image)
    try:
        # Pillow warns from half its limit on; the size is checked here instead, before any pixel is decoded.
        ignore = warnings.catch_warnings(action="ignore", category=Image.DecompressionBombWarning)
        with ignore, Image.open(path) as opened:
            if opened.width * opened.height > MAX_PIXELS:
                raise SampleError(f"{path}: {opened.width} x {opened.height} pixels are more than {MAX_PIXELS:,}")
            return _upright_rgb(opened)
    except FileNotFoundError:
        raise SampleError(f"{path}: no such file") from None
    except UnidentifiedImageError:
        raise SampleError(f"{path}: not an image that Pillow can read") from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise SampleError(f"{path}: cannot be decoded ({error})") from None


def _upright_rgb(image: Image.Image) -> Image.Image:
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # 16 bits (or 32 with 16 used): 65535 is white
        grey = np.asarray(image, dtype=np.int64).clip(0, 65535) >> 8
        return Image.fromarray(grey.astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        values = np.nan_to_num(np.asarray(image))
        scale = 255.0 if values.max() <= 1.0 else 1.0
        return Image.fromarray((values * scale).clip(0, 255).round().astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")
