"""The operators in pure PyTorch, for every device without kernels.

Filtering takes one of two forms, chosen by shape from the measurements that `benchmarks/ops.py`
prints: shifted slices where the output is as large as the input, tiles as matrix products where it
is larger. All accumulate in float32 (float64 for float64 inputs), take any strides and are
deterministic. Autograd does not look inside; backward is explicit.
"""

from __future__ import annotations

import torch
from torch import Tensor

from . import _shift
from ._cosine import local_similarity_backward, local_similarity_forward
from ._geometry import Spread, accumulate_dtype, empty_in_format
from ._tile import Tiling

__all__ = [
    "adaptive_filter_backward",
    "adaptive_filter_forward",
    "local_similarity_backward",
    "local_similarity_forward",
    "reassemble_backward",
    "reassemble_forward",
]


def reassemble_forward(
    x: Tensor,
    weight: Tensor,
    kernel_size: int,
    groups: int,
    padding_mode: str,
    identity: int = 0,
) -> Tensor:
    """Filters `x` (B, C, h, w) with `weight` (B, groups*k*k, H, W); see `reassemble`.

    With `identity` n > 0, which only maps of the same size can have, n * x minus the filtered map.
    """
    out = empty_in_format(x, (*x.shape[:2], *weight.shape[2:]))
    if out.numel() == 0:
        return out
    spread = Spread(x.shape[2:], weight.shape[2:], x.device)
    if spread.factor == (1, 1):
        _shift.forward(x, weight, out, kernel_size, groups, padding_mode, identity)
        return out
    tiling = Tiling(x.shape[2:], spread.factor, kernel_size, groups, padding_mode)
    if spread.exact:
        tiling.forward(x, weight, out)
        return out
    slots = empty_in_format(x, (*x.shape[:2], *spread.size))
    tiling.forward(x, spread.scatter(weight), slots)
    return out.copy_(spread.gather(slots))


def reassemble_backward(
    grad_out: Tensor,
    x: Tensor,
    weight: Tensor,
    kernel_size: int,
    groups: int,
    padding_mode: str,
    need_x: bool = True,
    need_weight: bool = True,
    identity: int = 0,
) -> tuple[Tensor, Tensor]:
    """Gradients of `reassemble_forward` for `x` and `weight`; empty if not needed."""
    grad_x = empty_in_format(x, x.shape if need_x else (0, 0, 0, 0))
    grad_weight = empty_in_format(weight, weight.shape if need_weight else (0, 0, 0, 0))
    if grad_out.numel() == 0:
        return grad_x.zero_(), grad_weight.zero_()
    spread = Spread(x.shape[2:], weight.shape[2:], x.device)
    if spread.factor == (1, 1):
        if need_x:
            args = kernel_size, groups, padding_mode, identity
            grad_x.copy_(_shift.backward_x(grad_out, weight, *args))
        if need_weight:
            grouped = grad_weight.unflatten(1, (groups, -1))
            _shift.backward_weight(grad_out, x, grouped, kernel_size, padding_mode, identity)
        return grad_x, grad_weight
    tiling = Tiling(x.shape[2:], spread.factor, kernel_size, groups, padding_mode)
    grad_slots = spread.scatter(grad_out)
    if need_x:
        grad_x.copy_(tiling.backward_x(grad_slots, spread.scatter(weight)))
    if need_weight:
        grad_weight.copy_(spread.gather(tiling.backward_weight(grad_slots, x)))
    return grad_x, grad_weight


def adaptive_filter_forward(
    x: Tensor,
    logits: Tensor,
    window: Tensor | None,
    kernel_size: int,
    groups: int,
    padding_mode: str,
    identity: int,
) -> tuple[Tensor, Tensor]:
    """Filters `x` by softmax(logits + log window); returns the log-sum-exp as well."""
    biased = _biased_logits(logits, window, groups)
    lse = biased.logsumexp(2)
    weight = biased.sub_(lse.unsqueeze(2)).exp_().flatten(1, 2)
    return reassemble_forward(x, weight, kernel_size, groups, padding_mode, identity), lse


def adaptive_filter_backward(
    grad_out: Tensor,
    x: Tensor,
    logits: Tensor,
    window: Tensor | None,
    lse: Tensor,
    kernel_size: int,
    groups: int,
    padding_mode: str,
    identity: int,
    need_x: bool = True,
    need_logits: bool = True,
) -> tuple[Tensor, Tensor]:
    """Gradients of `adaptive_filter_forward`; the weights come back from `lse`."""
    weight = _biased_logits(logits, window, groups).sub_(lse.unsqueeze(2)).exp_()
    args = kernel_size, groups, padding_mode, need_x, need_logits, identity
    grad_x, grad_weight = reassemble_backward(grad_out, x, weight.flatten(1, 2), *args)
    grad_logits = empty_in_format(logits, logits.shape if need_logits else (0, 0, 0, 0))
    if need_logits:
        product = grad_weight.view_as(weight).mul_(weight)
        grad_logits.copy_(product.sub_(weight.mul_(product.sum(2, keepdim=True))).flatten(1, 2))
    return grad_x, grad_logits


def _biased_logits(logits: Tensor, window: Tensor | None, groups: int) -> Tensor:
    """Returns logits + log window as a new (B, groups, k*k, H, W), in the accumulation dtype."""
    dtype = accumulate_dtype(logits)
    biased = logits.to(dtype, copy=True, memory_format=torch.contiguous_format)
    biased = biased.unflatten(1, (groups, logits.shape[1] // groups))
    return biased if window is None else biased.add_(window.to(dtype).log().reshape(-1, 1, 1))
