"""SegNeXt's fusion: concatenate a pyramid into one map, from the deepest level up."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..layers import FreqFusion
from ..ops._checks import check_positive
from ..ops._geometry import memory_format_of


class FreqFusionConcat(nn.Module):
    """Concatenates a pyramid into one map, fusing each level with those above by `FreqFusion`.

    It begins at the deepest level; the coarse map of every step has the channels of all levels
    below it in the list. With `feature_resample`, the channel groups of the two maps take turns:
    fine group 0, coarse group 0, fine group 1... The defaults are those of the published SegNeXt
    models. State dict keys: `freqfusions.{i}.*`, 0 is the deepest.

    Args:
        in_channels: channels of the maps, finest first, at least two.
        compress_ratio: the fusion of Ch and Cl channels compresses both to
            (Ch + Cl) // compress_ratio.
        feature_resample, feature_resample_group, offset_mode, hamming_window: see `FreqFusion`.
        **fusion: further arguments of `FreqFusion`.

    Attributes:
        out_channels: sum of `in_channels`.

    Shape:
        - feats: maps (B, in_channels[i], H_i, W_i), finest first, none larger than the one before
          it
        - output: (B, out_channels, H_0, W_0)

    Raises:
        ValueError: if `in_channels` or `feats` do not fit; see also `FreqFusion`.

    Source: FreqFusion (TPAMI 2024, arXiv 2408.12879), the SegNeXt models.

    Example:
        >>> fuse = FreqFusionConcat([32, 64, 128])
        >>> fuse([torch.randn(1, c, s, s) for c, s in ((32, 32), (64, 16), (128, 8))]).shape
        torch.Size([1, 224, 32, 32])
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        compress_ratio: int = 4,
        feature_resample: bool = True,
        feature_resample_group: int = 4,
        offset_mode: str = "sim",
        hamming_window: bool = False,
        **fusion,
    ):
        super().__init__()
        if len(in_channels) < 2:
            raise ValueError(f"in_channels must name at least two maps, got {list(in_channels)}")
        check_positive("compress_ratio", compress_ratio)
        check_positive("feature_resample_group", feature_resample_group)
        groups = feature_resample_group if feature_resample else 1
        for channels in in_channels:
            if channels % groups:
                raise ValueError(
                    f"feature_resample_group must divide every one of in_channels, "
                    f"{list(in_channels)}, got {groups}"
                )
        self.groups = groups
        self.out_channels = sum(in_channels)
        self.freqfusions = nn.ModuleList()
        *finer, lr_channels = in_channels
        for hr_channels in reversed(finer):
            layer = FreqFusion(
                hr_channels,
                lr_channels,
                compressed_channels=(hr_channels + lr_channels) // compress_ratio,
                feature_resample=feature_resample,
                feature_resample_group=feature_resample_group,
                offset_mode=offset_mode,
                hamming_window=hamming_window,
                **fusion,
            )
            self.freqfusions.append(layer)
            lr_channels += hr_channels

    def forward(self, feats: Sequence[Tensor]) -> Tensor:
        """Fuses `feats`, finest first, into one map; see the class."""
        if len(feats) != len(self.freqfusions) + 1:
            raise ValueError(f"feats must be {len(self.freqfusions) + 1} maps, got {len(feats)}")
        *finer, fused = feats
        for layer, hr_feat in zip(self.freqfusions, reversed(finer), strict=True):
            _, hr_feat, fused = layer(hr_feat, fused)
            fused = concat_groups(hr_feat, fused, self.groups)
        return fused


def concat_groups(a: Tensor, b: Tensor, groups: int) -> Tensor:
    """Concatenates maps along the channels, their `groups` slices taking turns: a0, b0, a1, b1."""
    grouped = [x.unflatten(1, (groups, x.shape[1] // groups)) for x in (a, b)]
    joined = torch.cat(grouped, 2).flatten(1, 2)
    return joined.contiguous(memory_format=memory_format_of(a))
