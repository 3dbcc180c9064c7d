"""DySample: upsampling by bilinear samples at positions that are predicted from the coarse map."""

from __future__ import annotations

from torch import Tensor, nn

from ..ops._checks import check_choice, check_positive
from .filters import nearest_resize
from .interpolation import UpsampleAdd
from .offsets import sample, sub_pixels

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
        >>> import torch
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
        offset = nearest_resize(self.predict(lr_feat), hr_feat.shape[2:])
        return sample(lr_feat, offset, lr_feat.shape[2:])

    def predict(self, lr_feat: Tensor) -> Tensor:
        """Offsets (B, 2 * groups, 2h, 2w) in coarse pixels: x of all groups, then y."""
        x = sub_pixels(lr_feat) if self.style == "pl" else lr_feat
        scope = 0.5 * self.scope(x).sigmoid() if self.dynamic_scope else 0.25
        offset = self.offset(x) * scope
        return offset if self.style == "pl" else sub_pixels(offset)
