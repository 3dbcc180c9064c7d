"""Silhouettes of the objects: each function draws one object into an empty mask."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .shapes import Box, ellipse, fill, polygon, rectangle, stroke

Draw = Callable[[np.random.Generator, np.ndarray, Box], None]


def building(rng: np.random.Generator, mask: np.ndarray, box: Box) -> None:
    """A block with a flat, pitched or stepped roof, at times with a gateway through it."""
    left, right = rng.choice((0, 0.08, 0.2), 2)
    ridge = rng.uniform(0.2, 0.8)
    fill(mask, box.points([(0, left), (ridge, 0), (1, right), (1, 1), (0, 1)]))
    if rng.random() < 0.3:
        arch = box.part(rng.uniform(0.15, 0.5), 0.45, rng.uniform(0.2, 0.35), 0.6)
        fill(mask, ellipse(arch.part(0, 0, 1, 0.8)), 0)
        fill(mask, rectangle(arch.part(0, 0.4, 1, 0.4)), 0)


def crown(rng: np.random.Generator, mask: np.ndarray, box: Box) -> None:
    """A cloud of ellipses with gaps between the leaves, on a trunk."""
    fill(mask, rectangle(box.part(0.45, 0.5, 0.1, 0.5)))
    leaves = box.part(0, 0, 1, 0.75)
    for _ in range(rng.integers(6, 12)):
        _scatter(rng, mask, leaves, low=0.3, high=0.5, value=1)
    for _ in range(rng.integers(2, 7)):
        _scatter(rng, mask, leaves.part(0.1, 0.1, 0.8, 0.8), low=0.06, high=0.14, value=0)


def fence(rng: np.random.Generator, mask: np.ndarray, box: Box) -> None:
    """Thin pickets and two or three rails."""
    width = box.h / 16
    for x in np.arange(0, box.w, max(3, box.h / rng.uniform(3, 6))) / box.w:
        stroke(mask, box.points([(x, 0), (x, 1)]), width)
    for y in np.linspace(0.15, 0.85, rng.integers(2, 4)):
        stroke(mask, box.points([(0, y), (1, y)]), width)


def pole(rng: np.random.Generator, mask: np.ndarray, box: Box) -> None:
    """A post of the box's width, slightly tilted, at times with an arm."""
    lean = rng.normal(0, 0.6)
    stroke(mask, box.points([(0.5 + lean, 0), (0.5, 1)]), box.w)
    if rng.random() < 0.4:
        reach = rng.choice((-1, 1)) * rng.uniform(0.15, 0.3) * box.h
        tip = (box.x + box.w / 2 + lean * box.w + reach, box.y + 0.04 * box.h)
        stroke(mask, np.vstack([box.points([(0.5 + lean, 0.01)]), tip]), 0.7 * box.w)


def wire(rng: np.random.Generator, mask: np.ndarray, box: Box) -> None:
    """A cable sagging across the box, a sixteenth of it thick."""
    x = np.linspace(0, 1, 24)
    start, end, sag = rng.uniform(0, 0.7), rng.uniform(0, 0.7), rng.uniform(0.1, 0.6)
    y = start + (end - start) * x + sag * 4 * x * (1 - x)
    stroke(mask, box.points(np.stack([x, y], axis=1)), box.h / 16)


def sign(rng: np.random.Generator, mask: np.ndarray, box: Box) -> None:
    """A disc, triangle, lozenge or plate; every third one is an open frame."""
    triangle = box.points([(0.5, 0), (1, 1), (0, 1)])
    lozenge = box.points([(0.5, 0), (1, 0.5), (0.5, 1), (0, 0.5)])
    outlines = (ellipse(box), triangle, lozenge, rectangle(box.part(0, 0.15, 1, 0.7)))
    outline = outlines[rng.integers(len(outlines))]
    fill(mask, outline)
    if rng.random() < 0.33:
        _hollow(mask, outline, 0.55)


def person(rng: np.random.Generator, mask: np.ndarray, box: Box) -> None:
    """A head, a torso, two arms and two legs with a gap between them."""
    stride, swing = rng.uniform(0.1, 0.4), rng.uniform(0.1, 0.45)
    fill(mask, ellipse(box.part(0.33, 0, 0.34, 0.18)))
    fill(mask, ellipse(box.part(0.2, 0.14, 0.6, 0.5)))
    for side in (-1, 1):
        leg = box.points([(0.5 + 0.13 * side, 0.5), (0.5 + (0.1 + stride) * side, 1)])
        arm = box.points([(0.5 + 0.2 * side, 0.25), (0.5 + (0.15 + swing) * side, 0.55)])
        stroke(mask, leg, 0.22 * box.w)
        stroke(mask, arm, 0.14 * box.w)


def car(rng: np.random.Generator, mask: np.ndarray, box: Box) -> None:
    """A body on wheels; its cabin has windows one can see through."""
    front, back = rng.uniform(0.1, 0.3), rng.uniform(0.7, 0.95)
    cabin = box.points([(front, 0.45), (front + 0.12, 0), (back - 0.08, 0), (back, 0.45)])
    fill(mask, cabin)
    fill(mask, box.points([(0, 0.5), (0.08, 0.38), (0.95, 0.38), (1, 0.55), (1, 0.85), (0, 0.85)]))
    for x in (0.12, 0.7):
        fill(mask, ellipse(box.part(x, 0.65, 0.17, 0.35)))
    middle = rng.uniform(0.45, 0.6)
    for left, right in ((front + 0.14, middle - 0.03), (middle + 0.03, back - 0.1)):
        fill(mask, rectangle(box.part(left, 0.09, right - left, 0.24)), 0)


def bicycle(rng: np.random.Generator, mask: np.ndarray, box: Box) -> None:
    """Two rings and a frame of thin tubes."""
    width, lean = box.h / 14, rng.uniform(-0.03, 0.03)
    for x in (0, 0.6):
        wheel = ellipse(box.part(x, 0.36, 0.4, 0.64))
        stroke(mask, np.vstack([wheel, wheel[:1]]), 1.3 * width)
    stroke(
        mask, box.points([(0.2, 0.68), (0.34, 0.3), (0.7, 0.3), (0.46, 0.7), (0.2, 0.68)]), width
    )
    stroke(mask, box.points([(0.46, 0.7), (0.32 + lean, 0.15), (0.4, 0.15)]), width)
    stroke(mask, box.points([(0.8, 0.68), (0.68, 0.08), (0.58 + lean, 0.05)]), width)


def abstract(rng: np.random.Generator, mask: np.ndarray, box: Box) -> None:
    """An ellipse, box or polygon that any category may take; half of them are rings."""
    outlines = (ellipse(box), rectangle(box), polygon(rng, box))
    outline = outlines[rng.integers(len(outlines))]
    fill(mask, outline)
    if rng.random() < 0.5:
        _hollow(mask, outline, rng.uniform(0.35, 0.6))


def _scatter(
    rng: np.random.Generator, mask: np.ndarray, box: Box, low: float, high: float, value: int
) -> None:
    """Draws one ellipse of `low` to `high` of the box at a random place in it."""
    w, h = rng.uniform(low, high, 2)
    x, y = rng.uniform(0, 1 - w), rng.uniform(0, 1 - h)
    fill(mask, ellipse(box.part(x, y, w, h)), value)


def _hollow(mask: np.ndarray, outline: np.ndarray, inner: float) -> None:
    """Cuts the outline, shrunk to `inner` of its size, out of the mask."""
    centre = outline.mean(axis=0)
    fill(mask, centre + inner * (outline - centre), 0)
