"""Fusions as the heads hold them: lists whose keys are `{i}.*`, with their own initialisation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from ...layers import FreqFusion
from ...necks import FreqFusionConcat
from .necks import _Fusions


class ConcatFusions(_Fusions):
    """The fusions of `FreqFusionConcat` as one list, and their cascade as its forward.

    Under the name `freqfusions` in a head it has the keys of the published models.

    Args:
        in_channels, **options: see `FreqFusionConcat`.

    Attributes:
        groups: groups of channels that take turns in the concatenation.
    """

    forward = FreqFusionConcat.forward

    def __init__(self, in_channels: Sequence[int], **options: Any):
        cascade = FreqFusionConcat(in_channels, **options)
        super().__init__(cascade.freqfusions)
        self.groups = cascade.groups

    @property
    def freqfusions(self) -> ConcatFusions:
        """The list that `FreqFusionConcat.forward` goes through."""
        return self


def fuse_by_sum(fusion: FreqFusion, fine: Tensor, coarse: Tensor) -> Tensor:
    """What takes the place of ``fine + resize(coarse)``."""
    _, fine, coarse = fusion(fine, coarse)
    return fine + coarse
