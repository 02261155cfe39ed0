"""Files that are neither plain JPEGs nor plain PNGs, decoded with Pillow: slower, tolerant, and reported."""

import contextlib
import ctypes
import io
import re
import struct
import threading
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from PIL import ExifTags, Image, PpmImagePlugin, UnidentifiedImageError, _imaging
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile

from shards.audit import png_chunks as png
from shards.audit.file_kinds.signatures import START, describe_start, file_kind
from shards.audit.file_kinds.tiff_tags import (
    BITS_PER_SAMPLE,
    SAMPLES_PER_PIXEL,
    TILE_LENGTH,
    TILE_WIDTH,
    is_tiff,
    read_tags,
)
from shards.audit.findings import MAX_PIXELS, Finding, RejectedError, check_pixels, damaged, repaired
from shards.audit.orientation import NORMAL, Pixels, undo_orientation
from shards.audit.png_data import check_data
from shards.format.layout import MOST_PIXELS

# What Pillow and NumPy raise for a sample that is damaged.
DAMAGE: Final = (OSError, ValueError, SyntaxError, EOFError, struct.error)

FORMATS: Final = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM")

_GLOBALS = threading.Lock()  # warning filters and Pillow's limit belong to the process, not to the thread
_ERROR_HANDLER: Final = ctypes.CFUNCTYPE(None, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_void_p)  # the last: a va_list
_TILE_ROWS, _TILE_COLUMNS = 256, 4096  # pixels that are converted at a time
_COUNTED: Final = 1 << 24  # bytes of a file whose images are counted, which takes seconds if they are tiny; of a TIFF:
_COUNTED_TIFF: Final = 1 << 20
_MOST_WEBP: Final = 1 << 27  # pixels; libwebp and Pillow take 16 bytes for each, twice as many as for other formats
_PPM_START: Final = re.compile(rb"P[1-6][\s#]")
_PPM_COMMENT: Final = re.compile(rb"#[^\r\n]*")
_PPM_HEADER: Final = 1 << 16  # bytes, in which it gives the size; Pillow reads its comments byte by byte
Image.preinit()  # the plugins of common formats, once for all workers that are forked later


@dataclass(frozen=True)
class DecodedFile:
    """The first image of a file, decoded.

    ``orientation`` is that of the file's EXIF data, 1..8; Pillow has applied it already where ``turned``. ``bits`` are
    those of a channel in the file. ``frames`` says how many images the file holds, ``3 images``, "" for one.
    """

    image: Image.Image
    orientation: int
    turned: bool
    bits: int
    frames: str

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) as stored in the file, pixels."""
        width, height = self.image.size
        return (height, width) if self.turned and self.orientation >= 5 else (width, height)

    def as_stored(self, pixels: Pixels) -> Pixels:
        """Return pixels of the image, (height, width, ...), as they are in the file: not rotated."""
        return undo_orientation(pixels, self.orientation) if self.turned else pixels


def open_file(data: bytes, *, what: str, max_pixels: int = MAX_PIXELS) -> DecodedFile:
    """Open and decode the first image of a file with Pillow; ``what`` is "image" or "mask", for the reason.

    Raises ``RejectedError`` if it is empty, of no known format, too large, truncated or damaged; or if it has more bits
    or other channels than Pillow would let through unchanged.
    """
    if not data:
        raise RejectedError(f"{what}-empty")
    if file_kind(data[:START]) == "BigTIFF":  # Pillow reads it, 16 bits as 8; its tags are not those of a TIFF
        raise RejectedError(f"{what}-unknown-format", describe_start(data))
    image: Image.Image | None = None
    bits = 8
    try:
        with _pillow_as_needed(), _libtiff_errors() as errors:
            if is_tiff(data):
                bits = _check_tiff(data, what, max_pixels=max_pixels)
            if _PPM_START.match(data) and len(_PPM_COMMENT.sub(b" ", data[2:_PPM_HEADER]).split(None, 2)) < 2:
                raise damaged(what, ValueError("a header without a size"), truncated=False)
            image = Image.open(io.BytesIO(data), formats=FORMATS)
            image.info.pop("xmp", None)  # of which Pillow takes the orientation, where EXIF has none, in some formats
            check_pixels(image.width, image.height, what, max_pixels=max_pixels)
            if image.format == "WEBP" and image.width * image.height > _MOST_WEBP:
                size = f"{image.height} x {image.width} pixels (height x width)"
                raise RejectedError(f"{what}-too-large", f"{size}; WebPs are decoded up to {_MOST_WEBP:,}")
            if image.format == "PNG":
                chunks = png.read_chunks(data)
                check_data(chunks)
                bits = chunks.depth
            check_depth(image, what)
            orientation, frames = _orientation(image), _frames(image, data)
            image.load()
            if errors:  # Pillow takes what it has been given, where the colours are YCbCr
                raise damaged(what, ValueError("libtiff found an error in the data"), truncated=False)
    except (RejectedError, MemoryError, ImportError):  # the last two are the machine's fault, not the file's
        raise
    except UnidentifiedImageError:
        raise RejectedError(f"{what}-unknown-format", describe_start(data)) from None
    except png.PngError as error:
        raise damaged(what, error, truncated=error.truncated) from None
    except Exception as error:  # given garbage, Pillow's parsers raise nearly anything
        if isinstance(error, OSError) and error.errno is not None:  # the machine's fault, too
            raise
        raise damaged(what, error, truncated=image is not None and "truncated" in str(error)) from None
    return DecodedFile(
        image, orientation, turned=image.format == "TIFF" and orientation != NORMAL, bits=bits, frames=frames
    )


def open_stored(data: bytes) -> Image.Image:
    """Open the JPEG or PNG of a sample; not by ``Image.open``, whose limit of pixels is lower than a set's.

    Raises one of :data:`DAMAGE` if it is damaged, as what decodes it then does.
    """
    file = io.BytesIO(data)
    image = JpegImageFile(file) if data.startswith(b"\xff\xd8") else PngImageFile(file)
    if image.width * image.height > MOST_PIXELS:
        raise ValueError(f"{image.height} x {image.width} pixels are more than any set holds")
    return image


def to_rgb(decoded: DecodedFile) -> tuple[Pixels, list[Finding]]:
    """Return an image's pixels as stored, uint8 (height, width, 3), and what was changed to get them."""
    image = decoded.image
    findings = []
    if decoded.frames:
        findings.append(repaired("image-animated", f"the first of {decoded.frames} was taken"))
    if image.mode == "CMYK":
        findings.append(repaired("image-cmyk"))
    if image.mode in ("1", "L", "LA", "La"):
        findings.append(Finding("warning", "image-grey"))
    # The second channel of Lab is an A, too.
    alpha = ({"A", "a"} & {*image.getbands()} and image.mode != "LAB") or "transparency" in image.info
    pixels = np.empty((image.height, image.width, 3), dtype=np.uint8)
    opaque = True
    try:
        for left, top, tile in _tiles(image):
            if alpha:
                rgba = tile.convert("RGBA")
                coverage = rgba.getchannel("A")
                opaque = opaque and coverage.getextrema()[0] == 255
                tile = Image.new("RGB", rgba.size, "white")  # noqa: PLW2901 - the same tile, converted
                tile.paste(rgba, mask=coverage)
            pixels[top : top + tile.height, left : left + tile.width] = np.asarray(tile.convert("RGB"))
    except ValueError as error:
        raise RejectedError("image-unknown-format", f"colours of mode {image.mode}: {error}") from None
    if alpha:
        findings.append(repaired("image-alpha", "opaque everywhere; the channel was dropped" if opaque else ""))
    return decoded.as_stored(pixels), findings


def file_palette(data: bytes) -> bytes:
    """Return the palette of a file that :func:`open_file` opens: red, green and blue of each index; b"" for none."""
    with _pillow_as_needed(), Image.open(io.BytesIO(data), formats=FORMATS) as image:
        return bytes(image.getpalette("RGB") or []) if image.mode == "P" else b""


@contextlib.contextmanager
def _pillow_as_needed() -> Iterator[None]:
    """Let Pillow open files of any size (limits are checked here), and keep its warnings to itself."""
    with _GLOBALS, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = limit


@contextlib.contextmanager
def _libtiff_errors() -> Iterator[list[None]]:
    """Collect the errors of libtiff, which writes them to stderr else, and names no image there."""
    errors: list[None] = []
    try:
        set_handler = ctypes.CDLL(_imaging.__file__).TIFFSetErrorHandler
    except (AttributeError, OSError):  # a Pillow that was built without it
        yield errors
        return
    set_handler.argtypes, set_handler.restype = [ctypes.c_void_p], ctypes.c_void_p
    handler = _ERROR_HANDLER(lambda *_: errors.append(None))
    former = set_handler(handler)
    try:
        yield errors
    finally:
        set_handler(former)


def _tiles(image: Image.Image) -> Iterator[tuple[int, int, Image.Image]]:
    """Yield (left, top, part) of an image, so that conversions need little memory."""
    if image.height <= _TILE_ROWS and image.width <= _TILE_COLUMNS:
        yield 0, 0, image
        return
    for top in range(0, image.height, _TILE_ROWS):
        for left in range(0, image.width, _TILE_COLUMNS):
            box = (left, top, min(left + _TILE_COLUMNS, image.width), min(top + _TILE_ROWS, image.height))
            yield left, top, image.crop(box)


def _check_tiff(data: bytes, what: str, *, max_pixels: int) -> int:
    """Reject a TIFF that Pillow would refuse as unknown, read with fewer bits than it has, or take too much memory for.

    Return its bits.
    """
    tags = read_tags(data)
    for samples in tags.get(SAMPLES_PER_PIXEL, (1,)):
        if samples not in (1, 3, 4):
            raise RejectedError(f"{what}-channels", f"{samples} channels")
    bits = max(tags.get(BITS_PER_SAMPLE, (1,)))
    if bits > 8 and (what == "image" or max(tags.get(SAMPLES_PER_PIXEL, (1,))) > 1):
        raise RejectedError(f"{what}-depth", f"{bits} bits per channel")
    height, width = (max(tags.get(tag, (1,))) for tag in (TILE_LENGTH, TILE_WIDTH))
    if height * width > max_pixels:  # libtiff unpacks whole tiles, however small the image is
        raise RejectedError(f"{what}-too-large", f"tiles of {height} x {width} pixels (height x width)")
    return bits


def check_depth(image: Image.Image, what: str) -> None:
    """Reject an image that Pillow would reduce to 8 bits a channel, or that has more; ``what`` as in open_file."""
    if isinstance(image, PpmImagePlugin.PpmImageFile) and image.tile:  # else it is loaded
        codec, arguments = image.tile[0].codec_name, image.tile[0].args
        most = arguments[1] if codec != "raw" and isinstance(arguments, tuple) else 255
        if most > 255 or (what == "mask" and most != 255):
            raise RejectedError(f"{what}-depth", f"values from 0 to {most}")
    if what == "image" and (image.mode in ("I", "F") or image.mode.startswith("I;")):
        raise RejectedError("image-depth", f"pixels of mode {image.mode}")


def _frames(image: Image.Image, data: bytes) -> str:
    """Return how many images a file holds, "" for one; the headers of all are read to count them."""
    if not getattr(image, "is_animated", False):
        return ""
    counted = len(data) <= (_COUNTED_TIFF if is_tiff(data) else _COUNTED)
    return f"{getattr(image, 'n_frames')} images" if counted else "several images"  # noqa: B009 not of every Image


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1..8; 1 where there is none that can be read."""
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, NORMAL)
    except Exception:  # noqa: BLE001 - damaged EXIF is no reason to lose an image
        return NORMAL
    return value if isinstance(value, int) and 1 <= value <= 8 else NORMAL
