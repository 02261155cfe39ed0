"""Small images for the report, as data URLs: a sample, its truth, its prediction and where they differ."""

import base64
import io
from typing import Literal

import numpy as np
from PIL import Image

from petseg.report.sample_predictions import PredictedSample
from shards.format.labels import IGNORE, Labels
from shards.format.overlays import IGNORED_COLOUR, Pixels, Rgb, colour_map

SIDE = 300  # longest side, in pixels; shown at half of it, so that they are sharp on high-resolution screens
# Of sets that name a foreground; elsewhere, and between other classes, a difference is WRONG.
MISSED: Rgb = (213, 94, 0)
INVENTED: Rgb = (0, 114, 178)
WRONG: Rgb = (150, 60, 130)
AGREED: Rgb = (255, 255, 255)


def panels(sample: PredictedSample, labels: Labels) -> list[tuple[str, str]]:
    """Return (caption, data URL) of a sample's four panels."""
    truth, predicted = sample.truth, sample.prediction.index
    return [
        ("image", photo_url(sample.image)),
        ("truth", map_url(colour_map(truth, labels))),
        ("prediction", map_url(colour_map(predicted, labels))),
        ("differences", map_url(differences(truth, predicted, labels))),
    ]


def photo_url(image: Pixels) -> str:
    """Return an image as a data URL, at the size of a panel."""
    return data_url(shrunk(image, SIDE, smooth=True), kind="jpeg")


def map_url(pixels: Pixels) -> str:
    """Return a map of colours as a data URL, at the size of a panel."""
    return data_url(shrunk(pixels, SIDE), kind="png")


def differences(truth: Pixels, predicted: Pixels, labels: Labels) -> Pixels:
    """Return uint8 (H, W, 3): white where two masks of class indices (H, W) agree, elsewhere the kind of difference.

    ``MISSED`` is foreground predicted as background, ``INVENTED`` background predicted as foreground, where a boundary
    class is neither; ``WRONG`` is any other difference. Ignored pixels are ``IGNORED_COLOUR``.
    """
    colours = np.full((*truth.shape, 3), AGREED, np.uint8)
    colours[truth != predicted] = WRONG
    if labels.foreground:
        foreground, background = (np.zeros(256, np.bool_) for _ in range(2))
        background[: len(labels)] = True
        background[[*labels.indices(labels.foreground), *labels.indices(labels.boundary)]] = False
        foreground[list(labels.indices(labels.foreground))] = True
        colours[foreground[truth] & background[predicted]] = MISSED
        colours[background[truth] & foreground[predicted]] = INVENTED
    colours[truth == IGNORE] = IGNORED_COLOUR
    return colours


def difference_legend(labels: Labels) -> list[tuple[str, Rgb]]:
    """Return what the colours of :func:`differences` mean."""
    if not labels.foreground:
        return [("wrong class", WRONG)]
    background = [name for name in labels.names if name not in (*labels.foreground, *labels.boundary)]
    front = labels.foreground[0] if len(labels.foreground) == 1 else "foreground"
    back = background[0] if len(background) == 1 else "background"
    kinds = [(f"{front} predicted as {back}", MISSED), (f"{back} predicted as {front}", INVENTED)]
    if len(labels.foreground) > 1 or len(background) > 1:
        return [*kinds, ("another wrong class", WRONG)]
    return [*kinds, ("differences at the border", WRONG)] if labels.boundary else kinds


def shrunk(pixels: Pixels, side: int, *, smooth: bool = False) -> Pixels:
    """Return an image or a map, (H, W, 3) or (H, W), no longer than ``side`` pixels; a map of classes not smoothed."""
    small = Image.fromarray(pixels)
    small.thumbnail((side, side), Image.Resampling.LANCZOS if smooth else Image.Resampling.NEAREST)
    return np.asarray(small)


def data_url(pixels: Pixels, *, kind: Literal["jpeg", "png"]) -> str:
    """Return an RGB image as a data URL: JPEG for a photograph, PNG for a map of up to 256 colours."""
    image = Image.fromarray(pixels)
    if kind == "png":
        packed = pixels.astype(np.uint32) @ np.array([1 << 16, 1 << 8, 1], dtype=np.uint32)
        colours, indices = np.unique(packed, return_inverse=True)
        image = Image.fromarray(indices.reshape(packed.shape).astype(np.uint8))
        image.putpalette(np.stack([colours >> 16, colours >> 8, colours], axis=1).astype(np.uint8).tobytes())
    buffer = io.BytesIO()
    image.save(buffer, format=kind, quality=85)  # PNG ignores the quality
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
