"""The audit of a picture: it decodes wholly, and what is packed is a JPEG that every decoder reads."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import simplejpeg

from shards.audit import jpeg_headers as jpeg
from shards.audit import transcode as foreign
from shards.audit.findings import Finding, RejectedError, check_pixels, mended
from shards.audit.transcode import Pixels

MENDED_QUALITY: Final = 95  # of pictures that have to be encoded again in `source` storage; without chroma subsampling


@dataclass(frozen=True)
class Picture:
    """A picture that is fit to be packed.

    Attributes:
        jpeg: a plain JPEG; the original bytes where nothing had to be mended. None where only pixels were wanted.
        pixels: uint8 (height, width, 3), RGB, where they were asked for or had to be made.
        width: pixels, as packed.
        height: pixels, as packed.
        findings: what was mended.
    """

    jpeg: bytes | None
    pixels: Pixels | None
    width: int
    height: int
    findings: list[Finding]


def audit_picture(data: bytes, *, trimap_size: tuple[int, int], pixels: bool) -> Picture:
    """Decode a picture strictly, and mend what can be mended safely.

    With ``pixels`` False a JPEG's coefficients are all decoded and checked, but only an eighth of luminance is turned
    into pixels: damage shows in the coefficients, and what follows is arithmetic that cannot fail. Tests compare the
    verdicts on damaged files with those of decoding in full.

    Args:
        data: the file.
        trimap_size: (width, height) of its trimap; decides whether an EXIF turn is done.
        pixels: whether the pixels are wanted (``jpeg`` and ``raw`` storage) or the file (``source``).

    Raises:
        RejectedError: the picture must be left out.
    """
    if not data.startswith(jpeg.SIGNATURE):
        return _mend(data, trimap_size, pixels=pixels, first=None)
    try:
        header = jpeg.read_header(data)
    except jpeg.JpegError as error:
        raise RejectedError(_damage(str(error)), str(error)) from None
    check_pixels(header.width, header.height, "picture")
    if not header.common:
        return _mend(data, trimap_size, pixels=pixels, first=_check_rare(data, header))
    try:
        decoded = simplejpeg.decode_jpeg(data, "RGB", strict=True) if pixels else _check(data)
    except ValueError as error:
        shorter = _without_stray_bytes(data, str(error))
        if shorter is None:
            raise RejectedError(_damage(str(error)), str(error)) from None
        sound = audit_picture(shorter, trimap_size=trimap_size, pixels=pixels)
        return replace(sound, findings=[mended("picture-stray-bytes", str(error)), *sound.findings])
    if header.orientation != 1:
        return _turn(data, header, decoded, trimap_size, pixels=pixels)
    _check_size((header.width, header.height), trimap_size)
    return Picture(data, decoded if pixels else None, header.width, header.height, [])


def encode_jpeg(pixels: Pixels, *, quality: int, subsampling: str) -> bytes:
    """Encode uint8 (height, width, 3) RGB pixels as a baseline JPEG with libjpeg-turbo.

    Args:
        pixels: the picture.
        quality: 1..100.
        subsampling: of chroma, "444" (none) or "420".
    """
    encoded = simplejpeg.encode_jpeg(
        np.ascontiguousarray(pixels), quality=quality, colorspace="RGB", colorsubsampling=subsampling
    )
    return bytes(encoded)


def turn(pixels: Pixels, orientation: int) -> Pixels:
    """Return pixels (height, width, ...) turned and mirrored as EXIF's orientation 1..8 asks for."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels


def _check(data: bytes) -> Pixels:
    """Decode a JPEG's coefficients strictly, at the smallest scale there is; raises ValueError where it is damaged."""
    pixels: Pixels = simplejpeg.decode_jpeg(data, "GRAY", min_height=1, min_width=1, strict=True)
    return pixels


def _turn(
    data: bytes, header: jpeg.JpegHeader, decoded: Pixels, trimap_size: tuple[int, int], *, pixels: bool
) -> Picture:
    """Take a sound JPEG whose EXIF asks for a turn: turn it if the trimap fits then, and only then."""
    if _turn_fits((header.width, header.height), header.orientation, trimap_size):
        rgb = decoded if pixels else simplejpeg.decode_jpeg(data, "RGB", strict=True)
        findings = [mended("exif-turned", f"orientation {header.orientation}")]
        return _packed(turn(rgb, header.orientation), findings, pixels=pixels)
    findings = [mended("exif-ignored", f"orientation {header.orientation}")]
    unmarked = jpeg.without_orientation(data, header)
    return Picture(unmarked, decoded if pixels else None, header.width, header.height, findings)


def _mend(data: bytes, trimap_size: tuple[int, int], *, pixels: bool, first: Finding | None) -> Picture:
    """Decode with Pillow and encode again; ``first`` says why, None that it is no JPEG."""
    image = foreign.open_image(data, what="picture")
    findings = [first or mended("picture-wrong-type", f"a {image.format} file; encoded again as JPEG")]
    mark = foreign.orientation(image)
    rgb, more = foreign.to_rgb(image, data)
    findings += more
    if mark != 1:
        if _turn_fits(image.size, mark, trimap_size):
            rgb = turn(rgb, mark)
            findings.append(mended("exif-turned", f"orientation {mark}"))
        else:
            findings.append(mended("exif-ignored", f"orientation {mark}"))
    else:
        _check_size(image.size, trimap_size)
    return _packed(rgb, findings, pixels=pixels)


def _packed(rgb: Pixels, findings: list[Finding], *, pixels: bool) -> Picture:
    height, width = rgb.shape[:2]
    if max(width, height) > 65_500:
        raise RejectedError("picture-too-large", f"{width} x {height} pixels; a JPEG's sides end at 65,500")
    encoded = None if pixels else encode_jpeg(rgb, quality=MENDED_QUALITY, subsampling="444")
    return Picture(encoded, rgb, width, height, findings)


def _turn_fits(size: tuple[int, int], orientation: int, trimap_size: tuple[int, int]) -> bool:
    """Return whether the trimap fits the turned picture and not the unturned one; reject where it fits neither."""
    turned = size[::-1] if orientation >= 5 else size
    if trimap_size not in (size, turned):
        _check_size(size, trimap_size)
    return trimap_size != size


def _check_size(size: tuple[int, int], trimap_size: tuple[int, int]) -> None:
    if size != trimap_size:
        detail = f"picture {size[0]} x {size[1]}, trimap {trimap_size[0]} x {trimap_size[1]} pixels"
        raise RejectedError("size-mismatch", detail)


def _check_rare(data: bytes, header: jpeg.JpegHeader) -> Finding:
    """Check the data of a JPEG that must be encoded again, as strictly as libjpeg-turbo can."""
    kind = f"frame type {header.frame:#x}, {header.precision} bits, {len(header.sampling)} channels"
    if header.precision > 8:
        raise RejectedError("picture-16-bit", f"a JPEG with {header.precision} bits a channel cannot be decoded")
    if len(header.sampling) not in (1, 3, 4):
        raise RejectedError("picture-unknown-format", kind)
    try:
        simplejpeg.decode_jpeg(data, "CMYK" if len(header.sampling) == 4 else "RGB", strict=True)
    except ValueError as error:
        raise RejectedError(_damage(str(error)), str(error)) from None
    if len(header.sampling) == 4:
        return mended("picture-cmyk")
    return mended("picture-rare-jpeg", kind)


def _without_stray_bytes(data: bytes, message: str) -> bytes | None:
    """Return the JPEG without superfluous bytes at the end of its data, or None where that is not all its damage.

    Every pixel is then what was encoded: the shorter file decodes without any warning.
    """
    found = re.search(r"(\d+) extraneous bytes before marker 0xd9", message)
    end = data.rfind(b"\xff\xd9")
    if found is None or end < 0:
        return None
    count = int(found.group(1))
    for extra in range(count, count + 64):  # libjpeg has taken some stray bytes for data before it noticed
        shorter = data[: max(end - extra, 0)] + data[end:]
        try:
            _check(shorter)
        except ValueError:
            continue
        return shorter
    return None


def _damage(message: str) -> str:
    early = ("Premature end of JPEG file", "ends inside", "ends before")
    return "picture-truncated" if any(text in message for text in early) else "picture-corrupt"
