"""Files that are not what their name says, or a rare kind of it, read with Pillow: slow, tolerant, and told."""

from __future__ import annotations

import io
import threading
import warnings

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from shards.audit import png_chunks as png
from shards.audit.findings import Finding, RejectedError, check_pixels, mended

FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM")
_ORIENTATION_TAG = 0x0112
_WHITE = (255, 255, 255)

_FILTERS = threading.Lock()  # of warnings: they belong to the process, not to the thread
Image.preinit()  # the common formats' plugins, once for all workers that are forked later

Pixels = npt.NDArray[np.uint8]


def open_image(data: bytes, *, what: str) -> Image.Image:
    """Open and decode the first picture of a file with Pillow.

    Args:
        data: the file.
        what: "picture" or "trimap", for the reason.

    Raises:
        RejectedError: empty, of no known format, too large, truncated or damaged.
    """
    if not data:
        raise RejectedError(f"{what}-empty")
    try:
        with _FILTERS, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise RejectedError(f"{what}-too-large", str(error)) from None
    except UnidentifiedImageError:
        raise RejectedError(f"{what}-unknown-format", f"it begins with {data[:8]!r}") from None
    except Exception as error:  # noqa: BLE001 - fed with garbage, Pillow's parsers raise nearly anything
        _blame_the_file(error)
        raise RejectedError(f"{what}-corrupt", str(error)) from None
    check_pixels(image.width, image.height, what)
    try:
        if image.format == "PNG":
            png.read_header(data)
        with _FILTERS, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image.load()
    except png.PngError as error:
        raise RejectedError(f"{what}-{'truncated' if error.truncated else 'corrupt'}", str(error)) from None
    except Exception as error:  # noqa: BLE001 - as above
        _blame_the_file(error)
        reason = "truncated" if "truncated" in str(error) else "corrupt"
        raise RejectedError(f"{what}-{reason}", str(error)) from None
    return image


def _blame_the_file(error: Exception) -> None:
    """Pass on what is the machine's fault, not the file's: no memory, a library that cannot be loaded."""
    if isinstance(error, MemoryError | ImportError) or (isinstance(error, OSError) and error.errno is not None):
        raise error


def orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1..8; 1 where there is none that can be read."""
    try:
        value = image.getexif().get(_ORIENTATION_TAG, 1)
    except Exception:  # noqa: BLE001 - damaged EXIF is no reason to lose a picture
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def to_rgb(image: Image.Image, data: bytes) -> tuple[Pixels, list[Finding]]:
    """Return a picture's pixels as uint8 (height, width, 3), and what had to be changed for that.

    Raises:
        RejectedError: there is no sensible way (floating-point pictures).
    """
    findings = []
    if getattr(image, "n_frames", 1) > 1:
        findings.append(mended("picture-animated", f"the first of {image.n_frames} pictures was taken"))  # type: ignore[attr-defined]
    if image.format == "PNG" and png.read_header(data).depth == 16:
        findings.append(mended("picture-16-bit"))
    if image.mode == "F":
        raise RejectedError("picture-unknown-format", "floating-point pixels")
    if image.mode == "I" or image.mode.startswith("I;16"):
        image = _from_16_bits(image)
        if not findings or findings[-1].reason != "picture-16-bit":
            findings.append(mended("picture-16-bit"))
    if image.mode == "CMYK":
        findings.append(mended("picture-cmyk"))
    if "A" in image.getbands() or "transparency" in image.info:
        image, finding = _over_white(image)
        findings.append(finding)
    return np.asarray(image.convert("RGB")), findings


def _from_16_bits(image: Image.Image) -> Image.Image:
    values = np.asarray(image).astype(np.int64)
    if values.min(initial=0) < 0 or values.max(initial=0) > 65535:
        raise RejectedError("picture-unknown-format", "32-bit pixels")
    return Image.fromarray((values >> 8).astype(np.uint8))


def _over_white(image: Image.Image) -> tuple[Image.Image, Finding]:
    rgba = image.convert("RGBA")
    extrema = rgba.getchannel("A").getextrema()
    if extrema[0] == 255:
        return rgba.convert("RGB"), mended("picture-alpha", "opaque everywhere; the channel was dropped")
    background = Image.new("RGB", rgba.size, _WHITE)
    background.paste(rgba, mask=rgba.getchannel("A"))
    return background, mended("picture-alpha")
