"""CARAFE: upsampling by kernels that are predicted from the coarse map."""

from __future__ import annotations

from torch import Tensor, nn

from ..ops import adaptive_filter
from ..ops._checks import check_odd, check_positive
from .filters import nearest_resize
from .interpolation import UpsampleAdd
from .offsets import sub_pixels


class CARAFE(UpsampleAdd):
    """Upsamples the coarse map by content-aware reassembly and adds.

    The coarse map is compressed, a convolution predicts the kernels of its 2 x 2 sub-pixels,
    softmax normalises them, and each fine pixel is the weighted sum of the neighbourhood of its
    coarse one.

    Args:
        channels: see `UpsampleAdd`.
        compressed_channels: channels that kernels are predicted from.
        kernel_size: side of the kernels in coarse pixels, odd.
        encoder_kernel: side of the convolution that predicts kernels, odd.

    Shape, Raises:
        as `UpsampleAdd`

    Source: Wang et al., "CARAFE: Content-Aware ReAssembly of FEatures", ICCV 2019, arXiv
    1905.02188.

    Example:
        >>> import torch
        >>> fuse = CARAFE(64)
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
        self.channel_compressor = nn.Conv2d(channels, compressed_channels, 1)
        self.content_encoder = nn.Conv2d(
            compressed_channels, 4 * kernel_size**2, encoder_kernel, padding=encoder_kernel // 2
        )
        self.reset_parameters()

    def reset_parameters(self):
        """Xavier-uniform compressor, kernel logits near zero, no biases."""
        nn.init.xavier_uniform_(self.channel_compressor.weight)
        nn.init.normal_(self.content_encoder.weight, std=0.001)
        nn.init.zeros_(self.channel_compressor.bias)
        nn.init.zeros_(self.content_encoder.bias)

    def upsample(self, hr_feat: Tensor, lr_feat: Tensor) -> Tensor:
        """See the class; `hr_feat` gives the size alone."""
        logits = sub_pixels(self.content_encoder(self.channel_compressor(lr_feat)))
        logits = nearest_resize(logits, hr_feat.shape[2:])
        return adaptive_filter(lr_feat, logits, self.kernel_size)
