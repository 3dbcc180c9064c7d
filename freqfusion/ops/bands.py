"""Low and high frequency bands of feature maps."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor

from ._checks import check_between, check_choice, check_map
from ._geometry import accumulate_dtype, without_autocast

MASKS = ("radial", "square", "magnitude_quantile")
NYQUIST = 0.5  # cycles per pixel
EPS = 1e-6


def frequency_split(
    x: Tensor, cutoff: float, mask: str = "radial", soft: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Splits maps into a low and a high frequency band that add up to them.

    Of what `x`'s dtype can express, nothing is lost: `high` is `x - low` bit for bit, everywhere,
    and `low + high` is `x` bit for bit wherever one of the bands is not larger than `x`. Where
    both are and cancel, the sum is off by the rounding of the bands, at most; no other numbers of
    their size would do better. (Of half precision that `torch.compile` has fused, it is true up to
    the rounding of the bands.)

    The transform is in float32 (float64 for float64 maps), under autocast too.

    Args:
        x: feature maps.
        cutoff: where the bands meet, as a fraction of the Nyquist frequency of 0.5 cycles per
            pixel, 0 to 1; 0 leaves only the mean in `low`.
        mask: what counts as a frequency: "radial": the length of the vector of both frequencies;
            "square": the larger of the two. Or "magnitude_quantile", for comparison only: `low`
            has the largest coefficients of an image, `cutoff` of all, wherever they are.
        soft: width of a smooth transition around `cutoff`, in the same unit; 0 is a sharp one.

    Shape:
        - x: (B, C, H, W), any size
        - low, high: as x

    Raises:
        ValueError: if `x` is not a map, or another argument is out of its range.
        TypeError: if `x` is not a floating point tensor.

    Source: FRAMER (CVPR 2026), the decomposition into LF and HF.

    Example:
        >>> x = torch.randn(1, 8, 32, 48)
        >>> low, high = frequency_split(x, cutoff=0.2)
        >>> torch.equal(high, x - low)
        True
    """
    check_map("x", x)
    check_bands(cutoff, mask, soft)
    with without_autocast(x):
        coefficients = spectrum(x)
        weight = low_weight(coefficients, x.shape[3], cutoff, mask, soft)
        low = _from_spectrum(coefficients * weight, x.shape[2:]).to(x.dtype)
    high = x - low
    low = x - high  # what `high` was rounded by
    return low, x - low


def band_energy(
    x: Tensor, cutoff: float, mask: str = "radial", soft: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Mean magnitude of the Fourier coefficients of each image in the low and in the high band.

    The transform is orthonormal, so that the size of the maps does not matter. A band without any
    coefficients has the energy 0.

    Args:
        x: feature maps.
        cutoff: see `frequency_split`.
        mask: see `frequency_split`.
        soft: see `frequency_split`.

    Shape:
        - x: (B, C, H, W)
        - low, high: (B,), float32 (float64 for float64 maps)

    Raises:
        ValueError, TypeError: see `frequency_split`.

    Source: FRAMER (CVPR 2026), the energies of its adaptive weights.

    Example:
        >>> low, high = band_energy(torch.ones(1, 8, 4, 4), cutoff=0.2)
        >>> low.item(), high.item()
        (4.0, 0.0)
    """
    check_map("x", x)
    check_bands(cutoff, mask, soft)
    with without_autocast(x):
        coefficients = spectrum(x)
        weight = low_weight(coefficients, x.shape[3], cutoff, mask, soft)
        return energies(coefficients, weight, x.shape[3])


def check_bands(cutoff: float, mask: str, soft: float):
    """Raises ValueError unless the arguments describe two bands."""
    check_choice("mask", mask, MASKS)
    check_between("cutoff", cutoff, 0, 1)
    check_between("soft", soft, 0, 1)
    if soft and mask == "magnitude_quantile":
        raise ValueError(f"soft must be 0 for mask 'magnitude_quantile', got {soft!r}")


def spectrum(x: Tensor) -> Tensor:
    """Fourier coefficients (B, C, H, W // 2 + 1): those of the other columns are conjugates."""
    x = x.to(accumulate_dtype(x))
    if x.numel() == 0:  # the transform refuses an empty batch
        return x.new_zeros((*x.shape[:3], x.shape[3] // 2 + 1), dtype=x.dtype.to_complex())
    return torch.fft.rfft2(x, norm="ortho")


def _from_spectrum(coefficients: Tensor, size: tuple[int, int]) -> Tensor:
    """Maps of (H, W) pixels."""
    if coefficients.numel() == 0:
        return coefficients.real.new_zeros((*coefficients.shape[:2], *size))
    return torch.fft.irfft2(coefficients, s=size, norm="ortho")


def low_weight(coefficients: Tensor, width: int, cutoff: float, mask: str, soft: float) -> Tensor:
    """Weights 0 to 1 of coefficients in the low band; the high band has the rest."""
    if mask == "magnitude_quantile":
        return _largest(coefficients.abs(), cutoff)
    height, dtype = coefficients.shape[2], coefficients.real.dtype
    build = through_cache(_window, coefficients)
    return build(height, width, cutoff, mask, soft, dtype, coefficients.device)


def column_weight(coefficients: Tensor, width: int) -> Tensor:
    """How many coefficients of a full spectrum each column of its half stands for: 1 or 2."""
    return through_cache(_columns, coefficients)(
        width, coefficients.real.dtype, coefficients.device
    )


def energies(coefficients: Tensor, weight: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Mean magnitude of an image's coefficients in the low and in the high band, (B,) each."""
    magnitude, columns = coefficients.abs(), column_weight(coefficients, width)
    low, high = (
        (magnitude * share).sum((1, 2, 3))
        / share.expand_as(magnitude).sum((1, 2, 3)).clamp_min(EPS)
        for share in (weight * columns, (1 - weight) * columns)
    )
    return low, high


def through_cache(function: Callable[..., Tensor], x: Tensor) -> Callable[..., Tensor]:
    """`function`, or what it is without its cache if `x` is traced: tensors would outlive that."""
    is_traced = torch.compiler.is_compiling() or type(x) is not Tensor
    return function.__wrapped__ if is_traced else function


@functools.lru_cache(maxsize=64)
@torch.inference_mode(False)  # whoever asks first, gradients may be taken later
def _window(
    height: int,
    width: int,
    cutoff: float,
    mask: str,
    soft: float,
    dtype: torch.dtype,
    device: torch.device,
) -> Tensor:
    """Weights (H, W // 2 + 1) of the low band."""
    # not `torch.fft.fftfreq`, which would fix the size in a compiled graph
    row, column = (torch.arange(n, device=device) for n in (height, width // 2 + 1))
    rows = torch.minimum(row, height - row).to(dtype)[:, None] / height
    columns = column.to(dtype) / width
    frequency = torch.hypot(rows, columns) if mask == "radial" else torch.maximum(rows, columns)
    beyond = frequency / NYQUIST - cutoff
    if soft:
        return 0.5 - 0.5 * torch.sin(torch.pi * (beyond / soft).clamp(-0.5, 0.5))
    return (beyond <= EPS).to(dtype)  # a frequency at the cutoff is low, however it is rounded


@functools.lru_cache(maxsize=64)
@torch.inference_mode(False)
def _columns(width: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    column = torch.arange(width // 2 + 1, device=device)
    alone = (column == 0) | (2 * column == width)
    return torch.where(alone, 1.0, 2.0).to(dtype)


def _largest(magnitude: Tensor, share: float) -> Tensor:
    """Weights (B, C, H, W // 2 + 1): 1 for the `share` of an image's largest values."""
    values = magnitude.detach().flatten(1)
    count = round(share * values.shape[1])
    if count == 0:
        return torch.zeros_like(magnitude)
    # not `torch.quantile`, which takes 2**24 values at most
    threshold = values.kthvalue(values.shape[1] - count + 1, dim=1).values
    return (magnitude >= threshold[:, None, None, None]).to(magnitude.dtype)
