"""DySample: upsampling by bilinear samples at positions that are predicted from the coarse map."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..ops._checks import check_choice, check_positive
from ..ops._geometry import memory_format_of
from .filters import nearest_resize
from .interpolation import UpsampleAdd
from .offsets import sub_pixels

STYLES = ("lp", "pl")


class DySample(UpsampleAdd):
    """Upsamples the coarse map by sampling it at learned positions and adds.

    Every fine pixel samples the coarse map bilinearly at its own centre moved by an offset, which
    is measured in coarse pixels; coordinates are float32 at least, and border pixels repeat
    outwards.

    Args:
        channels: see `UpsampleAdd`.
        style: "lp": predict the offsets of the 2 x 2 sub-pixels from a coarse pixel; "pl" (the
            small variant, DySample-S): rearrange the coarse map to channels // 4 channels of twice
            the size first, and predict from those.
        groups: channel groups with offsets of their own.
        dynamic_scope: scale offsets by a predicted factor of 0 to 0.5 (DySample+), else by 0.25.

    Shape, Raises:
        as `UpsampleAdd`

    Source: Liu et al., "Learning to Upsample by Learning to Sample", ICCV 2023, arXiv 2308.15085.

    Example:
        >>> fuse = DySample(64, style="pl", dynamic_scope=True)
        >>> fuse(torch.randn(1, 64, 32, 32), torch.randn(1, 64, 16, 16)).shape
        torch.Size([1, 64, 32, 32])
    """

    def __init__(
        self, channels: int, style: str = "lp", groups: int = 4, dynamic_scope: bool = False
    ):
        super().__init__(channels)
        check_choice("style", style, STYLES)
        check_positive("groups", groups)
        if channels % groups:
            raise ValueError(f"groups must divide channels = {channels}, got {groups}")
        if style == "pl" and channels % 4:
            raise ValueError(f"channels must be divisible by 4 for style 'pl', got {channels}")
        self.style, self.groups, self.dynamic_scope = style, groups, dynamic_scope
        shape = (channels, 8 * groups) if style == "lp" else (channels // 4, 2 * groups)
        self.offset = nn.Conv2d(*shape, 1)
        if dynamic_scope:
            self.scope = nn.Conv2d(*shape, 1, bias=False)
        self.reset_parameters()

    def reset_parameters(self):
        """Offsets near zero; the dynamic scope starts at the static 0.25."""
        nn.init.normal_(self.offset.weight, std=0.001)
        nn.init.zeros_(self.offset.bias)
        if self.dynamic_scope:
            nn.init.zeros_(self.scope.weight)

    def upsample(self, hr_feat: Tensor, lr_feat: Tensor) -> Tensor:
        """See the class; `hr_feat` gives the size alone."""
        return sample_coarse(lr_feat, nearest_resize(self.predict(lr_feat), hr_feat.shape[2:]))

    def predict(self, lr_feat: Tensor) -> Tensor:
        """Offsets (B, 2 * groups, 2h, 2w) in coarse pixels: x of all groups, then y."""
        x = sub_pixels(lr_feat) if self.style == "pl" else lr_feat
        scope = 0.5 * self.scope(x).sigmoid() if self.dynamic_scope else 0.25
        offset = self.offset(x) * scope
        return offset if self.style == "pl" else sub_pixels(offset)


def sample_coarse(feature: Tensor, offset: Tensor) -> Tensor:
    """Bilinear samples of a coarse map at the centres of fine pixels moved by `offset`.

    Args:
        feature: the coarse map (B, C, h, w); its channels are cut into as many groups as `offset`
            has.
        offset: (B, 2 * groups, H, W) in coarse pixels, x of every group, then y of every group.
    """
    batch, channels, h, w = feature.shape
    groups, (height, width) = offset.shape[1] // 2, offset.shape[2:]
    dtype = torch.promote_types(offset.dtype, torch.float32)
    offset = offset.to(dtype).unflatten(1, (2, groups))
    rows = (torch.arange(height, dtype=dtype, device=feature.device) * 2 + 1) / height - 1
    cols = (torch.arange(width, dtype=dtype, device=feature.device) * 2 + 1) / width - 1
    grid = torch.stack(
        (offset[:, 0] * (2 / w) + cols, offset[:, 1] * (2 / h) + rows[:, None]), -1
    )  # (B, groups, H, W, xy) in -1...1 from border to border
    sampled = F.grid_sample(
        feature.to(dtype).reshape(batch * groups, channels // groups, h, w),
        grid.flatten(0, 1),
        padding_mode="border",
        align_corners=False,
    )
    sampled = sampled.view(batch, channels, height, width)
    return sampled.to(feature.dtype, memory_format=memory_format_of(feature))
