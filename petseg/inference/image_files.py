"""Finding image files, and reading images of any format and mode."""

import glob
import os
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from shards.errors import SampleError, UsageError

MAX_PIXELS = 150_000_000  # a larger file is taken for a decompression bomb; Pillow refuses from 179 million
_GLOB_CHARACTERS = frozenset("*?[")
_STRIP_PIXELS = 2_000_000  # converted together; a whole huge image takes a gigabyte for every intermediate image


@dataclass(frozen=True)
class ImageFile:
    """An image file, and in which subfolder of the folder that was named it lies; ``Path()`` for none."""

    path: Path
    subfolder: Path = Path()


def find_images(
    arguments: Sequence[str], *, recursive: bool = False, skip: Path | None = None
) -> tuple[list[ImageFile], int]:
    """Resolve files, folders and globs (also ``**``) to images and the number of other files.

    A named file is taken whatever its name; of a folder or glob, files with an image's suffix. Each file is taken once.
    With ``recursive``, folders are searched with their subfolders, without hidden ones and without ``skip``. An
    argument that names nothing raises ``UsageError``.
    """
    suffixes = Image.registered_extensions()
    images: dict[Path, ImageFile] = {}
    ignored = 0
    for argument in arguments:
        path = Path(argument)
        if path.is_dir():
            below = _walk(path, skip=skip) if recursive else (entry for entry in path.iterdir() if entry.is_file())
            found = [ImageFile(entry, entry.parent.relative_to(path)) for entry in sorted(below)]
        elif path.exists():
            images.setdefault(path.resolve(), ImageFile(path))
            continue
        elif _GLOB_CHARACTERS & set(argument):
            names = sorted(glob.glob(argument, recursive=True))  # noqa: PTH207
            found = [ImageFile(Path(name)) for name in names if Path(name).is_file()]
        else:
            raise UsageError(f"no such image or folder: {argument}")
        chosen = [each for each in found if each.path.suffix.lower() in suffixes and not each.path.name.startswith(".")]
        if not chosen:
            raise UsageError(_nothing_found(path, argument, recursive=recursive))
        ignored += len(found) - len(chosen)
        for each in chosen:
            images.setdefault(each.path.resolve(), each)
    return list(images.values()), ignored


def _walk(folder: Path, *, skip: Path | None) -> Iterator[Path]:
    """Yield the files of a folder and its subfolders, without hidden subfolders and without ``skip``."""
    skipped = None if skip is None else skip.resolve()
    for where, subfolders, files in os.walk(folder):
        subfolders[:] = [
            name for name in subfolders if not name.startswith(".") and Path(where, name).resolve() != skipped
        ]
        yield from (Path(where, name) for name in files)


def _nothing_found(path: Path, argument: str, *, recursive: bool) -> str:
    if not path.is_dir():
        return f"no images match {argument}"
    if not recursive and any(entry.is_dir() for entry in path.iterdir()):
        return f"no images in {argument} itself; add --recursive for those in its subfolders"
    return f"no images in {argument}"


def to_rgb(image: str | Path | Image.Image | npt.NDArray[np.uint8]) -> Image.Image:
    """Return an image in 8-bit RGB, with its EXIF orientation applied.

    16-bit grey is scaled to 8 bits, and so are floating-point values (of 0..1, else taken for 0..255). Transparent
    pixels are blended with white; of an animation the first frame is taken. Takes up to 8 bytes per pixel of memory
    while it works, and 4 for the result. Raises ``SampleError`` for a file that is not an image, is damaged, or has
    more than :data:`MAX_PIXELS` pixels.
    """
    if isinstance(image, Image.Image):
        return _rgb(ImageOps.exif_transpose(image))
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
            opened.load()
            ImageOps.exif_transpose(opened, in_place=True)
            return _rgb(opened)
    except FileNotFoundError:
        raise SampleError(f"{path}: no such file") from None
    except UnidentifiedImageError:
        raise SampleError(f"{path}: not an image that Pillow can read") from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise SampleError(f"{path}: cannot be decoded ({error})") from None


def _rgb(image: Image.Image) -> Image.Image:
    """Return an image that is upright already in RGB, converted strip by strip."""
    if image.mode == "RGB" and not image.has_transparency_data:
        return image
    scale = 255.0 if image.mode == "F" and _largest(image) <= 1.0 else 1.0
    result = Image.new("RGB", image.size)
    for top, strip in _strips(image):
        result.paste(_strip_rgb(strip, scale=scale), (0, top))
    return result


def _strips(image: Image.Image) -> Iterator[tuple[int, Image.Image]]:
    """Yield (first row, its strip of the image) from top to bottom."""
    rows = max(1, _STRIP_PIXELS // image.width)
    for top in range(0, image.height, rows):
        yield top, image.crop((0, top, image.width, min(top + rows, image.height)))


def _largest(image: Image.Image) -> float:
    return max(float(np.nan_to_num(np.asarray(strip)).max()) for _, strip in _strips(image))


def _strip_rgb(strip: Image.Image, *, scale: float) -> Image.Image:
    if strip.mode.startswith("I"):  # 16 bits (or 32 with 16 used): 65535 is white
        grey = np.asarray(strip, dtype=np.int64).clip(0, 65535) >> 8
        return Image.fromarray(grey.astype(np.uint8)).convert("RGB")
    if strip.mode == "F":
        values = np.nan_to_num(np.asarray(strip)) * scale
        return Image.fromarray(values.clip(0, 255).round().astype(np.uint8)).convert("RGB")
    if strip.has_transparency_data:
        rgba = strip.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgba).convert("RGB")
    return strip.convert("RGB")
