"""Averages over images, pixels and classes."""

from __future__ import annotations

import torch
from torch import Tensor


class Tally:
    """Sums and counts of measures for each class.

    Args:
        measures: their names.
        unit: what the first measure counts, such as ``"pixels"``.
    """

    def __init__(self, measures: tuple[str, ...], unit: str):
        self.measures, self.unit = measures, unit
        self._sums: dict[int, Tensor] = {}  # label -> (2, measures): sums, counts

    def add(self, labels: list[int], sums: Tensor, counts: Tensor) -> None:
        """Adds what was found in an image, two of (classes, measures)."""
        both = torch.stack((sums.cpu().double(), counts.cpu().double()), 1)
        for label, own in zip(labels, both, strict=True):
            self._sums[label] = self._sums.get(label, 0) + own

    def total(self) -> int:
        """Returns what the first measure counted, over all classes."""
        return int(sum(own[1, 0] for own in self._sums.values()))

    def averages(self) -> dict:
        """Averages of every class, the mean of these, and the mean over what was counted."""
        classes = [
            {"label": label, self.unit: int(own[1, 0]), **self._means(own)}
            for label, own in sorted(self._sums.items())
            if own[1, 0]
        ]
        pooled = sum(self._sums.values(), torch.zeros(2, len(self.measures)))
        known = {
            name: [own[name] for own in classes if own[name] is not None] for name in self.measures
        }
        macro = {name: sum(own) / len(own) if own else None for name, own in known.items()}
        return {"pooled": self._means(pooled), "macro": macro, "classes": classes}

    def _means(self, own: Tensor) -> dict[str, float | None]:
        values = zip(self.measures, *own.tolist(), strict=True)
        return {name: value / count if count else None for name, value, count in values}


class Moments:
    """Mean and standard deviation of rows, (count, ...), that come in parts."""

    def __init__(self):
        self.count = 0
        self._sums: Tensor | None = None  # of the rows and of their squares, float64

    def add(self, rows: Tensor) -> None:
        """Adds rows."""
        rows = rows.cpu().double()  # which some devices do not have
        sums = torch.stack((rows.sum(0), rows.square().sum(0)))
        self._sums = sums if self._sums is None else self._sums + sums
        self.count += len(rows)

    def compute(self, shape: tuple[int, ...] = ()) -> dict:
        """Returns ``mean`` and ``std``, nested lists of a shape; None without any row."""
        if not self.count:
            return {"mean": None, "std": None}
        mean, square = self._sums / self.count
        std = (square - mean.square()).clamp(min=0).sqrt()
        return {"mean": mean.reshape(shape).tolist(), "std": std.reshape(shape).tolist()}
