"""``raw`` storage: a tar is a strided tensor, so a batch is gathered by offset, without any decoding.

Where many reads can be made in one call (see :mod:`pipeline.io.ring`), the pixels of a whole batch are read straight into
their places, the first time with the headers before them, which are then checked, as checksums are. Where that does not
work, one scattering read a sample puts picture and trimap into their places and lets what is between them fall into a
scrap buffer.
"""

from __future__ import annotations

from io import BytesIO

import numpy as np
import numpy.typing as npt
from zlib_ng import zlib_ng

from pipeline.damage import DamagedSamples
from pipeline.io.members import MemberReader, OpenTar, read_into
from shards.errors import FormatError
from shards.format.layout import Rows

Pixels = npt.NDArray[np.uint8]

_MAX_GAP = 1 << 16  # bytes between a picture and its trimap that are read and dropped rather than skipped


class RawReader:
    """Gathers pictures and trimaps of ``size`` x ``size`` pixels."""

    def __init__(self, reader: MemberReader, *, size: int) -> None:
        self._reader = reader
        self.size = size
        self._headers = npy_header((size, size, 3)), npy_header((size, size))
        self._lengths = len(self._headers[0]) + size * size * 3, len(self._headers[1]) + size * size

    def gather(self, indices: npt.NDArray[np.int64], rows: Rows, *, images: Pixels, trimaps: Pixels) -> None:
        """Write the pixels of B samples into arrays.

        Args:
            indices: of the samples, (B,).
            rows: their records, (B,).
            images: uint8 (B, size, size, 3), contiguous, written to.
            trimaps: uint8 (B, size, size), contiguous, written to; values 1, 2, 3.

        Raises:
            DamagedSamples: some cannot be read in full, have another form, or do not fit their checksums.
        """
        if not self._at_once(indices, rows, images, trimaps):
            self._one_by_one(indices, rows, images=images, trimaps=trimaps)

    def _at_once(self, indices: npt.NDArray[np.int64], rows: Rows, images: Pixels, trimaps: Pixels) -> bool:
        """Read all pixels in one call, and the headers before them where they are yet to be checked.

        Returns:
            False if that does not work, or something is wrong; reading sample by sample will say what.
        """
        fits = (rows["image_length"] == self._lengths[0]) & (rows["trimap_length"] == self._lengths[1])
        if not fits.all():
            return False
        pieces = [
            (rows["image_offset"] + np.int64(len(self._headers[0])), images),
            (rows["trimap_offset"] + np.int64(len(self._headers[1])), trimaps),
        ]
        checked = bool(self._reader.checked(indices, rows).all())
        if not checked:
            heads, tails = (np.empty((len(rows), len(header)), dtype=np.uint8) for header in self._headers)
            pieces += [(rows["image_offset"], heads), (rows["trimap_offset"], tails)]
        numbers = np.arange(len(rows))
        offsets, addresses, lengths = np.empty((3, len(pieces), len(rows)), dtype=np.int64)
        for place, (offset, into) in enumerate(pieces):
            offsets[place] = offset
            addresses[place] = into.ctypes.data + numbers * into.strides[0]
            lengths[place] = into.strides[0]
        shards = np.tile(rows["shard"], len(pieces))
        if not self._reader.read_at_once(shards, offsets.ravel(), addresses.ravel(), lengths.ravel()):
            return False
        if not checked:
            for head, image, tail, trimap, row in zip(heads, images, tails, trimaps, rows, strict=True):
                if self._check(head, image, tail, trimap, row):
                    return False
            self._reader.mark_checked(indices)
        return True

    def _one_by_one(self, indices: npt.NDArray[np.int64], rows: Rows, *, images: Pixels, trimaps: Pixels) -> None:
        """Read sample after sample, comparing with headers and checksums what was not compared before."""
        size = self.size
        image_bytes, image_length = images.data.cast("B"), size * size * 3
        trimap_bytes, trimap_length = trimaps.data.cast("B"), size * size
        head, tail = (bytearray(len(header)) for header in self._headers)
        scrap = memoryview(bytearray(_MAX_GAP))
        files = self._files(set(rows["shard"].tolist()))
        starts = rows["image_offset"].astype(np.int64)
        gaps = rows["trimap_offset"].astype(np.int64) - starts - self._lengths[0]
        fits = (rows["image_length"] == self._lengths[0]) & (rows["trimap_length"] == self._lengths[1])
        fits &= (gaps >= 0) & (gaps <= _MAX_GAP)
        total = sum(self._lengths)
        checked = self._reader.checked(indices, rows)
        damaged: dict[int, str] = {}
        for place, (shard, start, gap, fit, known) in enumerate(
            zip(rows["shard"].tolist(), starts.tolist(), gaps.tolist(), fits.tolist(), checked.tolist(), strict=True)
        ):
            if not fit:
                damaged[place] = f"the members are not arrays of {size} x {size} pixels"
                continue
            file = files[shard]
            if isinstance(file, str):
                damaged[place] = file
                continue
            try:
                parts: list[bytearray | memoryview] = [
                    head,
                    image_bytes[place * image_length : (place + 1) * image_length],
                    scrap[:gap],
                    tail,
                    trimap_bytes[place * trimap_length : (place + 1) * trimap_length],
                ]
                got = read_into(file.descriptor, parts, start)
            except OSError as error:
                damaged[place] = f"cannot be read: {error.strerror}"
                continue
            if got != total + gap:
                damaged[place] = f"the tar ends after {got} of {total + gap} bytes"
            elif not known:
                problem = self._check(head, images[place], tail, trimaps[place], rows[place])
                if problem:
                    damaged[place] = problem
        if damaged:
            raise DamagedSamples(
                {place: self._reader.told(int(indices[place]), "image", text) for place, text in damaged.items()}
            )
        if not checked.all():
            self._reader.mark_checked(indices)

    def _files(self, shards: set[int]) -> dict[int, OpenTar | str]:
        """Return the open file of each tar, or why there is none."""
        files: dict[int, OpenTar | str] = {}
        for shard in shards:
            try:
                files[shard] = self._reader.file(shard)
            except FormatError as error:
                files[shard] = str(error)
            except OSError as error:
                files[shard] = f"cannot be opened: {error.strerror}"
        return files

    def _check(
        self, head: bytearray | Pixels, image: Pixels, tail: bytearray | Pixels, trimap: Pixels, row: np.void
    ) -> str | None:
        for role, header, found, pixels in zip(
            ("image", "trimap"), self._headers, (head, tail), (image, trimap), strict=True
        ):
            if zlib_ng.crc32(pixels.data, zlib_ng.crc32(found)) != int(row[f"{role}_crc32"]):
                return f"the bytes of the {role} do not fit their checksum"
            if bytes(found) != header:
                return f"the {role} is no array of {self.size} x {self.size} bytes"
        return None


def npy_header(shape: tuple[int, ...]) -> bytes:
    """Return the header that a ``.npy`` file of uint8 in C order with this shape begins with."""
    buffer = BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return buffer.getvalue()
