"""Outlines (closed curves, float64 (n, 2), y pointing down) and what fills them: colours and random textures."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

import cv2
import numpy as np
import numpy.typing as npt

Rng: TypeAlias = np.random.Generator
Points: TypeAlias = npt.NDArray[np.float64]
Canvas: TypeAlias = npt.NDArray[np.uint8]  # (H, W) or (H, W, channels)
Field: TypeAlias = npt.NDArray[Any]  # float32
Values: TypeAlias = Sequence[float] | Points  # of the channels of a pixel, 0..255

TEXTURE_SIDE = 640  # pixels; images are at most 500
_SHIFT = 4  # OpenCV takes coordinates in fixed point: 1/16 pixel


def fill(canvas: Canvas, outline: Points, colour: Values, last: float = 255) -> None:
    """Fill an outline, antialiased; ``last`` is the value of the channel after the colour's, if there is one."""
    cv2.fillPoly(canvas, [_fixed(outline)], (*colour, last), cv2.LINE_AA, _SHIFT)


def draw_lines(canvas: Canvas, lines: Iterable[Points], colour: Values, width: float = 1) -> None:
    """Draw open lines, antialiased, at least a pixel wide; the channel after the colour's becomes 0."""
    fixed = [_fixed(line) for line in lines]
    cv2.polylines(canvas, fixed, False, (*colour, 0), max(1, round(width)), cv2.LINE_AA, _SHIFT)


def ellipse(x: float, y: float, rx: float, ry: float, turn: float = 0.0) -> Points:
    """Return an ellipse with half axes ``rx`` and ``ry``, turned by ``turn`` radians about its centre."""
    angle = (np.arange(40) + 0.5) * (2 * np.pi / 40)
    circle = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return np.asarray(rotate(circle * (rx, ry), turn) + np.array([x, y]))


def box(left: float, top: float, right: float, bottom: float, radius: float = 0.0) -> Points:
    """Return a rectangle with corners of that radius."""
    left, top, right, bottom = left + radius, top + radius, right - radius, bottom - radius
    corners = np.array([(right, bottom), (left, bottom), (left, top), (right, top)], dtype=float)
    return ellipse(0, 0, radius, radius) + np.repeat(corners, 10, axis=0) if radius else corners


def blob(*corners: tuple[float, float], mirrored: bool = False) -> Points:
    """Return a smooth closed curve through the corners and, if ``mirrored``, back through their mirror images."""
    corners += tuple((-x, y) for x, y in reversed(corners) if x) if mirrored else ()
    return _spline((corners[-1], *corners, *corners[:2]))


def limb(*path: tuple[float, float], start: float, end: float) -> Points:
    """Return a leg or a tail: a smooth path, ``start`` half wide where it begins and ``end`` where it ends, rounded."""
    first, last = 2 * np.array([path[0], path[-1]]) - np.array([path[1], path[-2]])
    line = np.concatenate([_spline((first, *path, last)), path[-1:]])
    along = np.gradient(line, axis=0)
    along /= np.linalg.norm(along, axis=1, keepdims=True) + 1e-9
    across = along[:, ::-1] * (-1, 1) * np.linspace(start, end, len(line))[:, None]
    angle = np.linspace(np.pi / 2, -np.pi / 2, 9)[1:-1, None]
    tip = line[-1] + np.cos(angle) * along[-1] * end + np.sin(angle) * across[-1]
    return np.concatenate([line + across, tip, (line - across)[::-1]])


def ruffle(outline: Points, amount: float, rng: Rng) -> Points:
    """Return the outline with tufts: points at even distances, each moved at random by about ``amount``."""
    closed = np.concatenate([outline, outline[:1]])
    position = np.cumsum(np.hypot(*np.diff(closed, axis=0, prepend=closed[:1]).T))
    at = np.linspace(0, position[-1], int(np.clip(position[-1] / (2.2 * amount), 24, 160)), endpoint=False)
    even = np.stack([np.interp(at, position, axis) for axis in closed.T], axis=1)
    return np.asarray(even + rng.normal(0, amount * 0.5, even.shape))


def rotate(points: Points, angle: float) -> Points:
    """Return the points turned by ``angle`` radians about (0, 0)."""
    cos, sin = np.cos(angle), np.sin(angle)
    return np.asarray(points @ np.array([[cos, sin], [-sin, cos]]))


def _spline(corners: Sequence[Values]) -> Points:
    """Return a uniform Catmull-Rom spline from the second corner up to the last but one, 8 points a piece."""
    a, b, c, d = (np.array(corners)[k : len(corners) - 3 + k, None] for k in range(4))
    t = np.linspace(0, 1, 8, endpoint=False)[:, None]
    curve = 0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3)
    return np.asarray(curve.reshape(-1, 2))


def _fixed(points: Points) -> npt.NDArray[np.int32]:
    return np.asarray(np.rint(points * 2**_SHIFT), dtype=np.int32)


class TextureBank:
    """Square textures with mean 0 and standard deviation 1, made once a dataset.

    ``grain`` is white noise, ``fur`` short vertical hairs, ``streak`` long horizontal ones (wood, water), ``cloud``
    has detail at every scale, ``cells`` are soft spots about 24 pixels apart.
    """

    def __init__(self, seed: int) -> None:
        rng, square = np.random.default_rng([seed, 0xBA4C]), (TEXTURE_SIDE, TEXTURE_SIDE)
        grain, streak = rng.standard_normal((2, *square), dtype=np.float32)
        coarse = [
            rng.standard_normal((side, side), dtype=np.float32) for side in (TEXTURE_SIDE // 24, 5, 10, 20, 40, 80)
        ]
        cells, *octaves = (cv2.resize(field, square, interpolation=cv2.INTER_CUBIC) for field in coarse)
        fields: dict[str, Field] = {"grain": grain, "fur": cv2.blur(grain, (1, 7)), "streak": cv2.blur(streak, (60, 1))}
        fields |= {"cells": cells, "cloud": np.sum([field / 2**k for k, field in enumerate(octaves)], axis=0)}
        self._fields = {name: (field - field.mean()) / field.std() for name, field in fields.items()}

    def cut(self, texture: str, shape: tuple[int, int], rng: Rng, zoom: float = 1.0) -> Field:
        """Return a window of ``shape`` = (height, width) at a random place, possibly flipped; ``zoom`` > 1 enlarges."""
        height, width = (max(2, round(length / max(zoom, 1.0))) for length in shape)
        top, left = rng.integers(0, (TEXTURE_SIDE - height + 1, TEXTURE_SIDE - width + 1))
        window = self._fields[texture][top : top + height, left : left + width]
        return np.asarray(cv2.resize(window[:: rng.choice((1, -1)), :: rng.choice((1, -1))], shape[::-1]))
