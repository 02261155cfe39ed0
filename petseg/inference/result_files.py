"""The files of one image's prediction: mask, overlay and probabilities, written together or not at all."""

import os
import zipfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from petseg.host.written_together import write_together
from petseg.inference.image_files import OVERLAY, ResultMark, mark_text
from petseg.inference.probabilities import Prediction
from shards.format.labels import Labels
from shards.format.overlays import PAPER, STRIP_PIXELS, Pixels, indexed_mask, legend, occurring, outline_width, overlay
from shards.format.readers.output_places import LONGEST_NAME

PROBABILITIES = ".probabilities.npz"
_UNNAMED = ResultMark("")
_LEGEND_FROM = 160  # width in pixels; below a narrower image no name can be read


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

    Pictures carry ``mark``, see :func:`petseg.inference.image_files.result_of`.
    """
    info = mark_text(mark)
    writers = {
        output: partial(_write, output.name, image, prediction, labels, info=info)
        for output in reversed(outputs)  # the mask is the last
    }
    write_together(writers, replace=replace)


def _write(
    name: str, image: Image.Image, prediction: Prediction, labels: Labels, handle: BinaryIO, *, info: PngInfo
) -> None:
    if name.endswith(PROBABILITIES):
        _write_probabilities(handle, prediction)
        return
    overlaid = name.endswith(OVERLAY)
    drawn = draw_overlay(image, prediction.index, labels) if overlaid else indexed_mask(prediction.index, labels)
    drawn.save(handle, format="PNG", pnginfo=info)


def _write_probabilities(handle: BinaryIO, prediction: Prediction) -> None:
    """Write what ``np.savez_compressed(handle, probabilities=...)`` does, a few rows of a class at a time."""
    shape = (len(prediction.labels), *prediction.index.shape)
    with (
        zipfile.ZipFile(handle, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("probabilities.npy", "w", force_zip64=True) as file,
    ):
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
