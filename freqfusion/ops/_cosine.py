"""Local cosine similarity in pure PyTorch: one product for each pair of neighbours."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ._geometry import accumulate_dtype, empty_in_format

NEIGHBOURS = 8
EPS = 1e-8  # least norm, as in torch.nn.functional.cosine_similarity


def local_similarity_forward(x: Tensor, dilation: int) -> Tensor:
    """Similarities (B, 8, H, W) of `x` (B, C, H, W) in the accumulation dtype."""
    unit, _ = _normalise(x)
    batch, _, height, width = x.shape
    out = unit.new_zeros(batch, NEIGHBOURS, height, width)
    for tap, here, there in _pairs(height, width, dilation):
        product = (unit[here] * unit[there]).sum(1)
        out[:, tap][here] = product
        out[:, NEIGHBOURS - 1 - tap][there] = product
    return out


def local_similarity_backward(grad_out: Tensor, x: Tensor, dilation: int) -> Tensor:
    """Gradient of `local_similarity_forward`."""
    unit, norm = _normalise(x)
    grad_unit = torch.zeros_like(unit)
    for tap, here, there in _pairs(*x.shape[2:], dilation):
        grad = grad_out[:, tap : tap + 1][here]
        grad = grad + grad_out[:, NEIGHBOURS - 1 - tap : NEIGHBOURS - tap][there]
        grad_unit[here].addcmul_(unit[there], grad)
        grad_unit[there].addcmul_(unit[here], grad)
    along = (unit * grad_unit).sum(1, keepdim=True)
    grad_x = grad_unit.addcmul_(unit, along, value=-1).div_(norm)
    grad_x.masked_fill_(norm <= EPS, 0)  # a zero vector has no direction to move in
    return empty_in_format(x, x.shape).copy_(grad_x)


def _normalise(x: Tensor) -> tuple[Tensor, Tensor]:
    """`x` over its norm along the channels, and the norm, at least EPS."""
    x = x.to(accumulate_dtype(x))
    norm = torch.linalg.vector_norm(x, dim=1, keepdim=True).clamp_(min=EPS)
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
