"""The interface of the three dataset formats, and what they share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from .categories import lookup
from .render import Scene


class Format(ABC):
    """How one dataset lies on disk. Formats compute names and bytes; they write nothing.

    A scene has a fixed tuple of files. What describes the whole set (lists, indices) is derived
    from those files alone, so that it comes out the same however many runs it took to write them.
    """

    @abstractmethod
    def files(self, split: str, index: int) -> tuple[str, ...]:
        """Returns the paths of one scene's files, relative to the root of the set."""

    @abstractmethod
    def encode(self, scene: Scene) -> tuple[bytes, ...]:
        """Returns the contents of the files in the order of `files`."""

    def describe(self, files: Sequence[Path]) -> Any:
        """Reads back from a scene's files what `summarise` needs to know; any small record."""
        return None

    def summarise(self, records: dict[str, list[Any]]) -> dict[str, bytes]:
        """Returns the files on the whole set as path and content, given all records by split."""
        return {}


def number_instances(scene: Scene, dataset: str, things: range) -> np.ndarray:
    """Numbers every object by Cityscapes' rule: ``id`` for stuff, ``1000 * id + n`` for things.

    Args:
        scene: the scene.
        dataset: field of `Category` that holds the ids.
        things: ids whose objects are counted one by one, n from 0 with the farthest first.

    Shape:
        Returns int32 ``(h, w)``.
    """
    numbers, first = np.unique(scene.instance, return_index=True)
    ids = lookup(dataset, np.int32)[scene.category.flat[first]]
    table = np.zeros(numbers[-1] + 1, np.int32)
    seen: Counter[int] = Counter()
    for number, category in zip(numbers, ids.tolist(), strict=True):
        table[number] = 1000 * category + seen[category] if category in things else category
        seen[category] += 1
    return table[scene.instance]


def png(image: np.ndarray) -> bytes:
    """Encodes uint8 RGB ``(h, w, 3)``, or uint8 or uint16 grey ``(h, w)``, as PNG."""
    return cv2.imencode(".png", _swap(image))[1].tobytes()


def jpg(image: np.ndarray) -> bytes:
    """Encodes uint8 RGB ``(h, w, 3)`` as JPEG at quality 95."""
    return cv2.imencode(".jpg", _swap(image), (cv2.IMWRITE_JPEG_QUALITY, 95))[1].tobytes()


def read_png(path: Path) -> np.ndarray:
    """Reads what `png` encoded."""
    return _swap(cv2.imread(str(path), cv2.IMREAD_UNCHANGED))


def _swap(image: np.ndarray) -> np.ndarray:
    """Swaps RGB and OpenCV's BGR; leaves grey images alone."""
    return image[..., ::-1] if image.ndim == 3 else image
