"""Primitive shapes: outlines as point lists, drawn into one-object masks.

A mask is a uint8 image, 1 on the object. Drawing 0 afterwards cuts a hole, through which whatever
is behind shows. Coordinates are pixels as ``(x, y)``, fractions included.
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import ArrayLike

_FRACTION_BITS = 4  # OpenCV draws at 1/16 pixel
_ANGLES = np.linspace(0, 2 * np.pi, 40, endpoint=False)
_CIRCLE = 0.5 + 0.5 * np.stack([np.cos(_ANGLES), np.sin(_ANGLES)], axis=1)


class Box(NamedTuple):
    """An axis-aligned rectangle: left, top, width, height."""

    x: float
    y: float
    w: float
    h: float

    def part(self, x: float, y: float, w: float, h: float) -> Box:
        """Returns the sub-box given in fractions of this one."""
        return Box(self.x + x * self.w, self.y + y * self.h, w * self.w, h * self.h)

    def points(self, fractions: ArrayLike) -> np.ndarray:
        """Returns points ``(n, 2)`` given in fractions of this box."""
        return np.asarray(fractions) * (self.w, self.h) + (self.x, self.y)


def rectangle(box: Box) -> np.ndarray:
    """Returns the outline of the box itself."""
    return box.points([(0, 0), (1, 0), (1, 1), (0, 1)])


def ellipse(box: Box) -> np.ndarray:
    """Returns the outline of the ellipse that touches the box's sides."""
    return box.points(_CIRCLE)


def polygon(rng: np.random.Generator, box: Box) -> np.ndarray:
    """Returns a random outline of 3 to 9 corners in the box, often with dents."""
    corners = rng.integers(3, 10)
    angles = np.sort(rng.uniform(0, 2 * np.pi, corners)) + rng.uniform(0, 0.3)
    radii = rng.uniform(0.3, 0.5, corners)
    return box.points(0.5 + np.stack([radii * np.cos(angles), radii * np.sin(angles)], axis=1))


def fill(mask: np.ndarray, outline: np.ndarray, value: int = 1) -> None:
    """Fills an outline in place."""
    cv2.fillPoly(mask, [_fixed_point(outline)], value, shift=_FRACTION_BITS)


def stroke(mask: np.ndarray, points: np.ndarray, width: float) -> None:
    """Draws an open line in place, `width` pixels wide and at least one."""
    along = np.diff(points, axis=0)
    across = along[:, ::-1] * (1, -1) / (np.linalg.norm(along, axis=1, keepdims=True) + 1e-6)
    offset = across * max(0, round(width) - 1) / 2  # OpenCV adds half a pixel on either side
    start, end = points[:-1], points[1:]
    quads = np.stack([start + offset, end + offset, end - offset, start - offset], axis=1)
    for quad in _fixed_point(quads):
        cv2.fillConvexPoly(mask, quad, 1, shift=_FRACTION_BITS)


def _fixed_point(points: np.ndarray) -> np.ndarray:
    return np.round(points * (1 << _FRACTION_BITS)).astype(np.int32)
