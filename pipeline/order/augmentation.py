"""Training augmentation: the parameters of a sample are a pure function of (seed, epoch, sample).

Parameters are only drawn here and applied by the engines, so that every engine and device produces the same result, and
an image and its mask share one geometry by construction. Turning one operation off does not change the random numbers
of the others.
"""

from dataclasses import dataclass
from typing import Any, Final, Literal, TypeVar

import numpy as np
import numpy.typing as npt

from pipeline.order.hashing import derive, uniform
from shards.errors import UsageError, is_number, shown_value
from shards.format.geometry import (
    Boxes,
    Fit,
    Floats,
    Integers,
    Scales,
    Size,
    cover_sizes,
    fit_boxes,
    middle_scale,
    placements,
    scaled_crops,
    scaled_placements,
)
from shards.public_calls import suggests_names

Preset = Literal["train", "strong"]

_PURPOSE = 2  # keeps these random numbers apart from those of the order

# One stream of random numbers for each decision; part of the promise "same seed, same images".
_AREA, _RATIO, _TOP, _LEFT, _FLIP, _BRIGHTNESS, _CONTRAST, _SATURATION = range(8)
_DECISIONS = 8

# Weights of red, green and blue in grey (ITU-R BT.601), and the grey level that contrast is scaled around.
LUMA = (0.299, 0.587, 0.114)
CONTRAST_CENTRE = 128.0
_T = TypeVar("_T")


def suggests_fields(struct: type[_T]) -> type[_T]:
    """Have the making of a dataclass treat its arguments as ``suggests_names`` does."""
    struct.__init__ = suggests_names(struct.__init__)  # type: ignore[method-assign]
    return struct


@suggests_fields
@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """How strongly training samples are varied. The defaults are the preset ``"train"``.

    Attributes:
        area: the fraction of the image's area that a random crop keeps, (min, max) in (0, 1]; None: no crop, except
            that ``cover`` cuts a box of the output's aspect ratio, at a random place. With ``cover``, the fraction is
            that of the largest such box.
        ratio: aspect ratio of the crop relative to that of the whole image, or, with ``cover``, of the output: (min,
            max), drawn log-uniformly. A side is never longer than the image's. ``cover`` distorts by this ratio,
            ``contain`` not at all, ``stretch`` by this ratio and by what stretching the whole image does; with (1, 1),
            ``cover`` crops at a random scale and keeps the aspect ratio of what is shown.
        flip: the probability of a horizontal flip.
        brightness: pixel values are multiplied by a factor in 1 - b to 1 + b; 0: off.
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
        for name in ("area", "ratio"):
            value = getattr(self, name)
            pair = isinstance(value, tuple | list) and len(value) == 2 and all(map(is_number, value))
            if not pair and (name, value) != ("area", None):
                raise UsageError(f"augmentation: {name} must be (min, max), two numbers, not {shown_value(value)}")
        if self.area is not None and not 0 < self.area[0] <= self.area[1] <= 1:
            raise UsageError(f"augmentation: area must be (min, max) with 0 < min <= max <= 1, not {self.area}")
        if not 0 < self.ratio[0] <= self.ratio[1] < float("inf"):
            raise UsageError(f"augmentation: ratio must be (min, max) with 0 < min <= max, not {self.ratio}")
        if not is_number(self.flip, 0, 1):
            raise UsageError(f"augmentation: flip is a probability in 0..1, not {shown_value(self.flip)}")
        for name in ("brightness", "contrast", "saturation"):
            if not is_number(getattr(self, name), 0, 1):
                raise UsageError(f"augmentation: {name} must be in 0..1, not {shown_value(getattr(self, name))}")

    @classmethod
    def preset(cls, name: Preset) -> "Augmentation":
        """Return a preset: ``train``, mild, or ``strong``, for few images and many epochs."""
        if name == "train":
            return cls()
        if name != "strong":
            raise UsageError(f"augmentation: there is no preset {shown_value(name)}; use train or strong")
        return cls(area=(0.2, 1.0), ratio=(2 / 3, 1.5), brightness=0.4, contrast=0.4, saturation=0.8)

    @property
    def colour(self) -> bool:
        """Whether any of the colour operations is on."""
        return bool(self.brightness or self.contrast or self.saturation)

    def to_json(self) -> dict[str, Any]:
        """Return the settings as plain JSON values."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in vars(self).items()}


NO_AUGMENTATION: Final = Augmentation(area=None, flip=0, brightness=0, contrast=0, saturation=0)


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """What is applied to each sample of a batch of B."""

    boxes: Boxes  # the crop in stored pixels: top, left, height, width; (B, 4)
    places: Boxes  # where the crop is put in the output, likewise: all of it, unless it is letterboxed; (B, 4)
    flip: npt.NDArray[np.bool_]  # whether the result is flipped horizontally, (B,)
    brightness: npt.NDArray[np.float32]  # a factor, as the next two; 1 changes nothing; (B,)
    contrast: npt.NDArray[np.float32]
    saturation: npt.NDArray[np.float32]


def draw_parameters(
    augmentation: Augmentation | None,
    *,
    seed: int,
    epoch: int,
    indices: Integers,
    heights: Integers,
    widths: Integers,
    size: Size,
    fit: Fit = "stretch",
    crop_scale: Scales | None = None,
) -> Parameters:
    """Return the parameters of B samples in an epoch (from 0); without augmentation: what ``fit`` shows of an image.

    ``heights`` and ``widths`` are those of the stored images in pixels, (B,), as ``indices``; ``size`` is the output's.
    ``crop_scale`` replaces ``fit`` and the augmentation's ``area`` and ``ratio``: a box of the output's size is cut out
    at a scale in this range, at a random place; without augmentation at its :func:`middle_scale`, in the centre. Of an
    image that is smaller than that, all is shown, at the same scale, in the middle of the output.
    """
    if augmentation is None:
        if crop_scale is None:
            boxes = fit_boxes(heights, widths, size=size, fit=fit)
            places = placements(boxes, size=size, fit=fit)
        else:
            scales = np.full(len(indices), middle_scale(crop_scale))
            centre = np.full(len(indices), 0.5)
            sides = scaled_crops(heights, widths, size=size, scales=scales)
            boxes = place_boxes(*sides, heights, widths, down=centre, across=centre)
            places = scaled_placements(boxes, size=size, scales=scales)
        one = np.ones(len(indices), dtype=np.float32)
        return Parameters(
            boxes=boxes,
            places=places,
            flip=np.zeros(len(one), bool),
            brightness=one,
            contrast=one,
            saturation=one,
        )

    keys = np.array([derive(seed, epoch, _PURPOSE, decision) for decision in range(_DECISIONS)], dtype=np.uint64)
    random = uniform(keys[:, None], indices)
    if crop_scale is None:
        boxes = crop_boxes(augmentation, random, heights, widths, size=size, fit=fit)
        places = placements(boxes, size=size, fit=fit)
    else:
        scales = crop_scale[0] + (crop_scale[1] - crop_scale[0]) * random[_AREA]  # mmsegmentation's RandomResize
        sides = scaled_crops(heights, widths, size=size, scales=scales)
        boxes = place_boxes(*sides, heights, widths, down=random[_TOP], across=random[_LEFT])
        places = scaled_placements(boxes, size=size, scales=scales)
    return Parameters(
        boxes=boxes,
        places=places,
        flip=random[_FLIP] < augmentation.flip,
        brightness=_factor(augmentation.brightness, random[_BRIGHTNESS]),
        contrast=_factor(augmentation.contrast, random[_CONTRAST]),
        saturation=_factor(augmentation.saturation, random[_SATURATION]),
    )


def find_invalid(parameters: Parameters, *, heights: Integers, widths: Integers, size: Size) -> tuple[int, str] | None:
    """Return the position of the first sample whose parameters cannot be applied, and what is wrong with them.

    Native code would read beyond an image for a box that is not inside it, and turn a NaN into any pixel.
    """
    inside = _are_inside(parameters.boxes, heights, widths)
    placed = _are_inside(parameters.places, *size)
    factors = np.stack([parameters.brightness, parameters.contrast, parameters.saturation])
    finite = np.isfinite(factors).all(axis=0)
    if inside.all() and placed.all() and finite.all():
        return None
    position = int(np.argmin(inside & placed & finite))
    box, place = parameters.boxes[position].tolist(), parameters.places[position].tolist()
    if not inside[position]:
        image = f"{widths[position]} x {heights[position]}"
        return position, f"crop {box} (top, left, height, width) is not inside the {image} image"
    if not placed[position]:
        return position, f"place {place} (top, left, height, width) is not inside the {size[1]} x {size[0]} output"
    return position, f"brightness, contrast or saturation is not finite: {factors[:, position].tolist()}"


def crop_boxes(
    augmentation: Augmentation, random: Floats, heights: Integers, widths: Integers, *, size: Size, fit: Fit
) -> Boxes:
    """Return random boxes (top, left, height, width) in whole pixels within images; int32 (B, 4).

    Inception's random resized crop (Szegedy et al., 2015) relative to the whole image or to what ``cover`` shows of it,
    without rejection: a side that would not fit is cut to the image's.
    """
    box_heights: Integers | Floats
    box_widths: Integers | Floats
    box_heights, box_widths = cover_sizes(heights, widths, size) if fit == "cover" else (heights, widths)
    if augmentation.area is not None:
        least, most = augmentation.area
        area = least + (most - least) * random[_AREA]
        low, high = np.log(augmentation.ratio)
        ratio = np.exp(low + (high - low) * random[_RATIO])
        box_heights = _pixels(np.sqrt(area / ratio) * box_heights, heights)
        box_widths = _pixels(np.sqrt(area * ratio) * box_widths, widths)
    return place_boxes(box_heights, box_widths, heights, widths, down=random[_TOP], across=random[_LEFT])


def place_boxes(
    box_heights: Integers | Floats,
    box_widths: Integers | Floats,
    heights: Integers,
    widths: Integers,
    *,
    down: Floats,
    across: Floats,
) -> Boxes:
    """Put boxes into images: at the place that numbers in [0, 1) choose of all that a box may have; int32 (B, 4)."""
    top = np.floor(down * (heights - box_heights + 1))
    left = np.floor(across * (widths - box_widths + 1))
    return np.stack([top, left, box_heights, box_widths], axis=1).astype(np.int32)


def colour_matrices(parameters: Parameters) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Return the colour change of each sample as ``matrix @ rgb + offset``: float32 (B, 3, 3) and float32 (B, 3).

    Saturation, then contrast, then brightness: with l the weights of grey,
    ``b (c (s rgb + (1 - s) (l . rgb)) + (1 - c) 128)``, the formula of DALI's ``color_twist``.
    """
    b, c, s = (np.asarray(x, np.float64) for x in (parameters.brightness, parameters.contrast, parameters.saturation))
    grey = np.broadcast_to(np.array(LUMA), (3, 3))
    matrix = (b * c)[:, None, None] * (s[:, None, None] * np.eye(3) + (1 - s)[:, None, None] * grey)
    offset = np.repeat((b * (1 - c) * CONTRAST_CENTRE)[:, None], 3, axis=1)
    return matrix.astype(np.float32), offset.astype(np.float32)


def _are_inside(boxes: Boxes, heights: Integers | int, widths: Integers | int) -> npt.NDArray[np.bool_]:
    """Return which boxes (B, 4) hold a pixel and none beyond (heights, widths); bool (B,)."""
    top, left, box_heights, box_widths = boxes.astype(np.int64).T
    inside = (np.minimum(top, left) >= 0) & (np.minimum(box_heights, box_widths) >= 1)
    return np.asarray(inside & (top + box_heights <= heights) & (left + box_widths <= widths))


def _pixels(length: Floats, most: Integers) -> Floats:
    """Return a length in whole pixels, at least 1 and at most ``most``."""
    return np.clip(np.floor(length + 0.5), 1, most)


def _factor(strength: float, random: Floats) -> npt.NDArray[np.float32]:
    """Return factors from 1 - strength to 1 + strength."""
    return (1 + strength * (2 * random - 1)).astype(np.float32)
