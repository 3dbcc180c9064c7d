"""Spatially-variant filtering: the public functions and their registration with torch.library."""

from __future__ import annotations

import torch
from torch import Tensor

from . import backend
from ._checks import check_filter, check_same_device
from ._geometry import accumulate_dtype, autocast_input, empty_in_format, without_autocast
from .flops import register_when_imported


def reassemble(
    x: Tensor,
    weight: Tensor,
    kernel_size: int,
    scale_factor: int | None = None,
    groups: int = 1,
    padding_mode: str = "zeros",
) -> Tensor:
    """Filters every output position with its own kernel: CARAFE's reassembly operator.

    With taps (p, q) of the kernel, r = k // 2, and g the group of channel c,

        out[b, c, i, j] = sum over p, q of
            weight[b, g*k*k + p*k + q, i, j] * x[b, c, i*h//H + p - r, j*w//W + q - r]

    The weights are used as they are. Sums are taken in float32 (float64 for float64 inputs). Under
    autocast, `x` is cast to the autocast dtype.

    Args:
        x: the map to filter.
        weight: one kernel for every output position and group; its size is the output size.
        kernel_size: side k of the kernel, odd.
        scale_factor: if given, `weight` must be that many times as large as `x`; by default any
            H >= h, W >= w will do.
        groups: number of channel groups, each with kernels of its own.
        padding_mode: what a tap outside of `x` reads: "zeros", or "reflect" for the map mirrored at
            its border pixels.

    Shape:
        - x: (B, C, h, w), float64, float32, bfloat16 or float16; NCHW or channels_last
        - weight: (B, groups * kernel_size**2, H, W), any floating dtype
        - output: (B, C, H, W) in the dtype and memory format of `x`

    Raises:
        ValueError: if shapes, devices or options do not fit; the message names the argument and its
            value.
        TypeError: if `x` or `weight` is not a floating point tensor.
        NotImplementedError: under forward-mode differentiation.

    Source: Wang et al., "CARAFE: Content-Aware ReAssembly of FEatures", ICCV 2019, equation (3).

    Example:
        >>> x = torch.randn(1, 8, 16, 16)
        >>> weight = torch.randn(1, 25, 32, 32).softmax(1)
        >>> reassemble(x, weight, kernel_size=5).shape
        torch.Size([1, 8, 32, 32])
    """
    check_filter(x, "weight", weight, kernel_size, scale_factor, groups, padding_mode)
    return _reassemble(autocast_input(x), weight, kernel_size, groups, padding_mode)


def adaptive_filter(
    x: Tensor,
    logits: Tensor,
    kernel_size: int,
    scale_factor: int | None = None,
    groups: int = 1,
    window: Tensor | None = None,
    padding_mode: str = "zeros",
) -> Tensor:
    """`reassemble` with kernels that are normalised inside.

    A kernel is the softmax of its logits over the taps, times `window`, divided by the sum: that is
    softmax(logits + log window). Backward recomputes it.

    Args:
        x: the map to filter.
        logits: unnormalised kernels for every output position and group.
        kernel_size: see `reassemble`.
        scale_factor: see `reassemble`.
        groups: see `reassemble`.
        window: non-negative factors of the taps, (k, k) or anything of k*k elements; no gradient
            flows to it.
        padding_mode: see `reassemble`.

    Shape:
        - x: (B, C, h, w)
        - logits: (B, groups * kernel_size**2, H, W), any floating dtype; the softmax is taken in
          float32 at least
        - output: (B, C, H, W) in the dtype and memory format of `x`

    Raises:
        ValueError, TypeError, NotImplementedError: as `reassemble`, and ValueError for a window of
            another size or device.

    Source: FreqFusion (TPAMI 2024, arXiv 2408.12879), the adaptive low-pass and high-pass filters.

    Example:
        >>> x = torch.randn(1, 8, 16, 16)
        >>> adaptive_filter(x, torch.zeros(1, 9, 16, 16), kernel_size=3).shape  # a box blur
        torch.Size([1, 8, 16, 16])
    """
    check_filter(x, "logits", logits, kernel_size, scale_factor, groups, padding_mode)
    window = _checked_window(window, x, kernel_size)
    args = window, kernel_size, groups, padding_mode, 0
    return _adaptive_filter(autocast_input(x), logits, *args)[0]


def adaptive_high_pass(
    x: Tensor,
    logits: Tensor,
    kernel_size: int,
    groups: int = 1,
    window: Tensor | None = None,
    padding_mode: str = "zeros",
    residual: bool = False,
) -> Tensor:
    """High frequencies of `x`: `x - adaptive_filter(x, ...)`, in one pass over memory.

    Args:
        x: the map to filter.
        logits: see `adaptive_filter`, here of the size of `x`.
        kernel_size: see `adaptive_filter`.
        groups: see `adaptive_filter`.
        window: see `adaptive_filter`.
        padding_mode: see `adaptive_filter`.
        residual: add them to `x`, which sharpens it: `2 * x - adaptive_filter(x, ...)`.

    Shape:
        - x: (B, C, H, W); logits: (B, groups * kernel_size**2, H, W)
        - output: (B, C, H, W) in the dtype and memory format of `x`

    Raises:
        ValueError, TypeError, NotImplementedError: as `adaptive_filter`.

    Source: FreqFusion (TPAMI 2024, arXiv 2408.12879), the adaptive high-pass filter.

    Example:
        >>> x = torch.full((1, 8, 16, 16), 3.0)
        >>> adaptive_high_pass(x, torch.zeros(1, 9, 16, 16), 3)[0, 0, 8, 8].abs() < 1e-6
        tensor(True)
    """
    check_filter(x, "logits", logits, kernel_size, 1, groups, padding_mode)
    window = _checked_window(window, x, kernel_size)
    args = window, kernel_size, groups, padding_mode, 2 if residual else 1
    return _adaptive_filter(autocast_input(x), logits, *args)[0]


def carafe(
    features: Tensor, masks: Tensor, kernel_size: int, group_size: int = 1, scale_factor: int = 1
) -> Tensor:
    """`reassemble` under the name and argument order of mmcv's operator, `mmcv.ops.carafe`.

    Example:
        >>> features, masks = torch.randn(1, 8, 16, 16), torch.randn(1, 25, 32, 32).softmax(1)
        >>> carafe(features, masks, 5, 1, 2).shape
        torch.Size([1, 8, 32, 32])
    """
    return reassemble(features, masks, kernel_size, scale_factor, group_size)


def _checked_window(window: Tensor | None, x: Tensor, kernel_size: int) -> Tensor | None:
    if window is None:
        return None
    if not isinstance(window, Tensor):
        raise TypeError(f"window must be a Tensor, got {type(window).__name__}")
    if window.numel() != kernel_size**2:
        raise ValueError(
            f"window must have kernel_size**2 = {kernel_size**2} elements, "
            f"got shape {tuple(window.shape)}"
        )
    check_same_device("window", window, "x", x)
    return window.detach()


# The operators; `backend` says what computes them.


@torch.library.custom_op("freqfusion::reassemble", mutates_args=())
def _reassemble(
    x: Tensor, weight: Tensor, kernel_size: int, groups: int, padding_mode: str
) -> Tensor:
    args = kernel_size, groups, padding_mode
    with without_autocast(x):
        return backend.of(x, weight, kernel_size).reassemble_forward(x, weight, *args)


@torch.library.custom_op("freqfusion::reassemble_backward", mutates_args=())
def _reassemble_backward(
    grad_out: Tensor,
    x: Tensor,
    weight: Tensor,
    kernel_size: int,
    groups: int,
    padding_mode: str,
    need_x: bool,
    need_weight: bool,
) -> tuple[Tensor, Tensor]:
    args = kernel_size, groups, padding_mode, need_x, need_weight
    with without_autocast(x):
        return backend.of(x, weight, kernel_size).reassemble_backward(grad_out, x, weight, *args)


@torch.library.custom_op("freqfusion::adaptive_filter", mutates_args=())
def _adaptive_filter(
    x: Tensor,
    logits: Tensor,
    window: Tensor | None,
    kernel_size: int,
    groups: int,
    padding_mode: str,
    identity: int,
) -> tuple[Tensor, Tensor]:
    """Filtered map and log-sum-exp; with `identity` n > 0, n * x minus the filtered map."""
    args = window, kernel_size, groups, padding_mode, identity
    with without_autocast(x):
        return backend.of(x, logits, kernel_size).adaptive_filter_forward(x, logits, *args)


@torch.library.custom_op("freqfusion::adaptive_filter_backward", mutates_args=())
def _adaptive_filter_backward(
    grad_out: Tensor,
    x: Tensor,
    logits: Tensor,
    window: Tensor | None,
    lse: Tensor,
    kernel_size: int,
    groups: int,
    padding_mode: str,
    identity: int,
    need_x: bool,
    need_logits: bool,
) -> tuple[Tensor, Tensor]:
    args = window, lse, kernel_size, groups, padding_mode, identity, need_x, need_logits
    with without_autocast(x):
        return backend.of(x, logits, kernel_size).adaptive_filter_backward(
            grad_out, x, logits, *args
        )


# Shapes and strides without data.


@_reassemble.register_fake
def _(x, weight, kernel_size, groups, padding_mode):
    return empty_in_format(x, (*x.shape[:2], *weight.shape[2:]))


@_adaptive_filter.register_fake
def _(x, logits, window, kernel_size, groups, padding_mode, identity):
    batch, _, height, width = logits.shape
    lse = logits.new_empty((batch, groups, height, width), dtype=accumulate_dtype(logits))
    return empty_in_format(x, (*x.shape[:2], height, width)), lse


def _fake_gradients(x, weight, need_x, need_weight):
    grad_x = empty_in_format(x, x.shape if need_x else (0, 0, 0, 0))
    return grad_x, empty_in_format(weight, weight.shape if need_weight else (0, 0, 0, 0))


@_reassemble_backward.register_fake
def _(grad_out, x, weight, kernel_size, groups, padding_mode, need_x, need_weight):
    return _fake_gradients(x, weight, need_x, need_weight)


@_adaptive_filter_backward.register_fake
def _(
    grad_out,
    x,
    logits,
    window,
    lse,
    kernel_size,
    groups,
    padding_mode,
    identity,
    need_x,
    need_logits,
):
    return _fake_gradients(x, logits, need_x, need_logits)


# Autograd.


def _wanted(gradients: tuple[Tensor, Tensor], needed: tuple[bool, bool]) -> list[Tensor | None]:
    return [grad if need else None for grad, need in zip(gradients, needed, strict=True)]


def _reassemble_setup(ctx, inputs, output):
    x, weight, *ctx.options = inputs
    ctx.save_for_backward(x, weight)


def _reassemble_gradients(ctx, grad_out):
    needed = ctx.needs_input_grad[:2]
    gradients = _reassemble_backward(grad_out, *ctx.saved_tensors, *ctx.options, *needed)
    return *_wanted(gradients, needed), None, None, None


def _adaptive_filter_setup(ctx, inputs, output):
    x, logits, window, *ctx.options = inputs
    ctx.save_for_backward(x, logits, window, output[1])
    ctx.mark_non_differentiable(output[1])


def _adaptive_filter_gradients(ctx, grad_out, grad_lse):
    needed = ctx.needs_input_grad[:2]
    gradients = _adaptive_filter_backward(grad_out, *ctx.saved_tensors, *ctx.options, *needed)
    return *_wanted(gradients, needed), None, None, None, None, None


_reassemble.register_autograd(_reassemble_gradients, setup_context=_reassemble_setup)
_adaptive_filter.register_autograd(_adaptive_filter_gradients, setup_context=_adaptive_filter_setup)

register_when_imported()
