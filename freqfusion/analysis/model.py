"""Measures the feature maps inside of a model while it runs, before and after every fusion."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..layers import FreqFusion
from ..layers.freqfusion import FreqFusionFilters
from ..layers.interpolation import UpsampleAdd
from ..necks import FreqFusionConcat
from ..ops._checks import check_odd
from ..recorder import FeatureRecorder
from ._studies import FilterStudy, MapStudy


class Fusion(NamedTuple):
    """A module of a model that fuses a fine and a coarse map.

    Attributes:
        path: its name in the model.
        module: `FreqFusion` or one of its peers in `freqfusion.layers`.
        concatenates: its two maps are concatenated; else added.
    """

    path: str
    module: nn.Module
    concatenates: bool

    @property
    def places(self) -> dict[str, str]:
        """Names for `FeatureRecorder` of the maps that go in and come out."""
        names = {"fine": f"{self.path}:in[0]", "coarse": f"{self.path}:in[1]"}
        if isinstance(self.module, FreqFusion):
            return {**names, "fine_out": f"{self.path}[1]", "coarse_out": f"{self.path}[2]"}
        return {**names, "fused": self.path}

    def fused(self, maps: dict[str, Tensor]) -> Tensor:
        """Returns the fused map, given those of `places`."""
        if "fused" in maps:
            return maps["fused"]
        fine, coarse = maps["fine_out"], maps["coarse_out"]
        if self.concatenates or fine.shape[1] != coarse.shape[1]:
            return torch.cat((fine, coarse), 1)
        return fine + coarse


def find_fusions(model: nn.Module) -> list[Fusion]:
    """Returns every fusion in a model.

    Example:
        >>> from freqfusion import FreqFusionFPN
        >>> [fusion.path for fusion in find_fusions(FreqFusionFPN([8, 16, 32], 64, num_outs=3))]
        ['alignment.0', 'alignment.1']
    """
    found, concatenating = [], []
    for path, module in model.named_modules():
        if type(module).forward is FreqFusionConcat.forward:
            concatenating.append(f"{path}.".lstrip("."))
        if isinstance(module, (FreqFusion, UpsampleAdd)):
            found.append(Fusion(path, module, path.startswith(tuple(concatenating))))
    return found


class Snapshot(NamedTuple):
    """What a model had inside when it ran last.

    Attributes:
        fusions: for each fusion its maps: ``fine`` and ``coarse``, which went in; ``fused``; and
            of FreqFusion ``fine_out`` and ``coarse_out``, which make it up.
        filters: for each FreqFusion its filters and offsets.
        layers: the other maps.
    """

    fusions: dict[str, dict[str, Tensor]]
    filters: dict[str, FreqFusionFilters]
    layers: dict[str, Tensor]


class ModelAnalysis:
    """Measures the feature maps inside of a model; a context manager around its calls.

    Of each map: `FeatureSimilarity`, where there are labels, and `RadialSpectrum`. Of each
    FreqFusion also the responses of its kernels, and how far its offsets reach in coarse pixels.

    Args:
        model: any module, in evaluation mode.
        layers: names of further maps, see `FeatureRecorder`.
        fusions: measure the maps of every fusion that `find_fusions` finds.
        edge_k, ignore_index: see `feature_similarity`.

    Raises:
        ValueError: if the model has no module of a layer's name, or `edge_k` is even.

    Example:
        >>> from freqfusion import FreqFusionFPN
        >>> neck = FreqFusionFPN([8, 16], 64, num_outs=2).eval()
        >>> with ModelAnalysis(neck, ['[0]']) as analysis:
        ...     _ = neck([torch.randn(1, 8, 16, 16), torch.randn(1, 16, 8, 8)])
        ...     _ = analysis.update(labels=torch.randint(0, 3, (1, 64, 64)))
        >>> found = analysis.compute()
        >>> list(found['layers']), list(found['fusions']['alignment.0']['maps'])
        (['[0]'], ['fine', 'coarse', 'fine_out', 'coarse_out', 'fused'])
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Iterable[str] = (),
        fusions: bool = True,
        edge_k: int = 5,
        ignore_index: int = 255,
    ):
        check_odd("edge_k", edge_k)
        layers = tuple(layers)
        self._fusions = {each.path: each for each in find_fusions(model)} if fusions else {}
        places = [name for each in self._fusions.values() for name in each.places.values()]
        self._recorder = FeatureRecorder(model, [*places, *layers])
        self._options = {"edge_k": edge_k, "ignore_index": ignore_index}
        self._layers = {name: MapStudy(**self._options) for name in layers}
        # filled as fusions run: some models have such that only their training needs
        self._maps: dict[str, dict[str, MapStudy]] = {}
        self._filters: dict[str, FilterStudy] = {}

    def __enter__(self) -> ModelAnalysis:
        self._recorder.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._recorder.__exit__(*error)

    @torch.no_grad()
    def update(
        self, labels: Tensor | None = None, extent: tuple[int, int] | None = None
    ) -> Snapshot:
        """Measures what the model's last call had inside, once.

        Args:
            labels: of the images, (B, H, W), if there are any.
            extent: see `feature_similarity`.

        Raises:
            ValueError: if the call did not run one of the layers.
        """
        features = dict(self._recorder.features)
        self._recorder.clear()
        missing = [name for name in self._layers if name not in features]
        if missing:
            raise ValueError(f"layers: the model did not call {missing[0]!r}")
        snapshot = Snapshot({}, {}, {name: features[name].detach() for name in self._layers})
        for path, fusion in self._fusions.items():
            if all(name in features for name in fusion.places.values()):
                maps = {role: features[name].detach() for role, name in fusion.places.items()}
                snapshot.fusions[path] = {**maps, "fused": fusion.fused(maps)}
                if isinstance(fusion.module, FreqFusion):
                    snapshot.filters[path] = fusion.module.predict(maps["fine"], maps["coarse"])
        self._add(snapshot, labels, extent)
        return snapshot

    def _add(
        self, snapshot: Snapshot, labels: Tensor | None, extent: tuple[int, int] | None
    ) -> None:
        for name, x in snapshot.layers.items():
            self._layers[name].add(x, labels, extent)
        for path, maps in snapshot.fusions.items():
            studies = self._maps.setdefault(path, {})
            for role, x in maps.items():
                if role not in studies:
                    studies[role] = MapStudy(**self._options)
                studies[role].add(x, labels, extent)
        for path, filters in snapshot.filters.items():
            if path not in self._filters:
                self._filters[path] = FilterStudy(self._fusions[path].module, **self._options)
            self._filters[path].add(filters, labels, extent)

    def compute(self) -> dict:
        """Returns the figures of all images so far.

        Returns:
            ``fusions``, finest first: for each path its ``type``, the figures of its ``maps`` by
            role and of its ``filters`` (None for peers of FreqFusion); ``layers``: the figures of
            each map. Those of a map are ``channels``, ``size``, ``similarity`` (None without
            labels) and ``spectrum``; those of filters ``low_pass``, ``high_pass``, ``offsets``.
        """
        fusions = {}
        for path, studies in self._maps.items():
            maps = {role: study.compute() for role, study in studies.items()}
            filters = self._filters[path].compute() if path in self._filters else None
            kind = type(self._fusions[path].module).__name__
            fusions[path] = {"type": kind, "maps": maps, "filters": filters}
        ordered = sorted(
            fusions.items(), key=lambda item: -math.prod(item[1]["maps"]["fine"]["size"])
        )
        layers = {name: study.compute() for name, study in self._layers.items()}
        return {"fusions": dict(ordered), "layers": layers}
