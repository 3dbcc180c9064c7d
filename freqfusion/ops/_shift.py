"""The shift form: output as large as the input, one multiply-add of a shifted slice per tap."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ._geometry import accumulate_dtype, empty_in_format, pad, pad_backward


def forward(
    x: Tensor,
    weight: Tensor,
    out: Tensor,
    kernel_size: int,
    groups: int,
    mode: str,
    identity: int = 0,
):
    """Writes the filtered `x` (B, C, H, W) to `out`; `weight` is (B, groups*k*k, H, W).

    With `identity` n > 0: n * x minus the filtered map. The same holds for the gradients.
    """
    dtype = accumulate_dtype(x, weight)
    weight = weight.to(dtype).unflatten(1, (groups, 1, -1))
    total = out if out.dtype == dtype else torch.empty_like(out, dtype=dtype)
    total.copy_(x).mul_(identity) if identity else total.zero_()
    grouped = total.unflatten(1, (groups, -1))
    padded = pad(x.to(dtype), kernel_size // 2, mode)
    for tap, shifted in _shifts(padded, kernel_size, groups):
        grouped.addcmul_(shifted, weight[:, :, :, tap], value=_sign(identity))
    if total is not out:
        out.copy_(total)


def backward_x(
    grad_out: Tensor, weight: Tensor, kernel_size: int, groups: int, mode: str, identity: int = 0
) -> Tensor:
    """Gradient of `forward` for `x`, in the accumulation dtype."""
    dtype = accumulate_dtype(grad_out, weight)
    weight = weight.to(dtype).unflatten(1, (groups, 1, -1))
    grad_out = grad_out.to(dtype)
    grouped = grad_out.unflatten(1, (groups, -1))
    batch, channels, height, width = grad_out.shape
    border = kernel_size - 1
    padded = empty_in_format(grad_out, (batch, channels, height + border, width + border)).zero_()
    for tap, shifted in _shifts(padded, kernel_size, groups):
        shifted.addcmul_(grouped, weight[:, :, :, tap], value=_sign(identity))
    grad_x = pad_backward(padded, kernel_size // 2, mode)
    return grad_x.add_(grad_out, alpha=identity) if identity else grad_x


def backward_weight(
    grad_out: Tensor,
    x: Tensor,
    grad_weight: Tensor,
    kernel_size: int,
    mode: str,
    identity: int = 0,
):
    """Writes the gradient of `forward` for `weight` to `grad_weight` (B, groups, k*k, H, W)."""
    dtype = accumulate_dtype(grad_out, x)
    groups = grad_weight.shape[1]
    grouped = grad_out.to(dtype).unflatten(1, (groups, -1))
    grouped = grouped.neg() if identity else grouped
    product = torch.empty_like(grouped)
    for tap, shifted in _shifts(pad(x.to(dtype), kernel_size // 2, mode), kernel_size, groups):
        grad_weight[:, :, tap] = torch.mul(grouped, shifted, out=product).sum(2)


def _sign(identity: int) -> int:
    return -1 if identity else 1


def _shifts(padded: Tensor, kernel_size: int, groups: int) -> Iterator[tuple[int, Tensor]]:
    """Yields every tap with the view (B, groups, C/groups, H, W) of `padded` that it reads."""
    height, width = (size - kernel_size + 1 for size in padded.shape[2:])
    grouped = padded.unflatten(1, (groups, -1))
    for tap in range(kernel_size**2):
        p, q = divmod(tap, kernel_size)
        yield tap, grouped[..., p : p + height, q : q + width]
