"""Writes scenes as ADE20K's scene parsing benchmark, ``ADEChallengeData2016``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from .categories import lookup
from .formats import Format, jpg, png, read_png
from .render import Scene

_ROOT = "ADEChallengeData2016"
_FOLDERS = {"train": "training", "val": "validation"}
_CLASSES = Path(__file__).with_name("ade20k_classes.txt").read_text("utf-8").splitlines()


class ADE20K(Format):
    """Image as JPEG; annotation as PNG with 0 for unlabelled and the 150 classes from 1."""

    def files(self, split: str, index: int) -> tuple[str, ...]:
        """See `Format.files`."""
        place = f"{_FOLDERS[split]}/{_name(split, index)}"
        return f"{_ROOT}/images/{place}.jpg", f"{_ROOT}/annotations/{place}.png"

    def encode(self, scene: Scene) -> tuple[bytes, ...]:
        """See `Format.encode`."""
        return jpg(scene.image), png(lookup("ade20k")[scene.category])

    def describe(self, files: Sequence[Path]) -> np.ndarray:
        """Returns how many pixels of the scene each index has."""
        return np.bincount(read_png(files[1]).ravel(), minlength=len(_CLASSES) + 1)

    def summarise(self, records: dict[str, list[np.ndarray]]) -> dict[str, bytes]:
        """Returns ``objectInfo150.txt`` and ``sceneCategories.txt``."""
        names = (_name(split, index) for split in records for index in range(len(records[split])))
        scenes = "".join(f"{name} street\n" for name in names)
        objects = "".join("\t".join(row) + "\n" for row in _object_info(records))
        return {
            f"{_ROOT}/objectInfo150.txt": objects.encode(),
            f"{_ROOT}/sceneCategories.txt": scenes.encode(),
        }


def _name(split: str, index: int) -> str:
    return f"ADE_{split}_{index + 1:08d}"


def _object_info(records: dict[str, list[np.ndarray]]) -> Iterator[tuple[str, ...]]:
    """Yields the header, then of every class its share of pixels and its images per split."""
    yield "Idx", "Ratio", "Train", "Val", "Name"
    none = np.zeros((0, len(_CLASSES) + 1), np.int64)
    train, val = (np.vstack([none, *records[split]]) for split in ("train", "val"))
    pixels = train.sum(axis=0) + val.sum(axis=0)
    shares = pixels / max(1, pixels.sum())
    for index, name in enumerate(_CLASSES, start=1):
        images = (np.count_nonzero(split[:, index]) for split in (train, val))
        yield str(index), f"{shares[index]:.4f}", *map(str, images), name
