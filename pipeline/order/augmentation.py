"""Training augmentation: what is done to a sample is a pure function of (seed, epoch, sample).

Only parameters are drawn here. The engines apply them, so that every engine and device does the same thing, and the
picture and its trimap share one geometry by construction. Each part can be switched off by itself, which leaves the
numbers of the other parts as they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from pipeline.order.hashing import derive, uniform
from shards.errors import UsageError

Floats = npt.NDArray[np.float64]
Boxes = npt.NDArray[np.int32]

Preset = Literal["train", "strong"]

_PURPOSE = 2  # keeps these numbers apart from the order's

# One stream of random numbers for each decision; part of the promise "same seed, same pictures".
_AREA, _RATIO, _TOP, _LEFT, _FLIP, _BRIGHTNESS, _CONTRAST, _SATURATION = range(8)
_DECISIONS = 8

# Weights of red, green and blue in grey (ITU-R BT.601), and the grey around which contrast is stretched.
LUMA = (0.299, 0.587, 0.114)
CONTRAST_CENTRE = 128.0


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """How strongly training samples are varied. The defaults are the preset ``"train"``.

    Attributes:
        area: the part of the picture's area that a random crop keeps, (least, most) in (0, 1]; None: no crop.
        ratio: the crop's stretch, (least, most): its width / height over that of the whole picture, drawn
            log-uniformly. A side is never longer than the picture's.
        flip: the probability of a left-right mirror image.
        brightness: the pixel values are multiplied by 1 - b to 1 + b; 0: off.
        contrast: likewise the distance from mid grey (128).
        saturation: likewise the distance of a colour from its own grey.
    """

    area: tuple[float, float] | None = (0.5, 1.0)
    ratio: tuple[float, float] = (0.8, 1.25)
    flip: float = 0.5
    brightness: float = 0.2
    contrast: float = 0.2
    saturation: float = 0.2

    def __post_init__(self) -> None:
        if self.area is not None and not 0 < self.area[0] <= self.area[1] <= 1:
            raise UsageError(f"augmentation: area must be (least, most) with 0 < least <= most <= 1, not {self.area}")
        if not 0 < self.ratio[0] <= self.ratio[1] < float("inf"):
            raise UsageError(f"augmentation: ratio must be (least, most) with 0 < least <= most, not {self.ratio}")
        if not 0 <= self.flip <= 1:
            raise UsageError(f"augmentation: flip is a probability in 0..1, not {self.flip}")
        for name in ("brightness", "contrast", "saturation"):
            if not 0 <= getattr(self, name) <= 1:
                raise UsageError(f"augmentation: {name} must be in 0..1, not {getattr(self, name)}")

    @classmethod
    def preset(cls, name: Preset) -> Augmentation:
        """Return a preset: ``train``, mild, or ``strong``, for few pictures and many epochs."""
        if name == "train":
            return cls()
        return cls(area=(0.2, 1.0), ratio=(2 / 3, 1.5), brightness=0.4, contrast=0.4, saturation=0.8)

    @property
    def colour(self) -> bool:
        """Whether any of the colour parts is on."""
        return bool(self.brightness or self.contrast or self.saturation)

    def to_json(self) -> dict[str, Any]:
        """Return the settings as plain JSON values."""
        return {
            "area": None if self.area is None else list(self.area),
            "ratio": list(self.ratio),
            "flip": self.flip,
            "brightness": self.brightness,
            "contrast": self.contrast,
            "saturation": self.saturation,
        }


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """What is done to each sample of a batch of B.

    Attributes:
        boxes: the crop in stored pixels: top, left, height, width; int32 (B, 4).
        flip: whether the result is mirrored; bool (B,).
        brightness, contrast, saturation: factors, 1 changes nothing; float32 (B,).
    """

    boxes: Boxes
    flip: npt.NDArray[np.bool_]
    brightness: npt.NDArray[np.float32]
    contrast: npt.NDArray[np.float32]
    saturation: npt.NDArray[np.float32]


def draw_parameters(
    augmentation: Augmentation | None,
    *,
    seed: int,
    epoch: int,
    indices: npt.NDArray[np.integer],
    heights: npt.NDArray[np.integer],
    widths: npt.NDArray[np.integer],
) -> Parameters:
    """Return what is done to each of B samples; without augmentation: the whole picture as it is.

    Args:
        augmentation: None for evaluation.
        seed: any integer.
        epoch: counted from 0.
        indices: which samples, (B,).
        heights: of the stored pictures in pixels, (B,).
        widths: likewise.
    """
    count = len(indices)
    one = np.ones(count, dtype=np.float32)
    whole = np.stack([0 * heights, 0 * widths, heights, widths], axis=1).astype(np.int32)
    if augmentation is None:
        return Parameters(boxes=whole, flip=np.zeros(count, bool), brightness=one, contrast=one, saturation=one)

    keys = np.array([derive(seed, epoch, _PURPOSE, decision) for decision in range(_DECISIONS)], dtype=np.uint64)
    random = uniform(keys[:, None], indices)
    return Parameters(
        boxes=whole if augmentation.area is None else crop_boxes(augmentation, random, heights, widths),
        flip=random[_FLIP] < augmentation.flip,
        brightness=_factor(augmentation.brightness, random[_BRIGHTNESS]),
        contrast=_factor(augmentation.contrast, random[_CONTRAST]),
        saturation=_factor(augmentation.saturation, random[_SATURATION]),
    )


def find_impossible(
    parameters: Parameters, *, heights: npt.NDArray[np.integer], widths: npt.NDArray[np.integer]
) -> tuple[int, str] | None:
    """Return the place of the first sample whose parameters no engine could apply, and what is wrong with them.

    Native code would read beyond a picture for a box that does not lie in it, and turn a NaN into any pixel.
    """
    top, left, box_heights, box_widths = parameters.boxes.astype(np.int64).T
    inside = (np.minimum(top, left) >= 0) & (np.minimum(box_heights, box_widths) >= 1)
    inside &= (top + box_heights <= heights) & (left + box_widths <= widths)
    factors = np.stack([parameters.brightness, parameters.contrast, parameters.saturation])
    finite = np.isfinite(factors).all(axis=0)
    if inside.all() and finite.all():
        return None
    place = int(np.argmin(inside & finite))
    if not inside[place]:
        box = parameters.boxes[place].tolist()
        return (
            place,
            f"its crop {box} (top, left, height, width) is not in the {widths[place]} x {heights[place]} picture",
        )
    return place, f"its brightness, contrast or saturation is no number: {factors[:, place].tolist()}"


def crop_boxes(
    augmentation: Augmentation, random: Floats, heights: npt.NDArray[np.integer], widths: npt.NDArray[np.integer]
) -> Boxes:
    """Return random boxes (top, left, height, width) in whole pixels within pictures; int32 (B, 4).

    The recipe is that of Inception's random resized crop (Szegedy et al., 2015) relative to the picture's own shape,
    without rejection: a side that would not fit is cut to the picture's.
    """
    assert augmentation.area is not None
    least, most = augmentation.area
    area = least + (most - least) * random[_AREA]
    low, high = np.log(augmentation.ratio)
    ratio = np.exp(low + (high - low) * random[_RATIO])
    box_heights = _pixels(np.sqrt(area / ratio), heights)
    box_widths = _pixels(np.sqrt(area * ratio), widths)
    top = np.floor(random[_TOP] * (heights - box_heights + 1)).astype(np.int32)
    left = np.floor(random[_LEFT] * (widths - box_widths + 1)).astype(np.int32)
    return np.stack([top, left, box_heights, box_widths], axis=1)


def colour_matrices(parameters: Parameters) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Return the colour change of each sample as ``matrix @ rgb + offset``.

    Saturation, then contrast, then brightness: with l the weights of grey,
    ``b (c (s rgb + (1 - s) (l . rgb)) + (1 - c) 128)``, the formula of DALI's ``color_twist``.

    Returns:
        float32 (B, 3, 3) and float32 (B, 3).
    """
    b, c, s = (np.asarray(x, np.float64) for x in (parameters.brightness, parameters.contrast, parameters.saturation))
    grey = np.broadcast_to(np.array(LUMA), (3, 3))
    matrix = (b * c)[:, None, None] * (s[:, None, None] * np.eye(3) + (1 - s)[:, None, None] * grey)
    offset = np.repeat((b * (1 - c) * CONTRAST_CENTRE)[:, None], 3, axis=1)
    return matrix.astype(np.float32), offset.astype(np.float32)


def _pixels(part: Floats, length: npt.NDArray[np.integer]) -> npt.NDArray[np.int32]:
    """Return a part of a length in whole pixels, at least 1 and at most the length."""
    return np.clip(np.floor(part * length + 0.5), 1, length).astype(np.int32)


def _factor(strength: float, random: Floats) -> npt.NDArray[np.float32]:
    """Return factors from 1 - strength to 1 + strength."""
    return (1 + strength * (2 * random - 1)).astype(np.float32)
