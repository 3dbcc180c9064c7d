"""Upsample-and-add: the plain fusions, and the base of those that upsample in another way."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..ops._checks import check_map, check_not_smaller, check_positive, check_same_device
from ..ops._geometry import autocast_input
from .filters import nearest_resize


class UpsampleAdd(nn.Module):
    """Fuses a fine and a coarse map: `hr_feat + upsample(hr_feat, lr_feat)`.

    A subclass says how it upsamples, or fuses in another way. It takes maps of any sizes H >= h and
    W >= w; where a method predicts for the 2 x 2 sub-pixels of a coarse pixel, row i of the fine
    map takes what is predicted for row floor(i*2h/H).

    Args:
        channels: channels of both maps.

    Shape:
        - hr_feat: (B, channels, H, W); lr_feat: (B, channels, h, w), H >= h and W >= w
        - output: (B, channels, H, W), in the dtype of the inputs or that of autocast

    Raises:
        ValueError: if an option, a shape or a device does not fit; the message names the argument,
            its value, the rule.
        TypeError: for an unknown argument, or a map that is no floating point tensor.
    """

    def __init__(self, channels: int):
        super().__init__()
        check_positive("channels", channels)
        self.channels = channels

    def reset_parameters(self):
        """Initialises the parameters as published; there may be none."""

    def forward(self, hr_feat: Tensor, lr_feat: Tensor) -> Tensor:
        """Fuses a fine and a coarse map; see the class."""
        self._check_inputs(hr_feat, lr_feat)
        return self.fuse(autocast_input(hr_feat), autocast_input(lr_feat))

    def fuse(self, hr_feat: Tensor, lr_feat: Tensor) -> Tensor:
        """`forward` of maps that fit and are in the dtype of autocast."""
        return hr_feat + self.upsample(hr_feat, lr_feat)

    def upsample(self, hr_feat: Tensor, lr_feat: Tensor) -> Tensor:
        """`lr_feat` in the size of `hr_feat`, which may guide it."""
        raise NotImplementedError(f"{type(self).__name__} must say how it upsamples")

    def _check_inputs(self, hr_feat: Tensor, lr_feat: Tensor):
        for name, feat in (("hr_feat", hr_feat), ("lr_feat", lr_feat)):
            check_map(name, feat)
            if feat.shape[1] != self.channels:
                raise ValueError(f"{name} must have {self.channels} channels, got {feat.shape[1]}")
        check_same_device("lr_feat", lr_feat, "hr_feat", hr_feat)
        if hr_feat.shape[0] != lr_feat.shape[0]:
            raise ValueError(
                f"lr_feat must have the batch size of hr_feat, {hr_feat.shape[0]}, "
                f"got {lr_feat.shape[0]}"
            )
        check_not_smaller("hr_feat", hr_feat, "lr_feat", lr_feat)


class Nearest(UpsampleAdd):
    """Upsamples by repetition and adds, as FPN does: row i is row floor(i*h/H), exactly.

    Args:
        channels: see `UpsampleAdd`.

    Shape, Raises:
        as `UpsampleAdd`

    Source: Lin et al., "Feature Pyramid Networks for Object Detection", CVPR 2017.

    Example:
        >>> Nearest(1)(torch.zeros(1, 1, 1, 4), torch.tensor([[[[1.0, 2.0]]]]))
        tensor([[[[1., 1., 2., 2.]]]])
    """

    def upsample(self, hr_feat: Tensor, lr_feat: Tensor) -> Tensor:
        """See the class."""
        size = hr_feat.shape[2:]
        # `interpolate` is many times faster, and exact at a factor of 2
        if not torch.compiler.is_compiling() and size == tuple(2 * n for n in lr_feat.shape[2:]):
            return F.interpolate(lr_feat, size, mode="nearest")
        return nearest_resize(lr_feat, size)


class Bilinear(UpsampleAdd):
    """Upsamples by bilinear interpolation and adds.

    Args:
        channels: see `UpsampleAdd`.
        align_corners: put the corner pixels' centres of the two maps on each other; else the
            corners of these pixels.

    Shape, Raises:
        as `UpsampleAdd`

    Example:
        >>> Bilinear(1)(torch.zeros(1, 1, 1, 4), torch.tensor([[[[0.0, 4.0]]]]))
        tensor([[[[0., 1., 3., 4.]]]])
    """

    def __init__(self, channels: int, align_corners: bool = False):
        super().__init__(channels)
        self.align_corners = align_corners

    def upsample(self, hr_feat: Tensor, lr_feat: Tensor) -> Tensor:
        """See the class."""
        return F.interpolate(
            lr_feat, hr_feat.shape[2:], mode="bilinear", align_corners=self.align_corners
        )
