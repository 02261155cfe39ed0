"""Random textures for the made-up dataset: drawn once a dataset, cut out at random places for each picture."""

from __future__ import annotations

from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

Field: TypeAlias = npt.NDArray[np.float32]
Texture: TypeAlias = Literal["grain", "fur", "streak", "cloud", "cells"]

SIDE = 640  # pixels; pictures are at most 500


class NoiseBank:
    """Square textures with mean 0 and standard deviation 1.

    ``grain`` is white noise, ``fur`` short vertical hairs, ``streak`` long horizontal ones (wood, water), ``cloud``
    has detail at every scale, ``cells`` are soft spots about 24 pixels apart.
    """

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng([seed, 0xBA4C])
        grain = rng.standard_normal((SIDE, SIDE), dtype=np.float32)
        self._fields: dict[Texture, Field] = {
            "grain": grain,
            "fur": _smear(grain, axis=0, length=7),
            "streak": _smear(rng.standard_normal((SIDE, SIDE), dtype=np.float32), axis=1, length=60),
            "cloud": sum((_upsampled(rng, 5 * 2**k) / 2**k for k in range(5)), np.zeros((SIDE, SIDE), np.float32)),
            "cells": _upsampled(rng, SIDE // 24),
        }
        for name, field in self._fields.items():
            self._fields[name] = ((field - field.mean()) / field.std()).astype(np.float32)

    def cut(self, texture: Texture, shape: tuple[int, int], rng: np.random.Generator, *, zoom: float = 1.0) -> Field:
        """Return a window at a random place, possibly mirrored.

        Args:
            texture: which one.
            shape: height and width of the result, at most :data:`SIDE`.
            rng: decides the place.
            zoom: above 1 enlarges the texture, below 1 would need more of it than there is and is taken as 1.
        """
        zoom = max(zoom, 1.0)
        height, width = (max(2, round(length / zoom)) for length in shape)
        top, left = rng.integers(0, SIDE - height + 1), rng.integers(0, SIDE - width + 1)
        window = self._fields[texture][top : top + height, left : left + width]
        window = window[:: rng.choice((1, -1)), :: rng.choice((1, -1))]
        if (height, width) == tuple(shape):
            return window
        size = (shape[1], shape[0])
        return np.asarray(Image.fromarray(np.ascontiguousarray(window)).resize(size, Image.Resampling.BILINEAR))


def _upsampled(rng: np.random.Generator, cells: int) -> Field:
    """White noise of ``cells`` x ``cells``, enlarged smoothly to the full side."""
    coarse = Image.fromarray(rng.standard_normal((cells, cells), dtype=np.float32))
    return np.asarray(coarse.resize((SIDE, SIDE), Image.Resampling.BICUBIC))


def _smear(field: Field, *, axis: int, length: int) -> Field:
    """Running mean over ``length`` pixels, wrapping around."""
    total = np.cumsum(np.concatenate([field, np.take(field, range(length), axis=axis)], axis=axis), axis=axis)
    ends = np.take(total, range(length, length + SIDE), axis=axis)
    return np.asarray(ends - np.take(total, range(SIDE), axis=axis), dtype=np.float32)
