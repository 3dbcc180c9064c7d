"""Mask2Former's pixel decoder with FreqFusion."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from mmdet.models.layers import MSDeformAttnPixelDecoder
from mmengine.registry import MODELS
from torch import Tensor

from ...layers import FreqFusion
from .fusions import fuse_by_sum
from .necks import _Fusions

PUBLISHED = {
    "compressed_channels": 64,
    "feature_resample": True,
    "feature_resample_norm": False,
    "hamming_window": False,
}


@MODELS.register_module(force=True)
class FreqFusionPixelDecoder(MSDeformAttnPixelDecoder):
    """mmdet's `MSDeformAttnPixelDecoder` with FreqFusion, as in the published Mask2Former models.

    Before the deformable encoder, every projected map but the coarsest is fused with the one above
    it, from the top down. After it, its finest map is fused into the lateral of the next finer
    level, in place of the bilinear upsampling there. Checkpoints of Mask2Former load, and only
    `freqfusions.{i}.*`, 0 is the fusion into the second coarsest map, is missing from them.

    Args:
        fusion_cfg: arguments of `FreqFusion`; by default those of the published models:
            ``dict(compressed_channels=64, feature_resample=True, feature_resample_norm=False,
            hamming_window=False)``.
        *args, **kwargs: as in MSDeformAttnPixelDecoder; `in_channels` finest level first.

    Shape:
        - feats: maps (B, in_channels[i], H_i, W_i), none larger than the one before it
        - output: the map for the masks, (B, out_channels, H_0, W_0), and `num_outs` maps
          (B, feat_channels, H_i, W_i), coarsest first

    Raises:
        ValueError: if levels or options do not fit; see `FreqFusion`.
        TypeError: for an unknown argument.

    Source: FreqFusion (TPAMI 2024, arXiv 2408.12879) in Mask2Former (Cheng et al., CVPR 2022).

    Example:
        In a config of Mask2Former, mmdet's or mmseg's, nothing but the type changes, and has no
        ``mmdet.`` in front: ``pixel_decoder=dict(type='FreqFusionPixelDecoder', num_outs=3, ...)``
    """

    def __init__(self, *args: Any, fusion_cfg: dict | None = None, **kwargs: Any):
        super().__init__(*args, **kwargs)
        channels = self.mask_feature.in_channels
        options = {**PUBLISHED, **(fusion_cfg or {})}
        self.freqfusions = _Fusions(
            FreqFusion(channels, channels, **options) for _ in range(self.num_input_levels - 1)
        )

    def init_weights(self) -> None:
        """Initialises mmdet's parameters as mmdet does, and the fusions as published."""
        super().init_weights()
        self.freqfusions.init_weights()

    def forward(self, feats: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Turns the backbone's maps, finest first, into those of the decoder; see the class."""
        coarsest_first = list(reversed(feats))
        outs = self._encode(self._project(coarsest_first[: self.num_encoder_levels]))
        finer = coarsest_first[self.num_encoder_levels :]
        fusions = self.freqfusions[self.num_encoder_levels - 1 :]
        steps = zip(self.lateral_convs, fusions, self.output_convs, finer, strict=True)
        for lateral_conv, fusion, output_conv, x in steps:
            outs.append(output_conv(fuse_by_sum(fusion, lateral_conv(x), outs[-1])))
        return self.mask_feature(outs[-1]), outs[: self.num_outs]

    def _project(self, feats: Sequence[Tensor]) -> list[Tensor]:
        """Projects and fuses maps, coarsest first."""
        coarsest, *finer = (conv(x) for conv, x in zip(self.input_convs, feats, strict=True))
        maps = [coarsest]
        for fusion, x in zip(self.freqfusions, finer, strict=False):
            maps.append(fuse_by_sum(fusion, x, maps[-1]))
        return maps

    def _encode(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Runs mmdet's deformable encoder over maps of (B, feat_channels, H_i, W_i)."""
        batch, device = len(maps[0]), maps[0].device
        sizes = [tuple(x.shape[2:]) for x in maps]
        areas = [height * width for height, width in sizes]
        starts = [sum(areas[:i]) for i in range(len(areas))]
        points = torch.cat([self._grid(i, *size, device) for i, size in enumerate(sizes)])
        memory = self.encoder(
            query=torch.cat([_tokens(x) for x in maps], dim=1),
            query_pos=torch.cat([_tokens(self._position(i, x)) for i, x in enumerate(maps)], dim=1),
            key_padding_mask=torch.zeros(batch, sum(areas), dtype=torch.bool, device=device),
            spatial_shapes=torch.tensor(sizes, device=device),
            reference_points=points[None, :, None].repeat(batch, 1, len(maps), 1),
            level_start_index=torch.tensor(starts, device=device),
            valid_ratios=points.new_ones(batch, len(maps), 2),
        )
        outs = memory.transpose(1, 2).split(areas, dim=2)
        return [out.unflatten(2, size) for out, size in zip(outs, sizes, strict=True)]

    def _position(self, level: int, x: Tensor) -> Tensor:
        no_padding = x.new_zeros(len(x), *x.shape[2:], dtype=torch.bool)
        level_encoding = self.level_encoding.weight[level].view(1, -1, 1, 1)
        return self.postional_encoding(no_padding) + level_encoding  # mmdet spells it so

    def _grid(self, level: int, height: int, width: int, device: torch.device) -> Tensor:
        """Centres of a map's pixels, x and y in 0..1: (height * width, 2)."""
        index = self.num_input_levels - 1 - level
        points = self.point_generator.single_level_grid_priors(
            (height, width), index, device=device
        )
        return points / (points.new_tensor((width, height)) * self.strides[index])


def _tokens(x: Tensor) -> Tensor:
    return x.flatten(2).transpose(1, 2)
