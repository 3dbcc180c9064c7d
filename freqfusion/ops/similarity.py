"""Local cosine similarity: how much a position resembles its eight neighbours."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ._checks import check_map, check_positive
from ._geometry import accumulate_dtype, empty_in_format, without_autocast

NEIGHBOURS = 8
_EPS = 1e-8  # least norm, as in torch.nn.functional.cosine_similarity


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

    Source: FreqFusion (TPAMI 2024, arXiv 2408.12879), the offset generator.

    Example:
        >>> local_similarity(torch.ones(1, 4, 3, 3))[0, :, 0, 0]  # three are in the image
        tensor([0., 0., 0., 0., 1., 0., 1., 1.])
    """
    check_map("x", x)
    check_positive("dilation", dilation)
    return _local_similarity(x, dilation)


@torch.library.custom_op("freqfusion::local_similarity", mutates_args=())
def _local_similarity(x: Tensor, dilation: int) -> Tensor:
    with without_autocast(x):
        return _forward(x, dilation)


@torch.library.custom_op("freqfusion::local_similarity_backward", mutates_args=())
def _local_similarity_backward(grad_out: Tensor, x: Tensor, dilation: int) -> Tensor:
    with without_autocast(x):
        return _backward(grad_out, x, dilation)


def _forward(x: Tensor, dilation: int) -> Tensor:
    unit, _ = _normalise(x)
    batch, _, height, width = x.shape
    out = unit.new_zeros(batch, NEIGHBOURS, height, width)
    for tap, here, there in _pairs(height, width, dilation):
        product = (unit[here] * unit[there]).sum(1)
        out[:, tap][here] = product
        out[:, NEIGHBOURS - 1 - tap][there] = product
    return out


def _backward(grad_out: Tensor, x: Tensor, dilation: int) -> Tensor:
    unit, norm = _normalise(x)
    grad_unit = torch.zeros_like(unit)
    for tap, here, there in _pairs(*x.shape[2:], dilation):
        grad = grad_out[:, tap : tap + 1][here]
        grad = grad + grad_out[:, NEIGHBOURS - 1 - tap : NEIGHBOURS - tap][there]
        grad_unit[here].addcmul_(unit[there], grad)
        grad_unit[there].addcmul_(unit[here], grad)
    along = (unit * grad_unit).sum(1, keepdim=True)
    grad_x = grad_unit.addcmul_(unit, along, value=-1).div_(norm)
    grad_x.masked_fill_(norm <= _EPS, 0)  # a zero vector has no direction to move in
    return empty_in_format(x, x.shape).copy_(grad_x)


def _normalise(x: Tensor) -> tuple[Tensor, Tensor]:
    """`x` over its norm along the channels, and the norm, at least _EPS."""
    x = x.to(accumulate_dtype(x))
    norm = torch.linalg.vector_norm(x, dim=1, keepdim=True).clamp_(min=_EPS)
    return x / norm, norm


def _pairs(height: int, width: int, dilation: int) -> Iterator[tuple[int, tuple, tuple]]:
    """Yields, for 4 of the 8 neighbours, the positions that have it and those neighbours.

    The other four are the same pairs seen from the neighbour, so their products need no computing.
    """
    d = dilation
    for tap, (down, right) in enumerate([(-d, -d), (-d, 0), (-d, d), (0, -d)]):
        rows, cols = _overlap(height, down), _overlap(width, right)
        yield tap, (..., rows[0], cols[0]), (..., rows[1], cols[1])


def _overlap(size: int, shift: int) -> tuple[slice, slice]:
    """Slices of the positions i with i + shift inside a row of `size`, and of those i + shift."""
    first, last = max(0, -shift), max(0, -shift, size - max(0, shift))
    return slice(first, last), slice(first + shift, last + shift)


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
