"""Outlines for the made-up dataset: closed curves as arrays of points, shape (n, 2), (x, y) with y pointing down."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Points: TypeAlias = npt.NDArray[np.float64]


def ellipse(x: float, y: float, rx: float, ry: float, *, turn: float = 0.0, n: int = 40) -> Points:
    """Return an ellipse with half axes ``rx`` and ``ry``, turned by ``turn`` radians about its centre."""
    angle = np.linspace(0, 2 * np.pi, n, endpoint=False)
    circle = np.stack([rx * np.cos(angle), ry * np.sin(angle)], axis=1)
    return np.asarray(rotate(circle, turn) + np.array([x, y]))


def blob(*corners: tuple[float, float], steps: int = 8) -> Points:
    """Return a smooth closed curve through the corners (a uniform Catmull-Rom spline)."""
    return _spline(np.roll(np.array(corners, dtype=float), 1, axis=0), len(corners), steps, closed=True)


def limb(*path: tuple[float, float], start: float, end: float, steps: int = 8) -> Points:
    """Return a leg or a tail: a smooth path, ``start`` half wide where it begins and ``end`` where it ends, rounded."""
    corners = np.array(path, dtype=float)
    ends = np.concatenate([2 * corners[:1] - corners[1:2], corners, 2 * corners[-1:] - corners[-2:-1]])
    line = _spline(ends, len(corners) - 1, steps, closed=False)
    along = np.gradient(line, axis=0)
    along /= np.linalg.norm(along, axis=1, keepdims=True) + 1e-9
    across = np.stack([-along[:, 1], along[:, 0]], axis=1) * np.linspace(start, end, len(line))[:, None]
    angle = np.arctan2(along[-1, 1], along[-1, 0]) + np.linspace(np.pi / 2, -np.pi / 2, 9)[1:-1]
    tip = line[-1] + end * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return np.concatenate([line + across, tip, (line - across)[::-1]])


def ruffle(points: Points, amount: float, rng: np.random.Generator) -> Points:
    """Return the outline with tufts: more points, each moved at random by about ``amount``."""
    if amount <= 0:
        return points
    gap = np.linalg.norm(np.diff(points, axis=0, append=points[:1]), axis=1)
    position = np.concatenate([[0], np.cumsum(gap)])
    n = int(np.clip(position[-1] / (2.2 * amount + 1e-6), 24, 160))
    at = np.linspace(0, position[-1], n, endpoint=False)
    closed = np.concatenate([points, points[:1]])
    dense = np.stack([np.interp(at, position, closed[:, k]) for k in (0, 1)], axis=1)
    return np.asarray(dense + rng.normal(0, amount * 0.5, dense.shape))


def rotate(points: Points, angle: float) -> Points:
    """Return the points turned by ``angle`` radians about (0, 0)."""
    cos, sin = np.cos(angle), np.sin(angle)
    turned: Points = points @ np.array([[cos, sin], [-sin, cos]])
    return turned


def _spline(corners: Points, pieces: int, steps: int, *, closed: bool) -> Points:
    """Catmull-Rom: a piece runs from ``corners[i + 1]`` to ``corners[i + 2]``."""
    i = np.arange(pieces)[:, None]
    a, b, c, d = (corners[(i + k) % len(corners)] for k in range(4))
    t = np.linspace(0, 1, steps, endpoint=False)[None, :, None]
    curve = 0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3)
    points: Points = curve.reshape(-1, 2)
    return points if closed else np.concatenate([points, corners[-2:-1]])
