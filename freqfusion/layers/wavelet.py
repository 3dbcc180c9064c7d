"""One level of the two-dimensional discrete wavelet transform, and its inverse."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..ops._checks import check_map, check_same_device
from ..ops._geometry import memory_format_of, without_autocast

HAAR = "haar"


class _Wavelet2d(nn.Module):
    """What the two directions share: the name of the wavelet."""

    def __init__(self, wavelet: str = HAAR):
        super().__init__()
        _check_wavelet(wavelet)
        self.wavelet = wavelet

    def extra_repr(self) -> str:
        return repr(self.wavelet)


class DWT2d(_Wavelet2d):
    """Splits a map into a low band of half its size, LL, and three high ones, LH, HL and HH.

    LH is high-pass along the height (horizontal edges), HL along the width (vertical edges), HH
    along both; order and signs are those of PyWavelets. Haar is orthonormal, its low-pass is
    (first + second) / sqrt(2), its high-pass (first - second) / sqrt(2), and the last row or column
    of an odd size is taken twice. Other wavelets mirror the map at its borders, and their bands are
    larger by about half the length of the filter.

    Haar is plain PyTorch; it compiles to one graph and exports, with open sizes if they are even.
    The others are computed by the
    package ptwt, in float32 at least: ``pip install "freqfusion[wavelets]"``.

    Args:
        wavelet: "haar", or a discrete wavelet of PyWavelets such as "db2" or "bior2.2".

    Shape:
        - x: (B, C, H, W), any H and W
        - output: low (B, C, h, w) and high (B, 3C, h, w), all channels of LH, then of HL, then of
          HH, in the dtype and memory format of `x`; for Haar h = ceil(H/2) and w = ceil(W/2)

    Raises:
        ImportError: if `wavelet` is not "haar" and ptwt is not installed.
        ValueError: if there is no such wavelet, or `x` is no map.
        TypeError: if `x` is no floating point tensor.

    Source: Mallat, "A Theory for Multiresolution Signal Decomposition", TPAMI 1989.

    Example:
        >>> low, high = DWT2d()(torch.tensor([[[[1.0, 1.0], [5.0, 5.0]]]]))
        >>> low.flatten().tolist(), high.flatten().tolist()
        ([6.0], [-4.0, 0.0, 0.0])
    """

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Splits `x` into its low band and its high bands; see the class."""
        check_map("x", x)
        with without_autocast(x):
            return _split_haar(x) if self.wavelet == HAAR else _split_by_ptwt(x, self.wavelet)


class IDWT2d(_Wavelet2d):
    """Puts a map together from its bands: the inverse of `DWT2d` at every size.

    It is exact to rounding, and to the taps of the wavelet, which PyWavelets has to about 1e-11
    for its symlets and to no more than 1e-2 for "dmey".

    Args:
        wavelet: see `DWT2d`.

    Shape:
        - low: (B, C, h, w); high: (B, 3C, h, w), all channels of LH, then of HL, then of HH
        - output: (B, C, *size)

    Raises:
        ImportError: if `wavelet` is not "haar" and ptwt is not installed.
        ValueError: if there is no such wavelet, or the bands or `size` do not fit.
        TypeError: if a band is no floating point tensor.

    Source: see `DWT2d`.

    Example:
        >>> x = torch.randn(2, 8, 15, 1)
        >>> IDWT2d()(*DWT2d()(x), size=(15, 1)).allclose(x, atol=1e-6)
        True
    """

    def forward(self, low: Tensor, high: Tensor, size: Sequence[int] | None = None) -> Tensor:
        """Puts bands together.

        Args:
            low: the low band.
            high: the high bands.
            size: height and width of the map that was split, where an odd one cannot be told from
                the next even one; by default both are taken to be even.
        """
        _check_bands(low, high)
        haar = self.wavelet == HAAR
        with without_autocast(low):
            x = _merge_haar(low, high) if haar else _merge_by_ptwt(low, high, self.wavelet)
        height, width = x.shape[2:] if size is None else size
        if height not in (x.shape[2], x.shape[2] - 1) or width not in (x.shape[3], x.shape[3] - 1):
            full = tuple(x.shape[2:])
            raise ValueError(f"size must be {full} or less by 1, got {(height, width)}")
        return x[..., :height, :width]


def pad_end(x: Tensor, rows: int, columns: int, mode: str) -> Tensor:
    """Adds rows below and columns at the right: "reflect"ed ones, or "replicate"s of the last.

    As `torch.nn.functional.pad`, whose backward is not deterministic on GPUs.
    """
    for dim, count in ((2, rows), (3, columns)):
        size = x.shape[dim]
        if torch.compiler.is_compiling():  # one graph for all sizes, whatever they lack
            position = torch.arange(size + count, device=x.device)
            x = x.index_select(dim, _inside(position, size, mode))
        elif count:
            beyond = torch.arange(size, size + count, device=x.device)
            added = x.index_select(dim, _inside(beyond, size, mode))
            x = torch.cat((x, added.contiguous(memory_format=memory_format_of(x))), dim)
    return x


def _inside(position: Tensor, size: int, mode: str) -> Tensor:
    """Positions that a row of `size` has, for some that may be beyond its end."""
    last = size - 1
    if mode == "reflect":
        return torch.minimum(position, 2 * last - position)
    return position.clamp(max=last)


def _split_haar(x: Tensor) -> tuple[Tensor, Tensor]:
    x = pad_end(x, x.shape[2] % 2, x.shape[3] % 2, "replicate")
    first, second = x[:, :, ::2] * 0.5, x[:, :, 1::2] * 0.5
    total, difference = first + second, first - second
    (a, b), (c, d) = ((y[..., ::2], y[..., 1::2]) for y in (total, difference))
    return a + b, torch.cat((c + d, a - b, c - d), 1)


def _merge_haar(low: Tensor, high: Tensor) -> Tensor:
    lh, hl, hh = (high * 0.5).chunk(3, 1)
    low = low * 0.5
    total = _interleave(low + hl, low - hl, 3)
    difference = _interleave(lh + hh, lh - hh, 3)
    return _interleave(total + difference, total - difference, 2)


def _interleave(first: Tensor, second: Tensor, dim: int) -> Tensor:
    """Rows (`dim` 2) or columns (3) of two maps in turns, in the memory format of `first`."""
    if memory_format_of(first) == torch.contiguous_format:
        return torch.stack((first, second), dim + 1).flatten(dim, dim + 1)
    views = [x.permute(0, 2, 3, 1) for x in (first, second)]
    return torch.stack(views, dim).flatten(dim - 1, dim).permute(0, 3, 1, 2)


def _split_by_ptwt(x: Tensor, wavelet: str) -> tuple[Tensor, Tensor]:
    import ptwt

    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    low, high = ptwt.wavedec2(wide, wavelet, level=1, mode="symmetric")
    layout = memory_format_of(x)
    bands = low, torch.cat(high, 1)
    return tuple(y.to(x.dtype).contiguous(memory_format=layout) for y in bands)


def _merge_by_ptwt(low: Tensor, high: Tensor, wavelet: str) -> Tensor:
    import ptwt

    dtype = torch.promote_types(low.dtype, high.dtype)
    wide = [y.to(torch.promote_types(dtype, torch.float32)) for y in (low, high)]
    x = ptwt.waverec2((wide[0], wide[1].chunk(3, 1)), wavelet)
    return x.to(dtype).contiguous(memory_format=memory_format_of(low))


def _check_wavelet(wavelet: str):
    if wavelet == HAAR:
        return
    try:
        import ptwt  # noqa: F401
        import pywt
    except ImportError as error:
        raise ImportError(
            f"wavelet {wavelet!r} needs the package ptwt, which is not installed; "
            'pip install "freqfusion[wavelets]" installs it'
        ) from error
    if wavelet not in pywt.wavelist(kind="discrete"):
        raise ValueError(
            "wavelet must be 'haar' or one of pywt.wavelist(kind='discrete'), such as 'db2', "
            f"got {wavelet!r}"
        )


def _check_bands(low: Tensor, high: Tensor):
    check_map("low", low)
    check_map("high", high)
    check_same_device("high", high, "low", low)
    batch, channels, *size = low.shape
    expected = batch, 3 * channels, *size
    if high.shape != expected:
        raise ValueError(f"high must have shape {expected} beside low, got {tuple(high.shape)}")
