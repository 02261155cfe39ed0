"""The files of one image's prediction: mask, overlay and probabilities, written together, and how they are known."""

import contextlib
import os
import struct
import zipfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import BinaryIO, NamedTuple
from urllib.parse import quote, unquote_to_bytes

import numpy as np
from PIL import Image, PngImagePlugin

from petseg.host.written_together import write_together
from petseg.inference.probabilities import Prediction
from shards.format.labels import Labels
from shards.format.overlays import PAPER, STRIP_PIXELS, Pixels, indexed_mask, legend, occurring, outline_width, overlay
from shards.format.readers.output_places import LONGEST_NAME

_PNG, _HEADER = b"\x89PNG\r\n\x1a\n", 33  # bytes in front of the chunk that PngInfo writes
_MARK = "petseg-predict"
MASK = ".png"
OVERLAY = ".overlay.png"
PROBABILITIES = ".probabilities.npz"
ARRAY = "probabilities.npy"  # the one file in it
_LEGEND_FROM = 160  # width in pixels; below a narrower image no name can be read


class ResultMark(NamedTuple):
    """What a result says of itself: the name of its image, what predicted it, and what tells the image from others.

    "" where it does not say that; ``digest`` is an :func:`digest_of`, which earlier versions did not write.
    """

    image: str
    origin: str = ""
    digest: str = ""

    def __str__(self) -> str:
        return f"{quote(os.fsencode(self.image))} {self.origin} {self.digest}".rstrip()


def mark_text(mark: ResultMark) -> PngImagePlugin.PngInfo:
    """Return what says in a PNG file that it is the result of an image's prediction, and of which network's."""
    info = PngImagePlugin.PngInfo()
    info.add_text(_MARK, str(mark))
    return info


def mark_comment(mark: ResultMark) -> bytes:
    """Return what says the same in an ``.npz`` file: the comment of its archive, which ``np.load`` does not show."""
    return f"{_MARK} {mark}".encode()


_UNNAMED = ResultMark("")


def result_of(path: Path) -> ResultMark | None:
    """Return what a result says of itself; None where it has no :func:`mark_text` or :func:`mark_comment`."""
    if path.name.endswith(PROBABILITIES):
        word, _, mark = _comment_and_names(path)[0].partition(b" ")
        return _parsed(mark) if word == _MARK.encode() else None
    try:
        if path.suffix.lower() != ".png" or not path.is_file():
            return None
        with path.open("rb") as handle:
            head = handle.read(_HEADER + 1024)
    except OSError:
        return None
    size, kind, text = head[_HEADER : _HEADER + 4], head[_HEADER + 4 : _HEADER + 8], head[_HEADER + 8 :]
    word, _, mark = text[: int.from_bytes(size)].partition(b"\0")
    if not head.startswith(_PNG) or kind != b"tEXt" or word != _MARK.encode():
        return None
    return _parsed(mark)


def _parsed(mark: bytes) -> ResultMark:
    name, origin, digest, *_ = [*mark.split(b" "), b"", b""]
    return ResultMark(os.fsdecode(unquote_to_bytes(name)), origin.decode("latin-1"), digest.decode("latin-1"))


def _comment_and_names(path: Path) -> tuple[bytes, list[str]]:
    """Return the comment of a zip archive and the names of its files; empty ones for what is no archive."""
    with contextlib.suppress(OSError, ValueError, NotImplementedError, struct.error, zipfile.BadZipFile):
        if path.is_file():
            with zipfile.ZipFile(path) as archive:
                return archive.comment, archive.namelist()
    return b"", []


def is_result(path: Path) -> bool:
    """Return whether a file is a result of an earlier prediction: one may be left out, and replaced.

    Earlier versions wrote no marks. Of their results a mask with a palette beside its overlay is known, that overlay,
    and an ``.npz`` file beside a mask that is a result, if it holds the probabilities alone.
    """
    if result_of(path) is not None:
        return True
    if path.name.endswith(PROBABILITIES):
        return is_result(mask_beside(path, PROBABILITIES)) and _comment_and_names(path)[1] == [ARRAY]
    return _is_mask_without_mark(path) or (
        path.name.endswith(OVERLAY) and _is_mask_without_mark(mask_beside(path, OVERLAY))
    )


def mask_beside(path: Path, ending: str) -> Path:
    """Return where the mask of an overlay or of probabilities is."""
    return path.with_name(path.name.removesuffix(ending) + MASK)


def _is_mask_without_mark(path: Path) -> bool:
    """Return whether a file is a mask as earlier versions wrote it, beside its overlay."""
    try:
        if result_of(path) is not None:
            return False
        if path.suffix != MASK or not path.with_name(path.stem + OVERLAY).is_file():
            return False
        with path.open("rb") as handle:
            head = handle.read(_HEADER)
        return head.startswith(_PNG) and head[25] == 3  # the colour type: indexed
    except OSError:  # such as a name that would be too long
        return False


def name_too_long(path: Path) -> bool:
    """Return whether no file can have this name."""
    return len(os.fsencode(path.name)) > LONGEST_NAME


def write_results(
    outputs: Sequence[Path],
    image: Image.Image,
    prediction: Prediction,
    labels: Labels,
    *,
    mark: ResultMark = _UNNAMED,
    replace: bool = True,
) -> None:
    """Write the files of a prediction, told apart by their endings, as :func:`write_together` does.

    All carry ``mark``, see :func:`result_of`.
    """
    writers = {
        output: partial(_write, output.name, image, prediction, labels, mark=mark)
        for output in reversed(outputs)  # the mask is the last
    }
    write_together(writers, replace=replace)


def _write(
    name: str, image: Image.Image, prediction: Prediction, labels: Labels, handle: BinaryIO, *, mark: ResultMark
) -> None:
    if name.endswith(PROBABILITIES):
        _write_probabilities(handle, prediction, mark)
        return
    overlaid = name.endswith(OVERLAY)
    drawn = draw_overlay(image, prediction.index, labels) if overlaid else indexed_mask(prediction.index, labels)
    drawn.save(handle, format="PNG", pnginfo=mark_text(mark))


def _write_probabilities(handle: BinaryIO, prediction: Prediction, mark: ResultMark) -> None:
    """Write what ``np.savez_compressed(handle, probabilities=...)`` does, a few rows of a class at a time."""
    shape = (len(prediction.labels), *prediction.index.shape)
    with (
        zipfile.ZipFile(handle, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open(ARRAY, "w", force_zip64=True) as file,
    ):
        archive.comment = mark_comment(mark)
        header = {"descr": np.lib.format.dtype_to_descr(np.dtype(np.float32)), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        for rows in prediction.probability_rows():
            file.write(np.ascontiguousarray(rows).data)


def draw_overlay(image: Image.Image, indices: Pixels, labels: Labels) -> Image.Image:
    """Return an RGB image with the classes of a mask, uint8 (H, W) of indices, drawn over it.

    Below it is a legend of the classes that are drawn, unless the image is too narrow to read one.
    """
    height, width = indices.shape
    present = [index for index in occurring(indices) if index < len(labels) and labels.tinted[index]]
    font_size = max(11, min(width // 45, height // 4, 200))  # of a wide and low image, the legend stays low, too
    margin = font_size // 2
    names = None
    if width >= _LEGEND_FROM and present:
        names = legend(labels, present, width=width - 2 * margin, font_size=font_size)
    sheet = Image.new("RGB", (width, height + (0 if names is None else names.height + 2 * margin)), PAPER)
    wide, rows = outline_width(height, width), max(1, STRIP_PIXELS // width)
    for top in range(0, height, rows):  # strip by strip: every copy of a huge image takes half a gigabyte
        bottom = min(top + rows, height)
        first, last = max(0, top - wide), min(height, bottom + wide)  # outlines look this far
        strip = np.asarray(image.crop((0, first, width, last)))
        drawn = overlay(strip, indices[first:last], labels, wide=wide)[top - first : bottom - first]
        sheet.paste(Image.fromarray(drawn), (0, top))
    if names is not None:
        sheet.paste(names, (margin, height + margin))
    return sheet
