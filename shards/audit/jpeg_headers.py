"""The structure of a JPEG file: what its headers say, without decoding, and the EXIF orientation.

Source: ITU-T T.81 (markers, frame header).
"""

import re
import struct
from dataclasses import dataclass

from shards.audit.orientation import NORMAL, find_orientation

SIGNATURE = b"\xff\xd8\xff"
_FRAME_MARKERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # SOF0..15 without DHT, JPG, DAC
_BARE_MARKERS = frozenset({0x01, *range(0xD0, 0xD8)})  # TEM, RST0..7: no length follows
_NO_FILL = re.compile(rb"[^\xff]")
_MOST_SEGMENTS = 1 << 16  # of 64 KiB at most: metadata of more than any program writes
_MOST_SCANS = 100  # encoders write up to some tens; each may be a few bytes, and takes as long as the image is large
_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")  # in or after the data of a scan
_COMMON_FRAMES = frozenset({0xC0, 0xC1, 0xC2})  # baseline, extended, progressive; all Huffman coded
_PROGRESSIVE_FRAMES = frozenset({0xC2, 0xC6, 0xCA, 0xCE})
_COMMON_SAMPLING = frozenset({(1, 1), (2, 1), (2, 2), (1, 2), (4, 1), (4, 2)})  # of luma; chroma is 1x1


class JpegError(ValueError):
    """The headers are not those of a JPEG, or end too early."""


@dataclass(frozen=True)
class JpegHeader:
    """What precedes the first scan."""

    width: int  # pixels, as stored (not rotated)
    height: int
    precision: int  # bits per channel
    frame: int  # the frame's marker, 0xC0 for baseline
    sampling: tuple[tuple[int, int], ...]  # (horizontal, vertical) factors of each component
    whole: bool  # whether its coefficients are kept in memory until all are there: those of several scans
    ycc: bool  # False where the file says that its three components are RGB
    orientation: int  # EXIF's 1..8, 1 where there is none
    orientation_at: int | None  # byte offset of the two bytes with that number

    @property
    def cmyk(self) -> bool:
        """Whether there are four components."""
        return len(self.sampling) == 4

    @property
    def memory(self) -> int:
        """How many bytes its decoder takes: those of the pixels, and two for each coefficient that is kept."""
        pixels = self.width * self.height
        most = max(horizontal for horizontal, _ in self.sampling) * max(vertical for _, vertical in self.sampling)
        samples = sum(horizontal * vertical for horizontal, vertical in self.sampling)
        return pixels * (4 if self.cmyk else 3) + (2 * pixels * samples // max(most, 1) if self.whole else 0)

    @property
    def kind(self) -> str:
        """What kind of JPEG this is, for people."""
        colours = "RGB" if len(self.sampling) == 3 and not self.ycc else f"{len(self.sampling)} channels"
        factors = " ".join(f"{horizontal}x{vertical}" for horizontal, vertical in self.sampling)
        return f"frame type {self.frame:#x}, {colours}, sampling {factors}"

    @property
    def common(self) -> bool:
        """Whether every decoder (libjpeg-turbo, nvJPEG, the GPU's hardware) reads this kind of JPEG."""
        if self.frame not in _COMMON_FRAMES or self.precision != 8:
            return False
        if len(self.sampling) == 1:
            return True
        return self.ycc and self.sampling[0] in _COMMON_SAMPLING and self.sampling[1:] == ((1, 1), (1, 1))


def read_header(data: bytes) -> JpegHeader:
    """Walk a JPEG's segments up to its first scan; raise ``JpegError`` if this is no JPEG, or ends before it.

    Also if it has more scans than any encoder writes: a progressive JPEG of 1 MB can take minutes to decode.
    """
    if not data.startswith(SIGNATURE):
        raise JpegError("no JPEG signature")
    frame: tuple[int, bytes] | None = None
    adobe_transform: int | None = None
    jfif = False
    orientation, orientation_at = NORMAL, None
    marker, start, position = _segment(data, 2)
    count = 0
    while marker != 0xDA:
        count += 1
        if count > _MOST_SEGMENTS:
            raise JpegError(f"more than {_MOST_SEGMENTS} segments before the first scan")
        body = data[start:position]
        if marker in _FRAME_MARKERS:
            if frame is not None:
                raise JpegError("two frame headers")
            if len(body) < 6 or len(body) < 6 + 3 * body[5]:
                raise JpegError("the frame header is too short")
            frame = marker, body
        elif marker == 0xE0 and body.startswith(b"JFIF\0"):
            jfif = True
        elif marker == 0xE1 and body.startswith(b"Exif\0\0") and orientation_at is None:
            orientation, orientation_at = find_orientation(data, start + 6, position)
        elif marker == 0xEE and body.startswith(b"Adobe") and len(body) >= 12:
            adobe_transform = body[11]
        marker, start, position = _segment(data, position)
    if frame is None:
        raise JpegError("no frame header before the first scan")
    _expect_few_scans(data, position)
    kind, body = frame
    precision, height, width, count = struct.unpack(">BHHB", body[:6])
    components = list(struct.iter_unpack("3B", body[6 : 6 + 3 * count]))  # identifier, sampling factors, table
    sampling = tuple((factors >> 4, factors & 15) for _, factors, _ in components)
    # libjpeg's own rule (jdapimin.c): JFIF means YCbCr, else Adobe's marker counts, else names R, G, B mean RGB.
    named_rgb = bytes(identifier for identifier, _, _ in components) == b"RGB"
    ycc = jfif or (adobe_transform != 0 if adobe_transform is not None else not named_rgb)
    whole = kind in _PROGRESSIVE_FRAMES or data[start : start + 1] < bytes([count])  # fewer channels in the first scan
    return JpegHeader(width, height, precision, kind, sampling, whole, ycc, orientation, orientation_at)


def without_orientation(data: bytes, header: JpegHeader) -> bytes:
    """Return the JPEG with its EXIF orientation set to 1 (as stored); raise ``ValueError`` where there is none."""
    at = header.orientation_at
    if at is None:
        raise ValueError("the JPEG has no EXIF orientation")
    normal = b"\0\1" if data[at] == 0 else b"\1\0"  # in the byte order of the number that is there
    return data[:at] + normal + data[at + 2 :]


def _expect_few_scans(data: bytes, position: int) -> None:
    """Raise ``JpegError`` for more than :data:`_MOST_SCANS`; ``position`` is in the first one."""
    if data.count(b"\xff\xda") <= _MOST_SCANS:  # which takes much less time than to walk them
        return
    scans = 1
    while (found := _MARKER.search(data, position)) is not None and found.group() != b"\xff\xd9":
        scans += found.group() == b"\xff\xda"
        if scans > _MOST_SCANS:
            raise JpegError(f"more than {_MOST_SCANS} scans")
        position = _segment(data, found.start())[2]


def _segment(data: bytes, position: int) -> tuple[int, int, int]:
    """Return marker, start and end of the body of the segment at ``position``."""
    end = len(data)
    if position >= end or data[position] != 0xFF:
        raise JpegError(f"no marker at byte {position}")
    found = _NO_FILL.search(data, position)  # fill bytes may precede a marker
    if found is None:
        raise JpegError("the file ends inside its headers")
    position = found.start()
    marker = data[position]
    position += 1
    if marker in _BARE_MARKERS:
        return marker, position, position
    if marker == 0xD9:
        raise JpegError("the file ends before its first scan")
    length = int.from_bytes(data[position : position + 2], "big")
    if length < 2 or position + length > end:
        raise JpegError("the file ends inside its headers")
    return marker, position + 2, position + length
