"""Offset generator: resamples a feature map towards neighbours that are more alike."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..ops import local_similarity
from ..ops._checks import check_choice
from ..ops._geometry import memory_format_of
from ..ops.similarity import NEIGHBOURS
from .filters import nearest_resize

OFFSET_MODES = ("sim_concat", "sim")


class OffsetGenerator(nn.Module):
    """Predicts an offset for every position of the fine grid and samples a map there.

    Offsets and their gates are the sum of a part from the coarse map, predicted for the 2 x 2
    sub-pixels of each coarse pixel, and a part from the fine map. They are measured in coarse
    pixels; coordinates are float32 at least.

    Args:
        channels: channels of the two compressed maps.
        groups: channel groups of the sampled map that move independently.
        kernel_size: side of the convolutions, odd.
        norm: normalise both maps first, GroupNorm with groups of 8 channels.
        mode: "sim_concat": offset and gate see the map and its local similarities (detection,
            panoptic, Mask2Former); "sim": the offset sees the similarities alone and the gate the
            map alone (SegNeXt).
        zero_init: start as the identity, with all offsets zero; else Xavier, as in the published
            recipe.

    Shape:
        - hr: (B, channels, H, W); lr: (B, channels, h, w), H >= h and W >= w
        - feature, output: (B, C, H, W), C divisible by `groups`

    Source: FreqFusion (TPAMI 2024, arXiv 2408.12879); sampling as in DySample (ICCV 2023).

    Example:
        >>> generator = OffsetGenerator(16, groups=4)
        >>> hr, lr = torch.randn(1, 16, 8, 8), torch.randn(1, 16, 4, 4)
        >>> generator(hr, lr, torch.randn(1, 32, 8, 8)).shape
        torch.Size([1, 32, 8, 8])
    """

    def __init__(
        self,
        channels: int,
        groups: int = 4,
        kernel_size: int = 3,
        norm: bool = True,
        mode: str = "sim_concat",
        zero_init: bool = False,
    ):
        super().__init__()
        check_choice("offset_mode", mode, OFFSET_MODES)
        if norm and (channels < 8 or channels % (channels // 8)):
            raise ValueError(
                "compressed_channels must be at least 8 and divisible by compressed_channels // 8 "
                f"for feature_resample_norm, got {channels}"
            )
        self.groups, self.mode, self.zero_init = groups, mode, zero_init
        both = channels + NEIGHBOURS
        offset_in, gate_in = (both, both) if mode == "sim_concat" else (NEIGHBOURS, channels)
        padding = kernel_size // 2
        self.offset = nn.Conv2d(offset_in, 8 * groups, kernel_size, padding=padding)
        self.direct_scale = nn.Conv2d(gate_in, 8 * groups, kernel_size, padding=padding)
        self.hr_offset = nn.Conv2d(offset_in, 2 * groups, kernel_size, padding=padding)
        self.hr_direct_scale = nn.Conv2d(gate_in, 2 * groups, kernel_size, padding=padding)
        self.norm_hr = nn.GroupNorm(channels // 8, channels) if norm else nn.Identity()
        self.norm_lr = nn.GroupNorm(channels // 8, channels) if norm else nn.Identity()
        # Part of every checkpoint. `sample` starts from the centres of the fine pixels, which these
        # are at H = 2h.
        self.register_buffer("init_pos", sub_pixel_centres(groups))
        self.reset_parameters()

    def reset_parameters(self):
        """Xavier-uniform weights and zero biases; zero weights for the offsets with `zero_init`."""
        self.init_pos.copy_(sub_pixel_centres(self.groups))
        for conv in (self.offset, self.direct_scale, self.hr_offset, self.hr_direct_scale):
            nn.init.xavier_uniform_(conv.weight)
            nn.init.zeros_(conv.bias)
        for norm in (self.norm_hr, self.norm_lr):
            if isinstance(norm, nn.GroupNorm):
                norm.reset_parameters()
        if self.zero_init:
            nn.init.zeros_(self.offset.weight)
            nn.init.zeros_(self.hr_offset.weight)

    def forward(self, hr: Tensor, lr: Tensor, feature: Tensor) -> Tensor:
        """Samples `feature` at the positions that `hr` and `lr` predict; see the class."""
        return sample(feature, self.predict(hr, lr), lr.shape[2:])

    def predict(self, hr: Tensor, lr: Tensor) -> Tensor:
        """Offsets (B, 2 * groups, H, W) in coarse pixels: x of all groups, then y."""
        coarse = self._convolve(self.norm_lr(lr), self.offset, self.direct_scale)
        fine_offset, fine_gate = self._convolve(
            self.norm_hr(hr), self.hr_offset, self.hr_direct_scale
        )
        offset, gate = (nearest_resize(sub_pixels(x), hr.shape[2:]) for x in coarse)
        return (fine_offset + offset) * (fine_gate + gate).sigmoid()

    def _convolve(self, x: Tensor, offset: nn.Conv2d, gate: nn.Conv2d) -> tuple[Tensor, Tensor]:
        similarity = local_similarity(x).to(x.dtype)
        if self.mode == "sim":
            return offset(similarity), gate(x)
        return convolve_together(torch.cat((x, similarity), 1), offset, gate)


def convolve_together(x: Tensor, *convs: nn.Conv2d) -> tuple[Tensor, ...]:
    """Results of convolutions of one input, alike in size and padding, computed as one.

    A convolution that was replaced, parametrised or hooked is called by itself.
    """
    if not all(map(_is_plain, convs)):
        return tuple(conv(x) for conv in convs)
    weight = torch.cat([conv.weight for conv in convs])
    bias = torch.cat([conv.bias for conv in convs])
    out = F.conv2d(x, weight, bias, padding=convs[0].padding)
    return out.split([conv.out_channels for conv in convs], 1)


def _is_plain(conv: nn.Module) -> bool:
    """Says whether a module is what its weight and bias say, and nobody looks at its calls."""
    hooks = conv._forward_pre_hooks, conv._forward_hooks
    hooks += conv._backward_pre_hooks, conv._backward_hooks
    return type(conv) is nn.Conv2d and not any(hooks) and "forward" not in conv.__dict__


def sample(feature: Tensor, offset: Tensor, unit: tuple[int, int]) -> Tensor:
    """Bilinear samples of `feature` at the centres of the pixels of `offset`, moved by it.

    Border pixels repeat outwards.

    Args:
        feature: map (B, C, h, w), which spans the same image as `offset`; its channels are cut into
            as many groups as `offset` has.
        offset: (B, 2 * groups, H, W), x of every group, then y of every group.
        unit: how many units of `offset` the height and the width of the image are.
    """
    batch, channels, h, w = feature.shape
    groups, (height, width) = offset.shape[1] // 2, offset.shape[2:]
    dtype = torch.promote_types(offset.dtype, torch.float32)
    offset = offset.to(dtype).unflatten(1, (2, groups))
    rows = (torch.arange(height, dtype=dtype, device=feature.device) * 2 + 1) / height - 1
    cols = (torch.arange(width, dtype=dtype, device=feature.device) * 2 + 1) / width - 1
    grid = torch.stack(
        (offset[:, 0] * (2 / unit[1]) + cols, offset[:, 1] * (2 / unit[0]) + rows[:, None]), -1
    )  # (B, groups, H, W, xy) in -1...1 from border to border
    sampled = F.grid_sample(
        feature.to(dtype).reshape(batch * groups, channels // groups, h, w),
        grid.flatten(0, 1),
        padding_mode="border",
        align_corners=False,
    )
    sampled = sampled.view(batch, channels, height, width)
    return sampled.to(feature.dtype, memory_format=memory_format_of(feature))


def sub_pixels(x: Tensor) -> Tensor:
    """(B, 4 * C, h, w) -> (B, C, 2h, 2w), as `torch.nn.PixelShuffle`, and for empty batches too."""
    x = x.unflatten(1, (x.shape[1] // 4, 2, 2)).permute(0, 1, 4, 2, 5, 3)
    return x.flatten(4, 5).flatten(2, 3)


def sub_pixel_centres(groups: int) -> Tensor:
    """Centres of 2 x 2 sub-pixels in their pixel, (1, 8 * groups, 1, 1): x, then y."""
    quarter = torch.tensor([-0.25, 0.25])
    y, x = torch.meshgrid(quarter, quarter, indexing="ij")
    return torch.stack((x, y)).flatten(1).repeat_interleave(groups, 0).reshape(1, -1, 1, 1)
