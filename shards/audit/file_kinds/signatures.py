"""The kind of a file by its first bytes, of images that can be read here and of those that people have besides.

Sources: ITU-T T.81 (JPEG), W3C PNG, RFC 9649 (WebP), CompuServe GIF89a, TIFF 6.0, Microsoft BITMAPFILEHEADER, Netpbm,
ISO/IEC 14496-12 and 23008-12 (HEIC and AVIF: an ``ftyp`` box), ISO/IEC 15444-1 (JPEG 2000), 18181-2 (JPEG XL).
"""

import re
from typing import Final

from shards.errors import printable

START: Final = 32  # bytes that are enough for every kind
READABLE: Final = frozenset({"JPEG", "PNG", "GIF", "WebP", "TIFF", "BMP", "PPM"})
IMAGE_ENDINGS: Final = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp", ".gif")
RARE_ENDINGS: Final = {
    **dict.fromkeys((".jpe", ".jfif", ".jif", ".jfi", ".mpo"), "JPEG"),
    **dict.fromkeys((".ppm", ".pgm", ".pbm", ".pnm"), "PPM"),
    ".apng": "PNG",
    ".dib": "BMP",
}
KNOWN_ENDINGS: Final = (*IMAGE_ENDINGS, *RARE_ENDINGS)  # that are not part of a name
# Two letters are no proof, and cameras' raw files are TIFFs that show a small preview: these count with such endings.
_OWN_ENDINGS: Final = {
    "TIFF": ("", ".tif", ".tiff"),
    "BMP": ("", ".bmp", ".dib"),
    "PPM": ("", ".ppm", ".pgm", ".pbm", ".pnm"),
}
_SIGNATURES: Final = {
    b"\xff\xd8\xff": "JPEG",
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"GIF87a": "GIF",
    b"GIF89a": "GIF",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"II+\0": "BigTIFF",
    b"MM\0+": "BigTIFF",
    b"\0\0\0\x0cjP  ": "JPEG 2000",
    b"\xff\x4f\xff\x51": "JPEG 2000",
    b"\0\0\0\x0cJXL ": "JPEG XL",
    b"\xff\x0a": "JPEG XL",
    b"8BPS": "Photoshop",
    b"v/1\x01": "OpenEXR",
    b"DDS ": "DDS",
    b"%PDF": "PDF",
    b"\x93NUMPY": "NumPy",
    b"PK\x03\x04": "zip",
    b"\x1f\x8b": "gzip",
    b"version https://git-lfs": "Git LFS pointer, not the file itself: run git lfs pull",
}
_BOX: Final = re.compile(rb"....ftyp(.{4})", re.DOTALL)
_BRANDS: Final = {b"heic": "HEIC", b"heix": "HEIC", b"mif1": "HEIC", b"msf1": "HEIC", b"avif": "AVIF", b"avis": "AVIF"}
_BMP: Final = re.compile(rb"BM.{4}\0{4}", re.DOTALL)  # two reserved numbers follow the size
_PPM: Final = re.compile(rb"P[1-6]\s+[#0-9]")
_MARKUP: Final = re.compile(rb"\s*(?:<!doctype html|<html|<\?xml|<svg)", re.IGNORECASE)


def file_kind(start: bytes) -> str:
    """Return what a file is whose first bytes (:data:`START` suffice) are these, such as ``JPEG``; "" if unknown."""
    if start[:4] == b"RIFF" and start[8:12] == b"WEBP":
        return "WebP"
    found = next((kind for signature, kind in _SIGNATURES.items() if start.startswith(signature)), "")
    if found:
        return found
    if box := _BOX.match(start):
        return _BRANDS.get(box.group(1), "video or HEIF")
    if _BMP.match(start):
        return "BMP"
    if _PPM.match(start):
        return "PPM"
    return "HTML or XML" if _MARKUP.match(start) else ""


def is_proof(kind: str, ending: str) -> bool:
    """Return whether a file of this kind, by its first bytes, is an image whatever its ending (``.jpg``) says."""
    return kind in READABLE and ending in _OWN_ENDINGS.get(kind, (ending,))


def describe_start(start: bytes) -> str:
    """Return what a file that cannot be read starts like, for a message."""
    kind = file_kind(start[:START])
    if kind in READABLE or not kind:
        return f"it begins with {start[:8]!r}"
    advice = "" if ":" in kind else "; convert it to JPEG or PNG"
    return f"it is {printable(kind)}{advice}"
