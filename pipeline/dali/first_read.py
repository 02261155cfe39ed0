"""What DALI's graph does not check: that a sample is as the set's table says. The host does, when it is first read."""

import numpy as np
import numpy.typing as npt
import simplejpeg

from pipeline.cpu.pixel_ops import Pixels, invalid_masks, invalid_problem
from pipeline.cpu.stored_png import decode_mask, png_image_problem, size_problem
from pipeline.engine import BatchWork, stored_sizes
from pipeline.io.damage import DamagedSamples
from pipeline.io.members import MemberReader
from pipeline.io.scratch import Bytes
from pipeline.runtime.threads import WorkerThreads
from shards.format.geometry import Size
from shards.format.layout import IMAGE_FORMATS

_PNG = IMAGE_FORMATS.index("png")


class FirstReadCheck:
    """Compares each sample with the table once, and again after its tar has changed, as its checksum is.

    Compared are the sizes of image and mask, by their headers, and the mask's values, for which it is decoded: a wrong
    class would make the loss fail on a GPU, where nobody can tell which sample it was. JPEGs must decode without any
    warning, as the audit of a set and the CPU engine demand: DALI fills what is damaged with grey. All this is done in
    ``threads`` threads.
    """

    def __init__(self, reader: MemberReader, *, classes: int, stored_size: Size | None, threads: int) -> None:
        self._reader, self._classes, self._stored_size = reader, classes, stored_size
        self._threads = WorkerThreads(threads, name="petseg-check")
        self._passed = np.zeros(len(reader.split), dtype=bool)

    def new(self, work: BatchWork) -> npt.NDArray[np.int64]:
        """Return the positions of the samples that are to be checked; called before they are read."""
        known = self._passed[work.indices] & self._reader.files.verified(work.indices, work.rows)
        return np.flatnonzero(~known)

    def encoded(self, work: BatchWork, new: npt.NDArray[np.int64], images: list[Bytes], masks: list[Bytes]) -> None:
        """Check some of the encoded samples; raises ``DamagedSamples``."""
        damaged: dict[int, tuple[str, str]] = {}
        sides = [each[new].tolist() for each in stored_sizes(work.rows, self._stored_size)]
        formats = work.rows["image_format"][new].tolist()

        def check(sample: tuple[int, int, int, int]) -> None:
            place, form, height, width = sample
            mask = decode_mask(masks[place], height, width)
            if problem := image_problem(images[place], form, height, width):
                damaged[place] = "image", problem
            elif isinstance(mask, str):
                damaged[place] = "mask", mask
            elif invalid_masks(mask[None], self._classes):
                damaged[place] = "mask", invalid_problem(self._classes)

        self._threads.run(check, zip(new.tolist(), formats, *sides, strict=True))
        self._finish(work, new, dict(sorted(damaged.items())))

    def stop(self) -> None:
        """End the threads."""
        self._threads.stop()

    def pixels(self, work: BatchWork, new: npt.NDArray[np.int64], masks: Pixels) -> None:
        """Check the values of some of the masks, uint8 (B, H, W); raises ``DamagedSamples``."""
        invalid = invalid_masks(masks[new], self._classes) if len(new) else []
        self._finish(work, new, {int(new[place]): ("mask", invalid_problem(self._classes)) for place in invalid})

    def _finish(self, work: BatchWork, new: npt.NDArray[np.int64], damaged: dict[int, tuple[str, str]]) -> None:
        good = np.setdiff1d(new, np.fromiter(damaged, dtype=np.int64, count=len(damaged)))
        self._passed[work.indices[good]] = True
        if damaged:
            raise DamagedSamples(
                {place: self._reader.describe(int(work.indices[place]), *what) for place, what in damaged.items()}
            )


def image_problem(data: Bytes, form: int, height: int, width: int) -> str | None:
    """Return why an image's header does not fit the table, or why it is no sound JPEG; None if it is as it should be.

    A JPEG's coefficients are all decoded, at the smallest scale: damage shows in them (see :mod:`shards.audit.image`).
    """
    if form == _PNG:
        return png_image_problem(data, height, width)
    try:
        found = simplejpeg.decode_jpeg_header(data)[:2]
        if found != (height, width):
            return size_problem(found, (height, width))
        simplejpeg.decode_jpeg(data, "GRAY", min_height=1, min_width=1, strict=True)
    except ValueError as error:
        return f"cannot be decoded: {error}"
    return None
