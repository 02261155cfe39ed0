"""Small images for the report, as data URLs: a sample, its truth, its prediction and where they differ."""

import base64
import io
from typing import Literal

import numpy as np
from PIL import Image

from petseg.inference.class_colours import Pixels, colour_map
from petseg.inference.metrics import ANIMAL, BACKGROUND
from petseg.report.gallery import PredictedSample

SIDE = 300  # longest side, in pixels; shown at half of it, so that they are sharp on high-resolution screens
MISSED, INVENTED, BORDER_ONLY = (213, 94, 0), (0, 114, 178), (190, 190, 190)


def panels(sample: PredictedSample) -> list[tuple[str, str]]:
    """Return (caption, data URL) of a sample's four panels."""
    return [
        ("image", _data_url(sample.image, kind="jpeg")),
        ("truth", _data_url(colour_map(sample.truth), kind="png")),
        ("prediction", _data_url(colour_map(sample.predicted), kind="png")),
        ("differences", _data_url(differences(sample.truth, sample.predicted), kind="png")),
    ]


def differences(truth: Pixels, predicted: Pixels) -> Pixels:
    """Return uint8 (H, W, 3): white where two maps of class indices (H, W) agree, elsewhere the kind of difference.

    ``MISSED`` is animal predicted as background, ``INVENTED`` background predicted as animal, ``BORDER_ONLY`` a
    difference that involves the border.
    """
    colours = np.full((*truth.shape, 3), 255, np.uint8)
    colours[truth != predicted] = BORDER_ONLY
    colours[(truth == ANIMAL) & (predicted == BACKGROUND)] = MISSED
    colours[(truth == BACKGROUND) & (predicted == ANIMAL)] = INVENTED
    return colours


def _data_url(pixels: Pixels, *, kind: Literal["jpeg", "png"]) -> str:
    """Return a thumbnail: JPEG for a photograph, PNG for a map of a few colours."""
    small = Image.fromarray(pixels)
    small.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS if kind == "jpeg" else Image.Resampling.NEAREST)
    if kind == "png":
        small = small.quantize(8, dither=Image.Dither.NONE)
    buffer = io.BytesIO()
    small.save(buffer, format=kind, quality=85)  # PNG ignores the quality
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
