"""SAPA: upsampling by kernels that are similarities between fine and coarse pixels."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ..ops import adaptive_filter, reassemble
from ..ops._checks import check_odd, check_positive
from ..ops._geometry import accumulate_dtype
from ..ops.reassemble import _reassemble_backward
from .interpolation import UpsampleAdd


class SAPA(UpsampleAdd):
    """Upsamples the coarse map by similarity-aware kernels (SAPA-B) and adds.

    Both maps are normalised and embedded. The kernel of a fine pixel is the softmax of the dot
    products of its embedding with those around its coarse pixel; see `neighbour_scores`.

    Args:
        channels: see `UpsampleAdd`.
        embedding_channels: channels of the embeddings.
        kernel_size: side of the kernels in coarse pixels, odd.
        norm_groups: groups of the two GroupNorms.

    Shape, Raises:
        as `UpsampleAdd`

    Source: Lu et al., "SAPA: Similarity-Aware Point Affiliation for Feature Upsampling", NeurIPS
    2022, arXiv 2209.12866.

    Example:
        >>> fuse = SAPA(64)
        >>> fuse(torch.randn(1, 64, 32, 32), torch.randn(1, 64, 16, 16)).shape
        torch.Size([1, 64, 32, 32])
    """

    def __init__(
        self,
        channels: int,
        embedding_channels: int = 32,
        kernel_size: int = 5,
        norm_groups: int = 32,
    ):
        super().__init__(channels)
        check_positive("embedding_channels", embedding_channels)
        check_odd("kernel_size", kernel_size)
        check_positive("norm_groups", norm_groups)
        if channels % norm_groups:
            raise ValueError(f"norm_groups must divide channels = {channels}, got {norm_groups}")
        self.kernel_size = kernel_size
        self.norm_hr = _GroupNorm(norm_groups, channels)
        self.norm_lr = _GroupNorm(norm_groups, channels)
        self.query = nn.Conv2d(channels, embedding_channels, 1)
        self.key = nn.Conv2d(channels, embedding_channels, 1)
        self.reset_parameters()

    def reset_parameters(self):
        """Small embeddings, so that kernels start out nearly uniform; no biases."""
        for norm in (self.norm_hr, self.norm_lr):
            norm.reset_parameters()
        for conv in (self.query, self.key):
            nn.init.normal_(conv.weight, std=0.02)
            nn.init.zeros_(conv.bias)

    def upsample(self, hr_feat: Tensor, lr_feat: Tensor) -> Tensor:
        """See the class."""
        query, key = self.query(self.norm_hr(hr_feat)), self.key(self.norm_lr(lr_feat))
        scores = neighbour_scores(query, key, self.kernel_size)
        return adaptive_filter(lr_feat, scores, self.kernel_size)


class _GroupNorm(nn.GroupNorm):
    """GroupNorm of a single pixel with one channel per group too, which PyTorch's refuses."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.group_norm(x, self.num_groups, self.weight, self.bias, self.eps)


def neighbour_scores(query: Tensor, key: Tensor, kernel_size: int) -> Tensor:
    """Dot products of every fine position with the k x k neighbourhood of its coarse position.

    With taps (p, q) and r = k // 2,

        out[b, p*k + q, i, j] = sum over c of
            query[b, c, i, j] * key[b, c, i*h//H + p - r, j*w//W + q - r]

    and 0 where the tap is outside of `key`. Sums are taken in float32 (float64 for float64 inputs).

    Shape:
        - query: (B, C, H, W); key: (B, C, h, w), H >= h and W >= w
        - output: (B, kernel_size**2, H, W), in the dtype of the sums

    Example:
        >>> neighbour_scores(torch.ones(1, 4, 2, 2), torch.ones(1, 4, 1, 1), 3)[0, :, 0, 0]
        tensor([0., 0., 0., 0., 4., 0., 0., 0., 0.])
    """
    return _NeighbourScores.apply(query, key, kernel_size)


class _NeighbourScores(torch.autograd.Function):
    """`reassemble` is linear in its weights, and these products are the adjoint of that.

    So its operators compute everything here, with their tiles, kernels and FLOP formulas.
    """

    @staticmethod
    def forward(ctx, query: Tensor, key: Tensor, kernel_size: int) -> Tensor:
        ctx.save_for_backward(query, key)
        ctx.kernel_size = kernel_size
        batch, _, height, width = query.shape
        # for its shape and dtype; no weight is read
        like = query.new_empty(
            (batch, kernel_size**2, height, width), dtype=accumulate_dtype(query, key)
        )
        return _reassemble_backward(query, key, like, kernel_size, 1, "zeros", False, True)[1]

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        query, key = ctx.saved_tensors
        need_query, need_key, _ = ctx.needs_input_grad
        grad_query = grad_key = None
        if need_query:
            grad_query = reassemble(key, grad, ctx.kernel_size)
        if need_key:
            args = ctx.kernel_size, 1, "zeros", True, False
            grad_key = _reassemble_backward(query, key, grad, *args)[0]
        return grad_query, grad_key, None
