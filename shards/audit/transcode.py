"""Files that are not what their name says, or a rare kind of it, decoded with Pillow: slow, tolerant, and reported."""

import io
import threading
import warnings

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, UnidentifiedImageError

from shards.audit import png_chunks as png
from shards.audit.findings import MAX_PIXELS, Finding, RejectedError, check_pixels, damaged, repaired

FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM")

_FILTERS = threading.Lock()  # warning filters belong to the process, not to the thread
Image.preinit()  # the plugins of common formats, once for all workers that are forked later

Pixels = npt.NDArray[np.uint8]


def open_image(data: bytes, *, what: str, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Open and decode the first image of a file with Pillow; ``what`` is "image" or "mask", for the reason.

    Raises ``RejectedError`` if it is empty, of no known format, too large, truncated or damaged.
    """
    if not data:
        raise RejectedError(f"{what}-empty")
    image: Image.Image | None = None
    try:
        with _FILTERS, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(data), formats=FORMATS)
            check_pixels(image.width, image.height, what, max_pixels=max_pixels)
            if image.format == "PNG":
                png.read_chunks(data)
            image.load()
    except (RejectedError, MemoryError, ImportError):  # the last two are the machine's fault, not the file's
        raise
    except Image.DecompressionBombError as error:
        raise RejectedError(f"{what}-too-large", str(error)) from None
    except UnidentifiedImageError:
        raise RejectedError(f"{what}-unknown-format", f"it begins with {data[:8]!r}") from None
    except png.PngError as error:
        raise damaged(what, error, truncated=error.truncated) from None
    except Exception as error:  # given garbage, Pillow's parsers raise nearly anything
        if isinstance(error, OSError) and error.errno is not None:  # the machine's fault, too
            raise
        raise damaged(what, error, truncated=image is not None and "truncated" in str(error)) from None
    return image


def orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1..8; 1 where there is none that can be read."""
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # noqa: BLE001 - damaged EXIF is no reason to lose an image
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def to_rgb(image: Image.Image, data: bytes) -> tuple[Pixels, list[Finding]]:
    """Return an image's pixels as uint8 (height, width, 3), and what was changed to get them.

    Raises ``RejectedError`` if there is no sensible way (floating-point or 32-bit pixels).
    """
    findings = []
    if getattr(image, "n_frames", 1) > 1:
        findings.append(repaired("image-animated", f"the first of {image.n_frames} images was taken"))  # type: ignore[attr-defined]
    if image.mode == "F":
        raise RejectedError("image-unknown-format", "floating-point pixels")
    wide = image.mode == "I" or image.mode.startswith("I;16")
    if wide or (image.format == "PNG" and data[24] == 16):  # byte 24 of a PNG: bits per channel
        findings.append(repaired("image-16-bit"))
    if wide:
        values = np.asarray(image).astype(np.int64)
        if values.min(initial=0) < 0 or values.max(initial=0) > 65535:
            raise RejectedError("image-unknown-format", "32-bit pixels")
        image = Image.fromarray((values >> 8).astype(np.uint8))
    if image.mode == "CMYK":
        findings.append(repaired("image-cmyk"))
    if "A" in image.getbands() or "transparency" in image.info:
        image, finding = _over_white(image)
        findings.append(finding)
    return np.asarray(image.convert("RGB")), findings


def _over_white(image: Image.Image) -> tuple[Image.Image, Finding]:
    rgba = image.convert("RGBA")
    alpha = rgba.getchannel("A")
    if alpha.getextrema()[0] == 255:
        return rgba.convert("RGB"), repaired("image-alpha", "opaque everywhere; the channel was dropped")
    background = Image.new("RGB", rgba.size, "white")
    background.paste(rgba, mask=alpha)
    return background, repaired("image-alpha")
