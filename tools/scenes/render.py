"""Renders one scene: image, category of every pixel, object of every pixel."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np

from .categories import INDEX
from .layout import layout
from .textures import TEXTURES

SPLITS = ("train", "val")


class Scene(NamedTuple):
    """One rendered scene.

    Args:
        image: RGB, uint8, shape ``(h, w, 3)``.
        category: index into `CATEGORIES` of every pixel, uint8, shape ``(h, w)``.
        instance: number of the object at every pixel, uint16, shape ``(h, w)``: 1 is the sky, 2
            the road, the others follow from the farthest to the nearest.
    """

    image: np.ndarray
    category: np.ndarray
    instance: np.ndarray


def render(seed: int, split: str, index: int, size: tuple[int, int]) -> Scene:
    """Renders scene `index` of a split; the arguments alone decide every pixel.

    Args:
        seed: seed of the whole set, 0 or more.
        split: ``"train"`` or ``"val"``.
        index: number of the scene in its split, from 0.
        size: height and width in pixels.

    Example:
        >>> scene = render(seed=0, split="train", index=0, size=(128, 256))
        >>> scene.image.shape, scene.category.shape
        ((128, 256, 3), (128, 256))
    """
    rng = np.random.default_rng((seed, SPLITS.index(split), index))
    radiance = np.zeros((3, *size), np.float32)  # planes, so painting runs along rows
    category = np.zeros(size, np.uint8)
    instance = np.zeros(size, np.uint16)
    for number, (name, mask) in enumerate(layout(rng, size), start=1):
        _paint(rng, radiance, name, mask)
        np.copyto(category, INDEX[name], where=mask.view(bool))
        np.copyto(instance, number, where=mask.view(bool))
    return Scene(_expose(rng, radiance), category, instance)


def _paint(rng: np.random.Generator, radiance: np.ndarray, name: str, mask: np.ndarray) -> None:
    """Paints one object in place: base colour, texture, a gradient across it."""
    x, y, w, h = cv2.boundingRect(mask)
    if w == 0:
        return  # nothing of it lies inside the picture
    texture = TEXTURES[name](rng, (h, w)) * np.float32(rng.uniform(10, 26))
    slope_y, slope_x = rng.normal(0, 12, 2).astype(np.float32)
    down, right = np.linspace(-1, 1, h, dtype=np.float32), np.linspace(-1, 1, w, dtype=np.float32)
    shade = slope_y * down[:, None] + slope_x * right
    window = np.s_[y : y + h, x : x + w]
    for plane, base, tint in zip(radiance, *_colours(rng), strict=True):
        np.copyto(plane[window], base + shade + tint * texture, where=mask[window].view(bool))


def _colours(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draws the base colour of an object and the direction its texture moves the colour in.

    The distribution is the same for every category, so colour tells nothing about the category.
    """
    base = rng.uniform(65, 185) + rng.normal(0, 18, 3)
    tint = 1 + rng.normal(0, 0.25, 3)
    return base.astype(np.float32), tint.astype(np.float32)


def _expose(rng: np.random.Generator, radiance: np.ndarray) -> np.ndarray:
    """Lights the scene unevenly, blurs it as a lens does and adds sensor noise."""
    height, width = radiance.shape[1:]
    coarse = rng.uniform(0.75, 1.25, (3, 4)).astype(np.float32)
    light = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    sigma, noise = rng.uniform(0.45, 0.65), np.float32(rng.uniform(2, 6))
    image = cv2.GaussianBlur(cv2.merge(list(radiance * light)), (0, 0), sigma)
    image += noise * rng.standard_normal(image.shape, dtype=np.float32)
    return cv2.convertScaleAbs(np.maximum(image, 0))
