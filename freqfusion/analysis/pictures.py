"""Pictures of feature maps and offsets; matplotlib is imported when something is drawn."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..ops import local_similarity

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TAILS = 0.02  # share of the values at either end that a scale of colours cuts off


def pca_colours(maps: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    """Colours feature maps by their principal components: alike vectors, alike colours.

    Maps with equally many channels share components and scale, so that their colours compare.
    Vectors have unit length first, as in a cosine, and the mean of their map is taken away; the
    first three components are red, green and blue.

    Args:
        maps: maps (C, h, w), of any sizes, by name.

    Returns:
        By name: (h, w, 3), uint8.

    Example:
        >>> maps = {"fine": torch.randn(8, 6, 6), "coarse": torch.randn(8, 3, 3)}
        >>> {name: picture.shape for name, picture in pca_colours(maps).items()}
        {'fine': (6, 6, 3), 'coarse': (3, 3, 3)}
    """
    pictures = {}
    for channels in {x.shape[0] for x in maps.values()}:
        alike = {name: x for name, x in maps.items() if x.shape[0] == channels}
        vectors = [F.normalize(x.cpu().double().flatten(1).T, dim=1) for x in alike.values()]
        vectors = [x - x.mean(0) for x in vectors]
        covariance = sum(x.T @ x / len(x) for x in vectors)
        axes = torch.linalg.eigh(covariance).eigenvectors[:, -3:].flip(1)
        axes = axes * axes.gather(0, axes.abs().argmax(0, keepdim=True)).sign()  # else arbitrary
        values = [(x @ axes).numpy() for x in vectors]
        low, high = np.quantile(np.concatenate(values), (TAILS, 1 - TAILS), axis=0)
        for (name, x), own in zip(alike.items(), values, strict=True):
            scaled = ((own - low) / np.maximum(high - low, 1e-12)).clip(0, 1)
            rgb = np.full((len(own), 3), 0.5)
            rgb[:, : scaled.shape[1]] = scaled
            pictures[name] = (255 * rgb).round().astype(np.uint8).reshape(*x.shape[1:], 3)
    return {name: pictures[name] for name in maps}


def similarity_to(features: Tensor, position: tuple[float, float]) -> np.ndarray:
    """Cosine of every vector of a map with that at one position.

    Args:
        features: the map, (C, h, w).
        position: row and column as shares of height and width, 0 to 1.

    Returns:
        (h, w), -1 to 1.

    Example:
        >>> similarity_to(torch.tensor([[[1.0, 2.0, -1.0]]]), (0.5, 0.0))
        array([[ 1.,  1., -1.]], dtype=float32)
    """
    unit = F.normalize(features.float(), dim=0)
    row, col = (min(int(p * n), n - 1) for p, n in zip(position, features.shape[1:], strict=True))
    return torch.einsum("chw,c->hw", unit, unit[:, row, col]).cpu().numpy()


def similarity_to_neighbours(features: Tensor, dilation: int = 1) -> np.ndarray:
    """Mean cosine of every vector of a map with its neighbours, those that are in the map.

    Args:
        features: the map, (C, h, w).
        dilation: distance to the eight neighbours in pixels of the map.

    Returns:
        (h, w), -1 to 1; 1 in a map of one pixel.

    Example:
        >>> similarity_to_neighbours(torch.ones(4, 2, 2)).tolist()
        [[1.0, 1.0], [1.0, 1.0]]
    """
    x = features[None].float()
    near = local_similarity(x, dilation).sum(1)
    count = local_similarity(torch.ones_like(x[:, :1]), dilation).sum(1).round()
    return torch.where(count > 0, near / count.clamp(min=1), 1.0)[0].cpu().numpy()


def telling_pixel(labels: np.ndarray, ignore_index: int = 255) -> tuple[float, float]:
    """A pixel inside of a small object: the deepest of the rarest class that has any depth.

    Args:
        labels: integers, (H, W).
        ignore_index: label that is no class.

    Returns:
        Row and column of its centre as shares of height and width; the image's without any class.

    Example:
        >>> labels = np.zeros((5, 10), int)
        >>> labels[1:4, 6:9] = 1
        >>> telling_pixel(labels)
        (0.5, 0.75)
    """
    classes, counts = np.unique(labels[labels != ignore_index], return_counts=True)
    deepest = None
    for label in classes[np.argsort(counts)]:
        deepest, depth = _deepest(labels == label)
        if depth > 0:
            break
    if deepest is None:
        return 0.5, 0.5
    pixels = np.argwhere(deepest)
    row, col = (pixels[len(pixels) // 2] + 0.5) / labels.shape
    return row.item(), col.item()


def _deepest(mask: np.ndarray) -> tuple[np.ndarray, int]:
    """What is left of a mask after all erosions that leave something, and how many they are."""
    depth, eroded = -1, torch.from_numpy(mask)[None, None].float()
    while eroded.any():
        depth, left = depth + 1, eroded
        eroded = -F.max_pool2d(-F.pad(left, [1] * 4), 3, 1)
    return left[0, 0].numpy() > 0, depth


def false_colours(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Colours values on a scale from dark to light.

    Args:
        values: (h, w).
        low: value at the dark end; those below are cut off.
        high: value at the light end.

    Returns:
        (h, w, 3), uint8.

    Example:
        >>> false_colours(np.array([[0.0, 1.0]]), 0, 1).tolist()
        [[[0, 0, 3], [251, 252, 191]]]
    """
    from matplotlib import colormaps

    scaled = (values - low) / max(high - low, 1e-12)
    return colormaps["magma"](scaled, bytes=True)[..., :3]


def draw_offsets(
    image: np.ndarray, offset: Tensor, unit: tuple[int, int], arrows: int = 48
) -> Figure:
    """Draws an offset field over its picture: arrows go from pixels to where the map is sampled.

    Args:
        image: the picture, (H, W, 3), uint8.
        offset: (2 * groups, h, w), x of every group, then y; arrows are the mean over the groups.
        unit: rows and columns of the coarse map, whose pixels are the units of `offset`.
        arrows: most arrows in a row; there is no more than one for a coarse pixel.

    Returns:
        The figure; arrows have their true length.

    Example:
        >>> figure = draw_offsets(np.zeros((64, 128, 3), np.uint8), torch.rand(8, 16, 32), (8, 16))
        >>> figure.axes[0].collections[0].N  # one arrow for each coarse pixel
        128
    """
    from matplotlib.figure import Figure

    height, width = image.shape[:2]
    cols = min(arrows, unit[1])
    rows = max(1, round(cols * height / width))
    y, x = ((np.arange(n) + 0.5) / n for n in (rows, cols))  # shares of the picture
    field = offset.float().unflatten(0, (2, -1)).mean(1).cpu().numpy()  # (xy, h, w)
    at = [(p * n).astype(int) for p, n in zip((y, x), field.shape[1:], strict=True)]
    dx, dy = field[:, at[0][:, None], at[1]]
    figure = Figure(figsize=(8, 8 * height / width), dpi=120)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.imshow(_pale(image), extent=(0, width, height, 0), interpolation="bilinear")
    axes.quiver(
        x * width,
        y * height,
        dx * (width / unit[1]),
        dy * (height / unit[0]),
        np.hypot(dx, dy),
        angles="xy",
        scale_units="xy",
        scale=1,
        width=0.0016,
        headwidth=4,
        cmap="plasma",
        clim=(0, max(np.hypot(dx, dy).max().item(), 1e-6)),
    )
    axes.set_axis_off()
    return figure


def _pale(image: np.ndarray) -> np.ndarray:
    """An image in light grey, for something to be drawn on it."""
    grey = image.mean(axis=-1, keepdims=True).repeat(3, -1)
    return (grey * 0.45 + 140).astype(np.uint8)
