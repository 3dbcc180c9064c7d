"""FADE: upsampling by kernels from both maps, and a gate between the maps."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..ops import adaptive_filter
from ..ops._checks import check_odd, check_positive
from .filters import nearest_resize
from .interpolation import UpsampleAdd


class FADE(UpsampleAdd):
    """Fuses `gate * hr_feat + (1 - gate) * upsampled`; nothing is added after that.

    Both maps are compressed; one convolution, shared by them, predicts kernel logits from each at
    its own size, and their sum makes the kernels that upsample the coarse map. The gate comes from
    the coarse map.

    Args:
        channels: see `UpsampleAdd`.
        compressed_channels: channels that kernels are predicted from.
        kernel_size: side of the kernels in coarse pixels, odd.
        encoder_kernel: side of the convolution that predicts kernels, odd.

    Shape, Raises:
        as `UpsampleAdd`

    Source: Lu et al., "FADE: Fusing the Assets of Decoder and Encoder for Task-Agnostic
    Upsampling", ECCV 2022, arXiv 2207.10392.

    Example:
        >>> fuse = FADE(64)
        >>> fuse(torch.randn(1, 64, 32, 32), torch.randn(1, 64, 16, 16)).shape
        torch.Size([1, 64, 32, 32])
    """

    def __init__(
        self,
        channels: int,
        compressed_channels: int = 64,
        kernel_size: int = 5,
        encoder_kernel: int = 3,
    ):
        super().__init__(channels)
        check_positive("compressed_channels", compressed_channels)
        check_odd("kernel_size", kernel_size)
        check_odd("encoder_kernel", encoder_kernel)
        self.kernel_size = kernel_size
        self.hr_channel_compressor = nn.Conv2d(channels, compressed_channels, 1)
        self.lr_channel_compressor = nn.Conv2d(channels, compressed_channels, 1, bias=False)
        self.content_encoder = nn.Conv2d(
            compressed_channels, kernel_size**2, encoder_kernel, padding=encoder_kernel // 2
        )
        self.gate = nn.Conv2d(channels, 1, 1)
        self.reset_parameters()

    def reset_parameters(self):
        """Xavier-uniform weights and no biases."""
        for conv in self.children():
            nn.init.xavier_uniform_(conv.weight)
            if conv.bias is not None:
                nn.init.zeros_(conv.bias)

    def fuse(self, hr_feat: Tensor, lr_feat: Tensor) -> Tensor:
        """See the class."""
        gate = nearest_resize(self.gate(lr_feat), hr_feat.shape[2:]).sigmoid()
        return torch.lerp(self.upsample(hr_feat, lr_feat), hr_feat, gate)

    def upsample(self, hr_feat: Tensor, lr_feat: Tensor) -> Tensor:
        """See the class."""
        fine = self.content_encoder(self.hr_channel_compressor(hr_feat))
        coarse = self.content_encoder(self.lr_channel_compressor(lr_feat))
        logits = fine + nearest_resize(coarse, hr_feat.shape[2:])
        return adaptive_filter(lr_feat, logits, self.kernel_size)
