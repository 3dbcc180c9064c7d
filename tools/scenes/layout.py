"""What stands where: the objects of one scene, from the farthest to the nearest."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from . import objects
from .shapes import Box, fill


class Kind(NamedTuple):
    """How often, how deep and how large one kind of object appears.

    Args:
        category: name of its category.
        draw: its silhouette.
        count: fewest and most per scene.
        depth: 0 at the horizon to 1 at the lower edge.
        height: what it would measure at depth 1, in heights of the scene.
        aspect: width over height.
        abstract: share of them that is drawn as an abstract shape instead.
    """

    category: str
    draw: objects.Draw
    count: tuple[int, int]
    depth: tuple[float, float]
    height: tuple[float, float]
    aspect: tuple[float, float]
    abstract: float = 0.0


class Placement(NamedTuple):
    """One object in its place."""

    depth: float
    category: str
    draw: objects.Draw
    box: Box


KINDS = (
    Kind("building", objects.building, (3, 6), (0.03, 0.2), (1.6, 2.6), (0.5, 1.3)),
    Kind("vegetation", objects.crown, (1, 4), (0.08, 0.4), (0.8, 1.3), (0.8, 1.5)),
    Kind("fence", objects.fence, (0, 3), (0.15, 0.6), (0.25, 0.4), (2.5, 6)),
    Kind("person", objects.person, (3, 7), (0.05, 1), (0.5, 0.7), (0.35, 0.5), 0.25),
    Kind("car", objects.car, (2, 5), (0.05, 0.9), (0.3, 0.5), (1.5, 2.4), 0.25),
    Kind("bicycle", objects.bicycle, (1, 3), (0.2, 1), (0.35, 0.5), (1.3, 1.7)),
    Kind("static", objects.abstract, (0, 2), (0.2, 1), (0.1, 0.3), (0.5, 2)),
)


def layout(rng: np.random.Generator, size: tuple[int, int]) -> Iterator[tuple[str, np.ndarray]]:
    """Yields the category and the mask of every object, in the order of painting.

    Args:
        rng: source of every decision.
        size: height and width in pixels.
    """
    yield "sky", np.ones(size, np.uint8)
    horizon = rng.uniform(0.35, 0.5) * size[0]
    yield "road", _ground(rng, size, horizon)
    placements = [*_ground_objects(rng, size, horizon), *_street_furniture(rng, size, horizon)]
    for placement in sorted(placements, key=lambda placement: placement.depth):
        mask = np.zeros(size, np.uint8)
        placement.draw(rng, mask, placement.box)
        yield placement.category, mask


def _ground(rng: np.random.Generator, size: tuple[int, int], horizon: float) -> np.ndarray:
    """Everything below a slightly hilly horizon."""
    height, width = size
    mask = np.zeros(size, np.uint8)
    hills = horizon + rng.normal(0, 0.02, 7) * height
    ridge = np.stack([np.linspace(-1, width + 1, 7), hills], axis=1)
    fill(mask, np.vstack([ridge, [(width + 1, height + 1), (-1, height + 1)]]))
    return mask


def _ground_objects(
    rng: np.random.Generator, size: tuple[int, int], horizon: float
) -> Iterator[Placement]:
    """Everything of `KINDS`, standing on the ground."""
    for kind in KINDS:
        for _ in range(rng.integers(kind.count[0], kind.count[1] + 1)):
            depth = rng.uniform(*kind.depth)
            h = rng.uniform(*kind.height) * _scale(depth) * size[0]
            box = _standing(rng, size, horizon, depth, (h * rng.uniform(*kind.aspect), h))
            draw = objects.abstract if rng.random() < kind.abstract else kind.draw
            yield Placement(depth, kind.category, draw, box)


def _street_furniture(
    rng: np.random.Generator, size: tuple[int, int], horizon: float
) -> Iterator[Placement]:
    """Poles of 1 to 3 pixels (at a height of 128), most with a sign, and wires overhead."""
    unit = size[0] / 128
    for depth in rng.uniform(0.1, 1, rng.integers(2, 6)):
        h = rng.uniform(0.8, 1.3) * _scale(depth) * size[0]
        post = _standing(rng, size, horizon, depth, ((0.8 + 2.4 * depth) * unit, h))
        yield Placement(depth, "pole", objects.pole, post)
        if rng.random() < 0.7:
            w = rng.uniform(0.15, 0.35) * h
            plate = Box(post.x + (post.w - w) / 2, post.y, w, w)
            yield Placement(depth, "traffic sign", objects.sign, plate)
    for depth in rng.uniform(0.1, 0.8, rng.integers(1, 4)):
        strip = Box(-1, rng.uniform(0, 0.25) * size[0], size[1] + 1, (13 + 16 * depth) * unit)
        yield Placement(depth, "pole", objects.wire, strip)


def _scale(depth: float) -> float:
    """Size at a depth relative to size at depth 1; nothing shrinks to a point at the horizon."""
    return (0.1 + depth) / 1.1


def _standing(
    rng: np.random.Generator,
    size: tuple[int, int],
    horizon: float,
    depth: float,
    extent: tuple[float, float],
) -> Box:
    """Places a box of a width and height so that its foot is at `depth`, at times cut off."""
    w, h = extent
    foot = horizon + depth * (size[0] - horizon)
    return Box(rng.uniform(-0.4 * w, size[1] - 0.6 * w), foot - h, w, h)
