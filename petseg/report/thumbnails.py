"""Small pictures for the report: a sample, its truth, its prediction and where they differ, as data URLs."""

from __future__ import annotations

import base64
import io

import numpy as np
from PIL import Image

from petseg.inference.metrics import ANIMAL, BACKGROUND
from petseg.inference.stored_samples import Pixels
from petseg.report.gallery import Exhibit, paint

SIDE = 300  # longest side, in pixels; shown at half of it, so that they are sharp on fine screens
MISSED, INVENTED, BORDER_ONLY = (213, 94, 0), (0, 114, 178), (190, 190, 190)


def panels(exhibit: Exhibit) -> list[tuple[str, str]]:
    """Return (caption, data URL) of a sample's four panels."""
    seen = exhibit.prediction.mask - np.uint8(1)
    picture = Image.fromarray(exhibit.picture)
    return [
        ("picture", _jpeg(picture)),
        ("truth", _png(paint(exhibit.truth))),
        ("prediction", _png(paint(seen))),
        ("differences", _png(differences(exhibit.truth, seen))),
    ]


def differences(truth: Pixels, seen: Pixels) -> Pixels:
    """Return uint8 (H, W, 3): white where two maps of classes (H, W) agree, else a colour that says how they differ.

    Animal taken for background, background taken for animal, and whatever concerns the border.
    """
    colours = np.full((*truth.shape, 3), 255, np.uint8)
    colours[truth != seen] = BORDER_ONLY
    colours[(truth == ANIMAL) & (seen == BACKGROUND)] = MISSED
    colours[(truth == BACKGROUND) & (seen == ANIMAL)] = INVENTED
    return colours


def _jpeg(picture: Image.Image) -> str:
    small = picture.copy()
    small.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    return _url(small, "JPEG", quality=85)


def _png(pixels: Pixels) -> str:
    drawn = Image.fromarray(pixels)
    drawn.thumbnail((SIDE, SIDE), Image.Resampling.NEAREST)
    return _url(drawn.quantize(8, dither=Image.Dither.NONE), "PNG")


def _url(picture: Image.Image, kind: str, **options: int) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, format=kind, **options)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"
