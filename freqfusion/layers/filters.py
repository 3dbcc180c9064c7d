"""Parts of the adaptive filters: window, kernel normalisation, upsampling by repetition."""

from __future__ import annotations

import torch
from torch import Tensor


def hamming2d(kernel_size: int) -> Tensor:
    """The two-dimensional Hamming window (1, 1, k, k), which tames the ringing of a filter.

    Example:
        >>> hamming2d(3)[0, 0, 1]
        tensor([0.0800, 1.0000, 0.0800])
    """
    row = torch.hamming_window(kernel_size, periodic=False, dtype=torch.float64)
    return torch.outer(row, row).to(torch.get_default_dtype())[None, None]


def normalise_kernels(
    logits: Tensor, kernel_size: int, groups: int = 1, window: Tensor | None = None
) -> Tensor:
    """Softmax over the taps, times `window`, over its sum: what `adaptive_filter` does inside.

    Shape:
        - logits, output: (B, groups * kernel_size**2, H, W); the softmax is taken in float32 at
          least

    Example:
        >>> kernels = normalise_kernels(torch.randn(1, 18, 4, 4), 3, groups=2)
        >>> kernels.unflatten(1, (2, 9)).sum(2).allclose(torch.ones(1))
        True
    """
    dtype = torch.promote_types(logits.dtype, torch.float32)
    taps = logits.to(dtype).unflatten(1, (groups, kernel_size**2))
    if window is not None:
        taps = taps + window.to(dtype).log().reshape(-1, 1, 1)
    return taps.softmax(2).flatten(1, 2).to(logits.dtype)


def nearest_resize(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Resizes `x` (B, C, h, w) to `size` (H, W): row i is row floor(i*h/H), exactly.

    `torch.nn.functional.interpolate` computes that index in floating point, and misses some.
    """
    for dim, target in zip((2, 3), size, strict=True):
        source = x.shape[dim]
        # a compiled or exported graph must hold for every size, so it gets no shortcut
        if torch.compiler.is_compiling() or source != target:
            x = x.index_select(dim, torch.arange(target, device=x.device) * source // target)
    return x
