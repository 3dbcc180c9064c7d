"""UPerNet's decode head with FreqFusion."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from mmengine.registry import MODELS
from mmseg.models.decode_heads import UPerHead
from mmseg.models.utils import resize
from torch import Tensor

from ...layers import FreqFusion
from ...ops._checks import check_positive
from .fusions import fuse_by_sum
from .necks import _Fusions


@MODELS.register_module(force=True)
class FreqFusionUPerHead(UPerHead):
    """mmseg's `UPerHead` with FreqFusion on its top-down path, as in the FPN of the paper.

    The pooling pyramid on the deepest level, the convolutions, and the resizing of all levels to
    the finest in the end are UPerHead's own. Its checkpoints load, and only `alignment.{i}.*`, i
    the level that is fused into, is missing from them.

    Args:
        pool_scales: as in UPerHead.
        fusion_cfg: options of the fusions: `compress_ratio` (8), they compress to
            2 * channels // compress_ratio channels, `feature_resample` (True) and the other
            arguments of `FreqFusion`.
        **kwargs: as in mmseg's `BaseDecodeHead`; `in_channels` and `in_index` finest level first.

    Shape:
        - inputs: the backbone's maps, those of `in_index` (B, in_channels[i], H_i, W_i), none
          larger than the one before it
        - output: (B, num_classes, H_0, W_0)

    Raises:
        ValueError: if levels or options do not fit; see `FreqFusion`.
        TypeError: for an unknown argument.

    Source: FreqFusion (TPAMI 2024, arXiv 2408.12879) in UPerNet (Xiao et al., ECCV 2018).

    Example:
        >>> head = FreqFusionUPerHead(
        ...     in_channels=[16, 32], in_index=[0, 1], channels=32, num_classes=5
        ... )
        >>> head.eval()([torch.rand(2, 16, 12, 16), torch.rand(2, 32, 6, 8)]).shape
        torch.Size([2, 5, 12, 16])
    """

    def __init__(
        self,
        pool_scales: Sequence[int] = (1, 2, 3, 6),
        fusion_cfg: dict | None = None,
        **kwargs: Any,
    ):
        super().__init__(pool_scales, **kwargs)
        self.alignment = _Fusions(self._fusion(**(fusion_cfg or {})) for _ in self.lateral_convs)

    def _fusion(
        self, compress_ratio: int = 8, feature_resample: bool = True, **options: Any
    ) -> FreqFusion:
        check_positive("compress_ratio", compress_ratio)
        return FreqFusion(
            self.channels,
            self.channels,
            compressed_channels=2 * self.channels // compress_ratio,
            feature_resample=feature_resample,
            **options,
        )

    def _forward_feature(self, inputs: Sequence[Tensor]) -> Tensor:
        inputs = self._transform_inputs(inputs)
        fused = self.psp_forward(inputs)
        outs = [fused]
        steps = zip(self.lateral_convs, self.alignment, self.fpn_convs, inputs[:-1], strict=True)
        for lateral_conv, fusion, fpn_conv, x in reversed(list(steps)):
            fused = fuse_by_sum(fusion, lateral_conv(x), fused)
            outs.insert(0, fpn_conv(fused))
        size = outs[0].shape[2:]
        outs[1:] = [
            resize(out, size, mode="bilinear", align_corners=self.align_corners) for out in outs[1:]
        ]
        return self.fpn_bottleneck(torch.cat(outs, dim=1))
