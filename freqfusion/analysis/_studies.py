"""What is measured of one map, and of the filters of one fusion, over many images."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from ..layers import FreqFusion
from ..layers.freqfusion import FreqFusionFilters
from ._tally import Moments
from .similarity import FeatureSimilarity, boundary_band
from .spectra import KernelResponse, RadialSpectrum


class MapStudy:
    """Similarity, where there are labels, and spectrum of a map.

    Args:
        edge_k, ignore_index: see `feature_similarity`.
    """

    def __init__(self, edge_k: int, ignore_index: int):
        self._similarity = FeatureSimilarity(edge_k, ignore_index)
        self._spectrum = RadialSpectrum()
        self._shape: list[int] = []

    def add(self, x: Tensor, labels: Tensor | None, extent: tuple[int, int] | None) -> None:
        """Adds the maps (B, C, h, w) of a call; see `ModelAnalysis.update`."""
        self._spectrum.update(x)
        self._shape = list(x.shape[1:])
        if labels is not None:
            self._similarity.update(x, labels, extent)

    def compute(self) -> dict:
        """Returns ``channels`` and ``size`` of the last map, ``similarity`` and ``spectrum``."""
        return {
            "channels": self._shape[0],
            "size": self._shape[1:],
            "similarity": self._similarity.compute() if self._similarity.images else None,
            "spectrum": self._spectrum.compute(),
        }


class FilterStudy:
    """Responses of the kernels of a FreqFusion, and lengths of its offsets.

    Args:
        layer: the layer.
        edge_k, ignore_index: see `feature_similarity`.
    """

    def __init__(self, layer: FreqFusion, edge_k: int, ignore_index: int):
        self._options = (edge_k, ignore_index)
        self._low_pass = KernelResponse(layer.lowpass_kernel)
        self._high_pass = KernelResponse(layer.highpass_kernel, high_pass=True)
        self._lengths = {name: Moments() for name in ("all", "boundary", "elsewhere")}

    def add(
        self, filters: FreqFusionFilters, labels: Tensor | None, extent: tuple[int, int] | None
    ) -> None:
        """Adds the filters of a call; see `ModelAnalysis.update`."""
        self._low_pass.update(filters.low_pass)
        if filters.high_pass is not None:
            self._high_pass.update(filters.high_pass)
        if filters.offset is not None:
            lengths = filters.offset.float().unflatten(1, (2, -1)).norm(dim=1)  # of each group
            self._lengths["all"].add(lengths.flatten())
            if labels is not None:
                self._split(lengths.mean(1, keepdim=True), labels, extent)

    def _split(self, lengths: Tensor, labels: Tensor, extent: tuple[int, int] | None) -> None:
        """Adds lengths (B, 1, H, W) in the boundary band and elsewhere."""
        height, width = labels.shape[1:]
        lengths = F.interpolate(lengths, extent or (height, width), mode="bilinear")
        ignore_index = self._options[1]
        for length, own in zip(lengths[:, 0, :height, :width], labels, strict=True):
            band = boundary_band(own, *self._options)
            self._lengths["boundary"].add(length[band])
            self._lengths["elsewhere"].add(length[~band & (own != ignore_index)])

    def compute(self) -> dict:
        """Returns ``low_pass``, ``high_pass`` and ``offsets``; None for what the layer has not."""
        offsets = {name: moments.compute() for name, moments in self._lengths.items()}
        return {
            "low_pass": self._low_pass.compute(),
            "high_pass": self._high_pass.compute() if self._high_pass.kernels else None,
            "offsets": offsets if self._lengths["all"].count else None,
        }
