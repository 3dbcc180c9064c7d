"""Stands in for `panopticapi`, which COCO panoptic needs in mmdet and no package index has.

Importing this module registers what mmdet uses of it: ids in the colours of a PNG, and the panoptic
quality. Where the real one is installed, it is used and nothing is registered. For published
figures install the real one: pip install git+https://github.com/cocodataset/panopticapi.git

Source: Kirillov et al., "Panoptic Segmentation", CVPR 2019, arXiv 1801.00868.
"""

from __future__ import annotations

import importlib.util
import sys
from collections import defaultdict
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

VOID = 0
OFFSET = 256**3


def rgb2id(color: np.ndarray) -> np.ndarray:
    """Ids (...) of colours (..., 3): R + 256 G + 65536 B."""
    return np.asarray(color).astype(np.int64) @ (1, 256, 256**2)


def id2rgb(ids: np.ndarray) -> np.ndarray:
    """Colours (..., 3), uint8, of ids (...)."""
    ids = np.asarray(ids)
    return np.stack([ids % 256, ids // 256 % 256, ids // 256**2], axis=-1).astype(np.uint8)


@dataclass
class Counts:
    """Matched and unmatched segments of a category, and the summed IoU of the matched."""

    iou: float = 0.0
    tp: int = 0
    fp: int = 0
    fn: int = 0

    def __iadd__(self, other: Counts) -> Counts:
        for name in ("iou", "tp", "fp", "fn"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        return self

    @property
    def quality(self) -> dict[str, float]:
        """Panoptic, segmentation and recognition quality; 0 where there was no segment."""
        weight = self.tp + (self.fp + self.fn) / 2
        sq = self.iou / self.tp if self.tp else 0.0
        rq = self.tp / weight if weight else 0.0
        return {"pq": sq * rq, "sq": sq, "rq": rq}


class PQStat:
    """Counts by category; `pq_average` is over the categories that occur."""

    def __init__(self) -> None:
        self.pq_per_cat: defaultdict[int, Counts] = defaultdict(Counts)

    def __getitem__(self, category: int) -> Counts:
        return self.pq_per_cat[category]

    def __iadd__(self, other: PQStat) -> PQStat:
        for category, counts in other.pq_per_cat.items():
            self[category].__iadd__(counts)
        return self

    def pq_average(
        self, categories: dict[int, dict[str, Any]], isthing: bool | None
    ) -> tuple[dict[str, float], dict[int, dict[str, float]]]:
        """Mean qualities, and those of each category.

        Args:
            categories: by id; with "isthing" in each.
            isthing: things alone, stuff alone (False), or both (None).
        """
        wanted = [
            number
            for number, category in categories.items()
            if isthing is None or bool(category["isthing"]) == isthing
        ]
        each = {number: self[number].quality for number in wanted}
        seen = [n for n in wanted if self[n].tp + self[n].fp + self[n].fn]
        means = {
            name: float(np.mean([each[number][name] for number in seen])) if seen else 0.0
            for name in ("pq", "sq", "rq")
        }
        return {**means, "n": len(seen)}, each


def _register() -> None:
    package = ModuleType("panopticapi")
    package.utils, package.evaluation = (
        ModuleType(f"panopticapi.{name}") for name in ("utils", "evaluation")
    )
    package.utils.rgb2id, package.utils.id2rgb = rgb2id, id2rgb
    package.evaluation.PQStat = PQStat
    package.evaluation.VOID, package.evaluation.OFFSET = VOID, OFFSET
    for module in (package, package.utils, package.evaluation):
        sys.modules[module.__name__] = module


if "panopticapi" not in sys.modules and importlib.util.find_spec("panopticapi") is None:
    _register()
