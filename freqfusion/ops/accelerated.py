"""The operators by the Triton kernels of `freqfusion.kernels`; the functions of `reference`.

Imported where the kernels run, and nowhere else: it loads triton.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .. import env
from ..kernels import launch
from ..kernels.launch import Filter
from ._cosine import NEIGHBOURS
from ._geometry import empty_in_format, pad, pad_backward


def reassemble_forward(
    x: Tensor, weight: Tensor, kernel_size: int, groups: int, padding_mode: str
) -> Tensor:
    """See `reference.reassemble_forward`."""
    return _forward(x, weight, Filter(kernel_size, groups), padding_mode)


def reassemble_backward(
    grad_out: Tensor,
    x: Tensor,
    weight: Tensor,
    kernel_size: int,
    groups: int,
    padding_mode: str,
    need_x: bool = True,
    need_weight: bool = True,
) -> tuple[Tensor, Tensor]:
    """See `reference.reassemble_backward`."""
    f = Filter(kernel_size, groups)
    return _backward(grad_out, x, weight, None, f, padding_mode, need_x, need_weight)


def adaptive_filter_forward(
    x: Tensor,
    logits: Tensor,
    window: Tensor | None,
    kernel_size: int,
    groups: int,
    padding_mode: str,
    identity: int,
) -> tuple[Tensor, Tensor]:
    """See `reference.adaptive_filter_forward`."""
    batch, _, height, width = logits.shape
    lse = logits.new_empty((batch, groups, height, width), dtype=torch.float32)
    f = Filter(kernel_size, groups, True, _flat(window), identity)
    return _forward(x, logits, f, padding_mode, lse), lse


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
    """See `reference.adaptive_filter_backward`."""
    f = Filter(kernel_size, groups, True, _flat(window), identity)
    return _backward(grad_out, x, logits, lse, f, padding_mode, need_x, need_logits)


def local_similarity_forward(x: Tensor, dilation: int) -> Tensor:
    """See `reference.local_similarity_forward`."""
    out = x.new_empty((x.shape[0], NEIGHBOURS, *x.shape[2:]), dtype=torch.float32)
    launch.run(launch.similarity_forward(x, out, dilation), env.autotune())
    return out


def local_similarity_backward(grad_out: Tensor, x: Tensor, dilation: int) -> Tensor:
    """See `reference.local_similarity_backward`."""
    grad_x = empty_in_format(x, x.shape)
    launch.run(launch.similarity_backward(grad_out, x, grad_x, dilation), env.autotune())
    return grad_x


def _forward(
    x: Tensor, weight: Tensor, f: Filter, padding_mode: str, lse: Tensor | None = None
) -> Tensor:
    out = empty_in_format(x, (*x.shape[:2], *weight.shape[2:]))
    if x.numel():
        x, f = _with_border(x, f, padding_mode)
        launch.run(launch.forward(f, x, weight, out, lse), env.autotune())
    return out


def _backward(
    grad_out: Tensor,
    x: Tensor,
    weight: Tensor,
    lse: Tensor | None,
    f: Filter,
    padding_mode: str,
    need_x: bool,
    need_weight: bool,
) -> tuple[Tensor, Tensor]:
    grad_x = empty_in_format(x, x.shape if need_x else (0, 0, 0, 0))
    grad_weight = empty_in_format(weight, weight.shape if need_weight else (0, 0, 0, 0))
    if x.numel() == 0:
        return grad_x.zero_(), grad_weight.zero_()
    bordered, f = _with_border(x, f, padding_mode)
    if need_weight:
        passes = launch.backward_weight(f, grad_out, bordered, weight, grad_weight, lse)
        launch.run(passes, env.autotune())
    if need_x:
        target = torch.empty_like(bordered, dtype=torch.float32) if f.border else grad_x
        launch.run(launch.backward_x(f, grad_out, weight, target, lse), env.autotune())
        if f.border:
            grad_x.copy_(pad_backward(target, f.border, padding_mode))
    return grad_x, grad_weight


def _with_border(x: Tensor, f: Filter, padding_mode: str) -> tuple[Tensor, Filter]:
    """`x` surrounded by what taps outside of it read, unless that is zeros."""
    border = f.kernel_size // 2
    if padding_mode == "zeros" or border == 0:
        return x, f
    return pad(x, border, padding_mode), f._replace(border=border)


def _flat(window: Tensor | None) -> Tensor | None:
    return None if window is None else window.reshape(-1).contiguous()
