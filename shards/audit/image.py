"""The audit of an image: it decodes completely, and what is packed is a JPEG or PNG that every decoder reads alike."""

import contextlib
import re
from dataclasses import dataclass, replace

import numpy as np
import simplejpeg

from shards.audit import jpeg_headers as jpeg
from shards.audit import png_chunks as png
from shards.audit import transcode
from shards.audit.findings import MAX_PIXELS, Finding, RejectedError, check_pixels, damaged, repaired
from shards.audit.orientation import NORMAL, ExifMode, Pixels, apply_orientation
from shards.audit.png_data import check_data, decode_plain, encode_rgb
from shards.format.layout import ImageFormat

_MAX_JPEG_SIDE = 65_500  # libjpeg-turbo's
_FEW_STRAY, _STRAY_PART = 64, 50  # so many bytes, or this part of a file, may be stray bytes; more is damage


@dataclass(frozen=True)
class AuditedImage:
    """An image that can be packed, with its size as packed, and what was repaired.

    ``file`` is a plain JPEG or PNG, as ``format`` says, the original bytes where nothing was repaired; None where only
    pixels were wanted. ``pixels`` are uint8 (height, width, 3), RGB, where they were wanted.
    """

    file: bytes | None
    format: ImageFormat
    pixels: Pixels | None
    width: int
    height: int
    findings: list[Finding]


@dataclass(frozen=True, kw_only=True)
class ImageAudit:
    """What is wanted of an image.

    Attributes:
        mask_size: (width, height) of its mask; None where there is none, so that any size fits.
        exif: whether the rotation that EXIF asks for is applied: ``auto`` does what the mask fits, and nothing where
            it fits both ways or there is no mask.
        pixels: whether the pixels are wanted (``jpeg`` and ``raw`` storage) or the file (``source``).
        max_pixels: larger images are rejected before they are decoded.
    """

    mask_size: tuple[int, int] | None
    pixels: bool
    max_pixels: int = MAX_PIXELS
    exif: ExifMode = "auto"

    def run(self, data: bytes) -> AuditedImage:
        """Decode an image strictly, and repair what can be repaired safely.

        Raises ``RejectedError`` if it cannot be packed.
        """
        if data.startswith(jpeg.SIGNATURE):
            return self._jpeg(data)
        if data.startswith(png.SIGNATURE):
            return self._png(data)
        return self._other(data)

    def _jpeg(self, data: bytes) -> AuditedImage:
        try:
            header = jpeg.read_header(data)
        except jpeg.JpegError as error:
            raise _damaged(error) from None
        check_pixels(header.width, header.height, "image", max_pixels=self.max_pixels)
        _check_kind(header, most=8 * max(self.max_pixels, MAX_PIXELS))
        try:
            decoded = _decode(data) if self.pixels and header.common else _check(data, header)
        except ValueError as error:
            shorter = _without_stray_bytes(data, header, str(error))
            if shorter is None:
                raise _damaged(error) from None
            audited = self._jpeg(shorter)
            return replace(audited, findings=[repaired("image-stray-bytes", str(error)), *audited.findings])
        if not header.common:
            return self._rare_jpeg(data, header)
        size = (header.width, header.height)
        findings = [Finding("warning", "image-grey")] if len(header.sampling) == 1 else []
        rotate, rotations = self._rotation(size, header.orientation)
        findings += rotations
        if rotate:
            rgb = decoded if self.pixels else _decode(data)
            return self._packed(apply_orientation(rgb, header.orientation), findings)
        packed = jpeg.without_orientation(data, header) if rotations else data
        return self._kept(packed, "jpg", decoded if self.pixels else None, size, findings)

    def _rare_jpeg(self, data: bytes, header: jpeg.JpegHeader) -> AuditedImage:
        """Decode a JPEG that is sound, but not of a kind that every decoder reads."""
        rotate, rotations = self._rotation((header.width, header.height), header.orientation)
        if header.cmyk:
            rgb, findings = transcode.to_rgb(self._opened(data))
        else:
            rgb, findings = _decode(data), [repaired("image-rare-jpeg", header.kind)]
        return self._packed(apply_orientation(rgb, header.orientation) if rotate else rgb, [*findings, *rotations])

    def _png(self, data: bytes) -> AuditedImage:
        try:
            chunks = png.read_chunks(data)
            check_pixels(chunks.width, chunks.height, "image", max_pixels=self.max_pixels)
            if chunks.depth > 8:
                raise RejectedError("image-depth", f"a PNG with {chunks.depth} bits per channel")
            size = (chunks.width, chunks.height)
            rotate, rotations = self._rotation(size, chunks.orientation)
            if not chunks.plain or chunks.alpha or chunks.color == png.PALETTE:
                rgb, findings = transcode.to_rgb(self._opened(data))
                findings = [*_rare_png(chunks), *findings]
            else:
                findings = [Finding("warning", "image-grey")] if chunks.color == png.GRAY else []
                if not chunks.harmless:
                    findings.insert(0, repaired("image-extras", _extras(chunks)))
                if not rotate and not self.pixels:
                    check_data(chunks)
                    keep = chunks.harmless and chunks.orientation == NORMAL
                    packed = data if keep else png.without_extras(chunks)
                    return self._kept(packed, "png", None, size, [*findings, *rotations])
                rgb = decode_plain(chunks)
                rgb = np.repeat(rgb[..., None], 3, axis=2) if rgb.ndim == 2 else rgb
        except png.PngError as error:
            raise damaged("image", error, truncated=error.truncated) from None
        return self._packed(apply_orientation(rgb, chunks.orientation) if rotate else rgb, [*findings, *rotations])

    def _other(self, data: bytes) -> AuditedImage:
        opened = self._opened(data)
        rotate, rotations = self._rotation(opened.size, opened.orientation)
        rgb, conversions = transcode.to_rgb(opened)
        findings = [repaired("image-transcoded", f"a {opened.image.format} file"), *conversions, *rotations]
        orientation = opened.orientation
        del opened  # the file's own pixels
        return self._packed(apply_orientation(rgb, orientation) if rotate else rgb, findings)

    def _opened(self, data: bytes) -> transcode.DecodedFile:
        return transcode.open_file(data, what="image", max_pixels=self.max_pixels)

    def _rotation(self, size: tuple[int, int], orientation: int) -> tuple[bool, list[Finding]]:
        """Return whether to rotate an image of this stored (width, height); reject it where the mask then differs."""
        rotated_size = size[::-1] if orientation >= 5 else size
        fits_stored, fits_rotated = (self.mask_size in (None, each) for each in (size, rotated_size))
        rotate = orientation != NORMAL and {"auto": not fits_stored, "apply": True, "ignore": False}[self.exif]
        if not (fits_rotated if rotate else fits_stored):
            assert self.mask_size is not None
            width, height = self.mask_size
            detail = f"image {size[1]} x {size[0]}, mask {height} x {width} pixels (height x width)"
            if orientation >= 5 and self.exif != "auto" and (fits_stored or fits_rotated):
                other = "with" if self.exif == "ignore" else "without"
                detail += f"; it fits {other} the rotation that EXIF asks for, which the option exif excludes"
            raise RejectedError("size-mismatch", detail)
        if orientation == NORMAL:
            return rotate, []
        reason = "exif-rotated" if rotate else "exif-ignored"
        if self.exif == "auto" and fits_stored and fits_rotated:
            reason = "exif-ambiguous"
        return rotate, [repaired(reason, f"orientation {orientation}")]

    def _packed(self, rgb: Pixels, findings: list[Finding]) -> AuditedImage:
        """Return an image as it is packed if its file cannot be: as a plain PNG, or its pixels."""
        height, width = rgb.shape[:2]
        if self.pixels:
            return self._kept(None, "png", rgb, (width, height), findings)
        return self._kept(encode_rgb(rgb), "png", None, (width, height), findings)

    def _kept(
        self,
        file: bytes | None,
        kind: ImageFormat,
        pixels: Pixels | None,
        size: tuple[int, int],
        findings: list[Finding],
    ) -> AuditedImage:
        return AuditedImage(None if self.pixels else file, kind, pixels, *size, findings)


def encode_jpeg(pixels: Pixels, *, quality: int, subsampling: str) -> bytes:
    """Encode uint8 (height, width, 3) RGB as a baseline JPEG; quality 1..100, subsampling "444" (none) or "420"."""
    pixels = np.ascontiguousarray(pixels)
    return bytes(simplejpeg.encode_jpeg(pixels, quality=quality, colorspace="RGB", colorsubsampling=subsampling))


def _decode(data: bytes) -> Pixels:
    pixels: Pixels = simplejpeg.decode_jpeg(data, "RGB", strict=True)
    return pixels


def _check(data: bytes, header: jpeg.JpegHeader) -> Pixels:
    """Decode a JPEG strictly at the smallest scale; raises ValueError where it is damaged.

    All coefficients are decoded and checked, but only an eighth of luminance is turned into pixels: damage shows in the
    coefficients, and what follows is arithmetic that cannot fail. Tests compare the verdicts with full decoding.
    """
    colours = "CMYK" if header.cmyk else "GRAY"
    pixels: Pixels = simplejpeg.decode_jpeg(data, colours, min_height=1, min_width=1, strict=True)
    return pixels


def _check_kind(header: jpeg.JpegHeader, *, most: int) -> None:
    """Reject a JPEG that cannot be decoded here, or not to 8 bits and known colours, or takes more memory than others.

    ``most`` is what those of the most pixels take, in bytes.
    """
    if header.precision > 8:
        raise RejectedError("image-depth", f"a JPEG with {header.precision} bits per channel")
    if len(header.sampling) not in (1, 3, 4):
        raise RejectedError("image-channels", f"a JPEG with {len(header.sampling)} channels")
    size = f"{header.height} x {header.width} pixels (height x width)"
    if max(header.width, header.height) > _MAX_JPEG_SIDE:
        detail = f"{size}; libjpeg decodes JPEGs up to {_MAX_JPEG_SIDE:,} a side"
        raise RejectedError("image-too-large", detail)
    if header.memory > most:
        detail = f"{size}; a JPEG of several scans, which takes {header.memory:,} bytes to decode, above {most:,}"
        raise RejectedError("image-too-large", f"{detail}; save it as a baseline JPEG")


def _rare_png(chunks: png.PngChunks) -> list[Finding]:
    """Return why the file of a PNG is not kept, apart from an alpha channel, which is a finding of its own."""
    kinds = ["a palette"] if chunks.color == png.PALETTE else []
    if chunks.depth != 8:
        kinds.append(f"{chunks.depth} bits per channel")
    if chunks.interlaced:
        kinds.append("interlaced")
    return [repaired("image-rare-png", ", ".join(kinds))] if kinds else []


def _extras(chunks: png.PngChunks) -> str:
    names = sorted(kind.decode("ascii", "replace") for kind in chunks.kinds - png.HARMLESS)
    return ", ".join([*names, *(["bytes after the end"] if chunks.stray else [])])


def _without_stray_bytes(data: bytes, header: jpeg.JpegHeader, message: str) -> bytes | None:
    """Return the JPEG without extra bytes at the end of its data if it then decodes without any warning, else None."""
    found = re.search(r"(\d+) extraneous bytes before marker 0xd9", message)
    end = data.rfind(b"\xff\xd9")
    if found is None or end < 0:
        return None
    count = int(found.group(1))
    if count > max(_FEW_STRAY, len(data) // _STRAY_PART):
        return None  # with a wrong Huffman table, or where much is lost, data of the image itself is left over
    for extra in range(count, count + 64):  # libjpeg has taken some stray bytes for data before it noticed
        shorter = data[: max(end - extra, 0)] + data[end:]
        with contextlib.suppress(ValueError):
            _check(shorter, header)
            return shorter
    return None


def _damaged(error: ValueError) -> RejectedError:
    early = ("Premature end of JPEG file", "ends inside", "ends before")
    return damaged("image", error, truncated=any(text in str(error) for text in early))
