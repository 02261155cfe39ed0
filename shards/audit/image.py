"""The audit of an image: it decodes completely, and what is packed is a JPEG that every decoder reads."""

import contextlib
import re
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import simplejpeg

from shards.audit import jpeg_headers as jpeg
from shards.audit import transcode
from shards.audit.findings import MAX_PIXELS, Finding, RejectedError, check_pixels, damaged, repaired
from shards.audit.transcode import Pixels
from shards.format.layout import ImageFormat

REPAIR_QUALITY: Final = 95  # of images that must be encoded again in `source` storage; without chroma subsampling
_MAX_JPEG_SIDE = 65_500


@dataclass(frozen=True)
class AuditedImage:
    """An image that can be packed, with its size as packed, and what was repaired.

    ``file`` is a plain JPEG or PNG, as ``format`` says, the original bytes where nothing was repaired; None where only
    pixels were wanted.
    ``pixels`` are uint8 (height, width, 3), RGB, where they were asked for or had to be made.
    """

    file: bytes | None
    format: ImageFormat
    pixels: Pixels | None
    width: int
    height: int
    findings: list[Finding]


def audit_image(data: bytes, *, mask_size: tuple[int, int], pixels: bool, max_pixels: int = MAX_PIXELS) -> AuditedImage:
    """Decode an image strictly, and repair what can be repaired safely; raise ``RejectedError`` if it cannot be packed.

    Args:
        data: the file's content.
        mask_size: (width, height) of its mask; decides whether the rotation that EXIF asks for is applied.
        pixels: whether the pixels are wanted (``jpeg`` and ``raw`` storage) or the file (``source``).
    """
    if not data.startswith(jpeg.SIGNATURE):
        return _reencode(data, mask_size, pixels=pixels, first=None)
    try:
        header = jpeg.read_header(data)
    except jpeg.JpegError as error:
        raise _damaged(error) from None
    check_pixels(header.width, header.height, "image", max_pixels=max_pixels)
    if not header.common:
        return _reencode(data, mask_size, pixels=pixels, first=_check_rare(data, header))
    try:
        decoded = simplejpeg.decode_jpeg(data, "RGB", strict=True) if pixels else _check(data)
    except ValueError as error:
        shorter = _without_stray_bytes(data, str(error))
        if shorter is None:
            raise _damaged(error) from None
        audited = audit_image(shorter, mask_size=mask_size, pixels=pixels, max_pixels=max_pixels)
        return replace(audited, findings=[repaired("image-stray-bytes", str(error)), *audited.findings])
    size = (header.width, header.height)
    rotate, findings = _rotation(size, header.orientation, mask_size)
    if rotate:
        rgb = decoded if pixels else simplejpeg.decode_jpeg(data, "RGB", strict=True)
        return _packed(apply_orientation(rgb, header.orientation), findings, pixels=pixels)
    packed = jpeg.without_orientation(data, header) if findings else data
    return AuditedImage(packed, "jpg", decoded if pixels else None, *size, findings)


def encode_jpeg(pixels: Pixels, *, quality: int, subsampling: str) -> bytes:
    """Encode uint8 (height, width, 3) RGB as a baseline JPEG; quality 1..100, subsampling "444" (none) or "420"."""
    pixels = np.ascontiguousarray(pixels)
    return bytes(simplejpeg.encode_jpeg(pixels, quality=quality, colorspace="RGB", colorsubsampling=subsampling))


def apply_orientation(pixels: Pixels, orientation: int) -> Pixels:
    """Return pixels (height, width, ...) rotated and flipped as EXIF's orientation 1..8 asks for."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels


def _check(data: bytes) -> Pixels:
    """Decode a JPEG strictly at the smallest scale; raises ValueError where it is damaged.

    All coefficients are decoded and checked, but only an eighth of luminance is turned into pixels: damage shows in the
    coefficients, and what follows is arithmetic that cannot fail. Tests compare the verdicts with full decoding.
    """
    pixels: Pixels = simplejpeg.decode_jpeg(data, "GRAY", min_height=1, min_width=1, strict=True)
    return pixels


def _reencode(data: bytes, mask_size: tuple[int, int], *, pixels: bool, first: Finding | None) -> AuditedImage:
    """Decode with Pillow and encode again; ``first`` says why, None that it is no JPEG."""
    image = transcode.open_image(data, what="image")
    findings = [first or repaired("image-wrong-type", f"a {image.format} file; encoded again as JPEG")]
    orientation = transcode.orientation(image)
    rgb, conversions = transcode.to_rgb(image, data)
    rotate, rotations = _rotation(image.size, orientation, mask_size)
    if rotate:
        rgb = apply_orientation(rgb, orientation)
    return _packed(rgb, [*findings, *conversions, *rotations], pixels=pixels)


def _packed(rgb: Pixels, findings: list[Finding], *, pixels: bool) -> AuditedImage:
    height, width = rgb.shape[:2]
    if max(width, height) > _MAX_JPEG_SIDE:
        raise RejectedError("image-too-large", f"{width} x {height} pixels; a JPEG's sides end at 65,500")
    encoded = None if pixels else encode_jpeg(rgb, quality=REPAIR_QUALITY, subsampling="444")
    return AuditedImage(encoded, "jpg", rgb, width, height, findings)


def _rotation(size: tuple[int, int], orientation: int, mask_size: tuple[int, int]) -> tuple[bool, list[Finding]]:
    """Return whether to rotate: the mask fits the rotated image only; reject where it fits neither."""
    if mask_size not in (size, size[::-1] if orientation >= 5 else size):
        detail = f"image {size[0]} x {size[1]}, mask {mask_size[0]} x {mask_size[1]} pixels"
        raise RejectedError("size-mismatch", detail)
    rotate = mask_size != size
    if orientation == 1:
        return rotate, []
    return rotate, [repaired("exif-rotated" if rotate else "exif-ignored", f"orientation {orientation}")]


def _check_rare(data: bytes, header: jpeg.JpegHeader) -> Finding:
    """Check the data of a JPEG that must be encoded again, as strictly as libjpeg-turbo can."""
    kind = f"frame type {header.frame:#x}, {header.precision} bits, {len(header.sampling)} channels"
    if header.precision > 8:
        raise RejectedError("image-16-bit", f"a JPEG with {header.precision} bits a channel cannot be decoded")
    if len(header.sampling) not in (1, 3, 4):
        raise RejectedError("image-unknown-format", kind)
    cmyk = len(header.sampling) == 4
    try:
        simplejpeg.decode_jpeg(data, "CMYK" if cmyk else "RGB", strict=True)
    except ValueError as error:
        raise _damaged(error) from None
    return repaired("image-cmyk") if cmyk else repaired("image-rare-jpeg", kind)


def _without_stray_bytes(data: bytes, message: str) -> bytes | None:
    """Return the JPEG without extra bytes at the end of its data if it then decodes without any warning, else None."""
    found = re.search(r"(\d+) extraneous bytes before marker 0xd9", message)
    end = data.rfind(b"\xff\xd9")
    if found is None or end < 0:
        return None
    count = int(found.group(1))
    for extra in range(count, count + 64):  # libjpeg has taken some stray bytes for data before it noticed
        shorter = data[: max(end - extra, 0)] + data[end:]
        with contextlib.suppress(ValueError):
            _check(shorter)
            return shorter
    return None


def _damaged(error: ValueError) -> RejectedError:
    early = ("Premature end of JPEG file", "ends inside", "ends before")
    return damaged("image", error, truncated=any(text in str(error) for text in early))
