"""Local cosine similarity: how much a position resembles its eight neighbours."""

from __future__ import annotations

import torch
from torch import Tensor

from . import backend
from ._checks import check_map, check_no_tangent, check_positive
from ._cosine import NEIGHBOURS
from ._geometry import accumulate_dtype, empty_in_format, without_autocast


def local_similarity(x: Tensor, dilation: int = 2) -> Tensor:
    """Cosine similarity of every position with its 8 neighbours at distance `dilation`.

    Always computed in float32 (float64 for float64 inputs), under autocast too: in half precision
    the norms overflow.

    Args:
        x: feature map.
        dilation: distance to the neighbours in pixels, at least 1.

    Shape:
        - x: (B, C, H, W)
        - output: (B, 8, H, W), neighbours in row-major order without the centre; exactly 0 for
          those out of the image

    Raises:
        ValueError: if `x` is not a map or `dilation` is not a positive integer.
        TypeError: if `x` is not a floating point tensor.
        NotImplementedError: under forward-mode differentiation.

    Source: FreqFusion (TPAMI 2024, arXiv 2408.12879), the offset generator.

    Example:
        >>> local_similarity(torch.ones(1, 4, 3, 3))[0, :, 0, 0]  # three are in the image
        tensor([0., 0., 0., 0., 1., 0., 1., 1.])
    """
    check_map("x", x)
    check_positive("dilation", dilation)
    check_no_tangent("x", x)
    return _local_similarity(x, dilation)


@torch.library.custom_op("freqfusion::local_similarity", mutates_args=())
def _local_similarity(x: Tensor, dilation: int) -> Tensor:
    with without_autocast(x):
        return backend.of(x).local_similarity_forward(x, dilation)


@torch.library.custom_op("freqfusion::local_similarity_backward", mutates_args=())
def _local_similarity_backward(grad_out: Tensor, x: Tensor, dilation: int) -> Tensor:
    with without_autocast(x):
        return backend.of(x).local_similarity_backward(grad_out, x, dilation)


@_local_similarity.register_fake
def _(x, dilation):
    batch, _, height, width = x.shape
    return x.new_empty((batch, NEIGHBOURS, height, width), dtype=accumulate_dtype(x))


@_local_similarity_backward.register_fake
def _(grad_out, x, dilation):
    return empty_in_format(x, x.shape)


def _setup(ctx, inputs, output):
    x, ctx.dilation = inputs
    ctx.save_for_backward(x)


def _gradients(ctx, grad_out):
    (x,) = ctx.saved_tensors
    return _local_similarity_backward(grad_out, x, ctx.dilation), None


_local_similarity.register_autograd(_gradients, setup_context=_setup)
