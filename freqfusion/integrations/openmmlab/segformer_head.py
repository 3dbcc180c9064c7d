"""SegFormer's decode head with FreqFusion."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from mmengine.registry import MODELS
from mmseg.models.decode_heads import SegformerHead
from torch import Tensor

from .fusions import ConcatFusions


@MODELS.register_module(force=True)
class FreqFusionSegformerHead(SegformerHead):
    """mmseg's `SegformerHead` with FreqFusion for its resizing.

    Where the fusions act is this package's choice; no such model is published. After the 1x1
    convolutions, each level is fused with the concatenation of those below it, from the deepest up,
    as in SegNeXt. The result's channels are put into the order of SegformerHead, finest level
    first, so that its checkpoints mean the same here. State dict keys: `freqfusions.{i}.*`, 0 is
    the deepest; all others as in SegformerHead.

    Args:
        interpolate_mode: accepted because inherited configs may have it, and not used: the fusions
            do the upsampling.
        fusion_cfg: options of `FreqFusionConcat`; by default those of the published SegNeXt models.
        **kwargs: as in mmseg's `BaseDecodeHead`; `in_channels` and `in_index` finest level first.

    Shape:
        - inputs: the backbone's maps, those of `in_index` (B, in_channels[i], H_i, W_i), none
          larger than the one before it
        - output: (B, num_classes, H_0, W_0)

    Raises:
        ValueError: if levels or options do not fit; see `FreqFusionConcat`.
        TypeError: for an unknown argument.

    Source: FreqFusion (TPAMI 2024, arXiv 2408.12879) in SegFormer (Xie et al., NeurIPS 2021).

    Example:
        >>> head = FreqFusionSegformerHead(
        ...     in_channels=[16, 32], in_index=[0, 1], channels=32, num_classes=5
        ... )
        >>> head.eval()([torch.rand(2, 16, 12, 16), torch.rand(2, 32, 6, 8)]).shape
        torch.Size([2, 5, 12, 16])
    """

    def __init__(
        self, interpolate_mode: str = "bilinear", fusion_cfg: dict | None = None, **kwargs: Any
    ):
        super().__init__(interpolate_mode, **kwargs)
        channels = [self.channels] * len(self.in_channels)
        self.freqfusions = ConcatFusions(channels, **(fusion_cfg or {}))

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """Turns the backbone's maps into logits; see the class."""
        inputs = self._transform_inputs(inputs)
        levels = [conv(x) for conv, x in zip(self.convs, inputs, strict=True)]
        fused = group_by_level(self.freqfusions(levels), len(levels), self.freqfusions.groups)
        return self.cls_seg(self.fusion_conv(fused))


def group_by_level(x: Tensor, levels: int, groups: int) -> Tensor:
    """Undoes the taking turns of channel groups, for levels of equal width.

    Args:
        x: channels are group 0 of every level, then group 1 of every level and so on.
        levels: number of levels.
        groups: number of groups of each level.
    """
    if groups == 1:
        return x
    parts = x.split(x.shape[1] // (levels * groups), dim=1)
    return torch.cat([part for level in range(levels) for part in parts[level::levels]], dim=1)
