"""Masks as COCO stores them: polygons or run lengths."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np


def polygons(mask: np.ndarray) -> list[list[int]] | None:
    """Traces the outer edges of the pixels of a mask.

    Pixel ``(x, y)`` covers the square from ``(x, y)`` to ``(x + 1, y + 1)``, as in COCO, so that
    filling the polygons gives the mask back exactly.

    Args:
        mask: bool, shape ``(h, w)``, not empty.

    Returns:
        One polygon ``[x0, y0, x1, y1, ...]`` per connected part, or None if the mask has a hole,
        which polygons cannot say.
    """
    # OpenCV runs through pixel centres. At three times the size those lie a third of a pixel
    # inside the edge and round to the corner of the pixel.
    x, y, w, h = cv2.boundingRect(mask.view(np.uint8))
    part = mask[y : y + h, x : x + w].astype(np.uint8)
    large = cv2.resize(part, (3 * w, 3 * h), interpolation=cv2.INTER_NEAREST)
    contours, hierarchy = cv2.findContours(large, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    if (hierarchy[0, :, 3] >= 0).any():
        return None
    corners = (np.round(contour[:, 0] / 3).astype(int) + (x, y) for contour in contours)
    return [points[_changes(points)].ravel().tolist() for points in corners]


def run_lengths(mask: np.ndarray) -> dict[str, Any]:
    """Encodes a mask as COCO's uncompressed run lengths: column by column, zeros first.

    Args:
        mask: bool, shape ``(h, w)``.

    Example:
        >>> run_lengths(np.array([[False, True], [False, True]]))
        {'counts': [2, 2], 'size': [2, 2]}
    """
    flat = np.concatenate([[0], mask.astype(np.int8).ravel(order="F")])
    edges = np.flatnonzero(np.diff(flat))
    counts = np.diff(np.concatenate([[0], edges, [mask.size]]))
    return {"counts": counts.tolist(), "size": list(mask.shape)}


def _changes(points: np.ndarray) -> np.ndarray:
    """Marks the points that differ from the one before."""
    return (points != np.roll(points, 1, axis=0)).any(axis=1)
