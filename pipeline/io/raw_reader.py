"""``raw`` storage: a tar is a strided tensor, so a batch is gathered by offset, without decoding.

Where many reads can be made in one system call (see :mod:`pipeline.io.io_uring`), the pixels of a whole batch are read
directly into place, the first time together with their headers, which are then verified, as checksums are. Elsewhere,
one scattering read per sample puts image and mask into place; what is between them goes into a scrap buffer. A worker
process takes the pixels of samples that it has verified from tars that it has mapped: it copies them in half the time,
or, where they are resized, not at all.
"""

import numpy as np
import numpy.typing as npt
from zlib_ng import zlib_ng

from pipeline.io.abandoned import check_wanted
from pipeline.io.damage import DamagedSamples
from pipeline.io.members import MemberReader
from shards.format.geometry import Size
from shards.format.layout import Rows
from shards.format.npy import npy_header
from shards.store.byte_ranges import MOST_GAP

Pixels = npt.NDArray[np.uint8]

_ROLES = "image", "mask"


class RawReader:
    """Gathers images and masks of ``size``, (H, W) pixels."""

    def __init__(self, reader: MemberReader, *, size: Size) -> None:
        self._reader = reader
        self.size = size
        height, width = size
        self._shape = f"{height} x {width}"
        self._headers = npy_header((height, width, 3)), npy_header((height, width))
        self._lengths = len(self._headers[0]) + height * width * 3, len(self._headers[1]) + height * width

    def gather(self, indices: npt.NDArray[np.int64], rows: Rows, *, images: Pixels, masks: Pixels) -> None:
        """Write the pixels of B samples into contiguous arrays, uint8 (B, H, W, 3) and (B, H, W).

        Raises ``DamagedSamples`` for those that cannot be read in full, have another shape, or a wrong checksum.
        """
        self._reader.files.need(indices, rows)
        if (mapped := self.mapped(indices, rows)) is not None:
            for pieces, into in zip(mapped, (images, masks), strict=True):
                np.concatenate(pieces, out=into.reshape(-1, *into.shape[2:]))
            return
        if not self._gather_together(indices, rows, images, masks):
            self._reader.repeated(lambda: self._gather_one_by_one(indices, rows, images, masks), indices, rows)

    def mapped(self, indices: npt.NDArray[np.int64], rows: Rows) -> list[list[Pixels]] | None:
        """Return the images (H, W, 3) and the masks (H, W) of B samples where the page cache has them; read-only.

        None unless tars may be mapped and all of the samples are verified: then headers and lengths are as expected.
        """
        tars = self._reader.files.mapped(indices, rows)
        if tars is None:
            return None
        found: list[list[Pixels]] = []
        shards, shapes = rows["shard"].tolist(), ((*self.size, 3), self.size)
        for role, shape, header, length in zip(_ROLES, shapes, self._headers, self._lengths, strict=True):
            places = zip(shards, rows[f"{role}_offset"].tolist(), strict=True)
            head = len(header)
            found.append([tars[shard][start + head : start + length].reshape(shape) for shard, start in places])
        return found

    def _gather_together(self, indices: npt.NDArray[np.int64], rows: Rows, images: Pixels, masks: Pixels) -> bool:
        """Read all pixels in one call, with the headers before them if these are not verified yet; False on failure."""
        fits = (rows["image_length"] == self._lengths[0]) & (rows["mask_length"] == self._lengths[1])
        if not fits.all():
            return False
        pieces = [
            (rows["image_offset"] + np.int64(len(self._headers[0])), images),
            (rows["mask_offset"] + np.int64(len(self._headers[1])), masks),
        ]
        verified = bool(self._reader.files.verified(indices, rows).all())
        if not verified:
            heads, tails = (np.empty((len(rows), len(header)), dtype=np.uint8) for header in self._headers)
            pieces += [(rows["image_offset"], heads), (rows["mask_offset"], tails)]
        numbers = np.arange(len(rows))
        offsets, addresses, lengths = np.empty((3, len(pieces), len(rows)), dtype=np.int64)
        for place, (offset, into) in enumerate(pieces):
            offsets[place] = offset
            addresses[place] = into.ctypes.data + numbers * into.strides[0]
            lengths[place] = into.strides[0]
        shards = np.tile(rows["shard"], len(pieces))
        if not self._reader.read_together(shards, offsets.ravel(), addresses.ravel(), lengths.ravel()):
            return False
        if not verified:
            for head, image, tail, mask, row in zip(heads, images, tails, masks, rows, strict=True):
                check_wanted()
                if self._find_problem(head, image, tail, mask, row):
                    return False
            self._reader.files.mark_verified(indices)
        return True

    def _gather_one_by_one(self, indices: npt.NDArray[np.int64], rows: Rows, images: Pixels, masks: Pixels) -> None:
        head, tail = (bytearray(len(header)) for header in self._headers)
        scrap = memoryview(bytearray(MOST_GAP))
        starts = rows["image_offset"].astype(np.int64)
        gaps = rows["mask_offset"].astype(np.int64) - starts - self._lengths[0]
        fits = (rows["image_length"] == self._lengths[0]) & (rows["mask_length"] == self._lengths[1])
        fits &= (gaps >= 0) & (gaps <= MOST_GAP)
        verified = self._reader.files.verified(indices, rows)
        columns = (column.tolist() for column in (rows["shard"], starts, gaps, fits, verified))
        damaged: dict[int, str] = {}
        for position, (shard, start, gap, fit, known) in enumerate(zip(*columns, strict=True)):
            check_wanted()
            image, mask = images[position], masks[position]
            problem: str | None = f"the members are not arrays of {self._shape} pixels"
            if fit:
                buffers = [head, image.data.cast("B"), scrap[:gap], tail, mask.data.cast("B")]
                problem = self._reader.files.read(shard, start, buffers)
            if problem is None and not known:
                problem = self._find_problem(head, image, tail, mask, rows[position])
            if problem:
                damaged[position] = self._reader.describe(int(indices[position]), "image", problem)
        if damaged:
            raise DamagedSamples(damaged)
        if not verified.all():
            self._reader.files.mark_verified(indices)

    def _find_problem(
        self, head: bytearray | Pixels, image: Pixels, tail: bytearray | Pixels, mask: Pixels, row: np.void
    ) -> str | None:
        """Compare headers and checksums of a sample with what they should be."""
        members = (("image", head, image), ("mask", tail, mask))
        for header, (role, found, pixels) in zip(self._headers, members, strict=True):
            if zlib_ng.crc32(pixels.data, zlib_ng.crc32(found)) != int(row[f"{role}_crc32"]):
                return f"the bytes of the {role} do not match their checksum"
            if bytes(found) != header:
                return f"the {role} is not an array of {self._shape} bytes"
        return None
