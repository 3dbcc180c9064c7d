"""The unfold form of the operators, which is what a port without a kernel does: our baseline.

It writes every neighbourhood to memory, as `torch.nn.functional.unfold` gives it, and lets autograd
do the rest.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from freqfusion import FreqFusion
from freqfusion.layers import offsets
from freqfusion.layers.filters import normalise_kernels


def reassemble(x: Tensor, weight: Tensor, kernel_size: int) -> Tensor:
    """`freqfusion.ops.reassemble` for one group, zero padding and a whole ratio of sizes."""
    batch, channels, height, width = x.shape
    taps = F.unfold(x, kernel_size, padding=kernel_size // 2).view(batch, -1, height, width)
    taps = F.interpolate(taps, weight.shape[2:], mode="nearest").unflatten(1, (channels, -1))
    return (taps * weight.unsqueeze(1)).sum(2)


def local_similarity(x: Tensor, dilation: int = 2) -> Tensor:
    """`freqfusion.ops.local_similarity`."""
    taps = F.unfold(x, 3, dilation=dilation, padding=dilation).unflatten(1, (x.shape[1], 9))
    taps = torch.cat((taps[:, :, :4], taps[:, :, 5:]), 2).unflatten(3, x.shape[2:])
    return F.cosine_similarity(x.unsqueeze(2), taps, dim=1)


class UnfoldFreqFusion(FreqFusion):
    """`FreqFusion` (one group, zero padding) with its operators in unfold form."""

    def _reassemble(self, x, mask_lr):
        return reassemble(x, mask_lr, self.lowpass_kernel)

    def _low_pass(self, x, logits):
        return reassemble(x, self._low_pass_kernels(logits), self.lowpass_kernel)

    def _high_pass(self, x, logits, residual):
        kernels = normalise_kernels(logits, self.highpass_kernel, 1, self.hamming_highpass)
        details = x - reassemble(x, kernels, self.highpass_kernel)
        return x + details if residual else details

    def forward(self, *args, **kwargs):
        """See `FreqFusion`."""
        ours, offsets.local_similarity = offsets.local_similarity, local_similarity
        try:
            return super().forward(*args, **kwargs)
        finally:
            offsets.local_similarity = ours


def twin_of(layer: FreqFusion, *args, **kwargs) -> nn.Module:
    """The unfold form of `layer`, built with the same arguments and holding the same weights."""
    twin = UnfoldFreqFusion(*args, **kwargs)
    twin.load_state_dict(layer.state_dict())
    return twin
