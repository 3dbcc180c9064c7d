"""Spectra: how the power of features, and the gain of filters, spreads over spatial frequencies."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ..ops._checks import check_map, check_odd, check_positive
from ..ops._geometry import accumulate_dtype, without_autocast
from ._tally import Moments

NYQUIST = 0.5  # cycles per pixel: the finest pattern that rows or columns of pixels can hold
FINE = NYQUIST / 2  # a map of half the size holds nothing above that
KERNEL_CHUNK = 4096  # kernels that are transformed at a time


class RadialSpectrum:
    """Power of feature maps by spatial frequency, whatever its direction.

    The mean of a channel is taken away and its borders fade out (Hann window). The power at a
    frequency is |FFT|**2 over the number of pixels and the window's mean square: white noise
    has its variance at every frequency, in maps of any size. It is averaged over the channels, the
    frequencies of a bin, and the images.

    Args:
        bins: bins of equal width from 0, exclusive, to the Nyquist frequency, inclusive; those of
            diagonal patterns follow, up to 0.71 cycles per pixel.

    Example:
        >>> spectrum = RadialSpectrum()
        >>> spectrum.update(torch.randn(1, 8, 64, 64))
        >>> 0.9 < spectrum.compute()["variance"] < 1.1
        True
    """

    def __init__(self, bins: int = 16):
        check_positive("bins", bins)
        self.bins = bins
        count = math.ceil(math.sqrt(2) * bins)
        self._power = torch.zeros(count, dtype=torch.float64)  # sums over frequencies and maps
        self._counts = torch.zeros(count, dtype=torch.float64)
        self._share = torch.zeros(count, dtype=torch.float64)  # of the variance of each map, summed
        self._variance = 0.0
        self._maps = 0

    @torch.no_grad()
    def update(self, features: Tensor) -> None:
        """Adds maps (B, C, H, W), or one of (C, H, W), of any size."""
        features = features[None] if features.dim() == 3 else features
        check_map("features", features)
        index, weight = self._bins_of(features.shape[2:])
        for feature in features:
            x = feature.to(accumulate_dtype(feature))
            x = x - x.mean((1, 2), keepdim=True)
            self._variance += x.square().mean().item()
            power = _power(x).flatten().cpu().double() * weight
            sums = torch.zeros_like(self._power).index_add_(0, index, power)
            self._power += sums
            self._counts.index_add_(0, index, weight)
            self._share += sums / sums.sum().clamp(min=torch.finfo(sums.dtype).tiny)
            self._maps += 1

    def compute(self) -> dict:
        """Returns the spectrum of all maps so far.

        Returns:
            ``frequency``, the centres of the bins in cycles per pixel, ``nyquist`` among them;
            ``power`` in each bin (None if no map has a frequency there); ``variance`` of the maps;
            ``fine_share``, the part of the power above half of the Nyquist frequency, mean over
            maps.
        """
        frequency = (torch.arange(len(self._power)) + 0.5) * (NYQUIST / self.bins)
        known = self._counts > 0
        power = (self._power / self._counts.clamp(min=1)).tolist()
        maps = max(self._maps, 1)
        return {
            "maps": self._maps,
            "nyquist": NYQUIST,
            "variance": self._variance / maps,
            "fine_share": (self._share[frequency > FINE].sum() / maps).item(),
            "frequency": frequency.tolist(),
            "power": [value if there else None for value, there in zip(power, known, strict=True)],
        }

    def _bins_of(self, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Bin of each frequency that a real FFT gives, and how many it stands for, both flat."""
        rows = torch.fft.fftfreq(size[0], dtype=torch.float64)
        cols = torch.fft.rfftfreq(size[1], dtype=torch.float64)
        radius = torch.hypot(*torch.meshgrid(rows, cols, indexing="ij"))
        index = (radius * (self.bins / NYQUIST)).ceil().long() - 1
        weight = torch.full_like(radius, 2.0)  # with the conjugate, which the FFT leaves out
        weight[:, cols == 0] = 1
        weight[:, cols == NYQUIST] = 1
        weight[0, 0] = 0  # the mean
        return index.clamp(min=0).flatten(), weight.flatten()


def _power(x: Tensor) -> Tensor:
    """Power at each frequency that a real FFT of `x` (C, H, W) gives, mean over channels."""
    rows, cols = (
        torch.hann_window(n + 2, periodic=False, dtype=x.dtype, device=x.device)[1:-1]
        for n in x.shape[1:]
    )
    window = torch.outer(rows, cols)
    power = torch.fft.rfft2(x * window).abs().square().mean(0)
    return power / window.square().sum()


class KernelResponse:
    """Frequency responses of the kernels that a filter has at every position.

    The gain of a kernel is |FFT| of its taps: what a pattern of that frequency is multiplied by.
    Frequencies are in cycles per pixel of the map that is filtered.

    Args:
        kernel_size: side of the kernels, odd.
        high_pass: the filter takes away what the kernels give, so that its gain is that of the
            identity less the kernel.
        points: frequencies from 0, exclusive, to Nyquist, inclusive.

    Example:
        >>> response = KernelResponse(3, points=2)
        >>> response.update(torch.full((1, 9, 4, 4), 1 / 9))
        >>> [round(gain, 3) for gain in response.compute()["gain"]["mean"][2]]  # of rows alike
        [0.333, 0.333, 1.0, 0.333, 0.333]
    """

    def __init__(self, kernel_size: int, high_pass: bool = False, points: int = 16):
        check_odd("kernel_size", kernel_size)
        check_positive("points", points)
        self.kernel_size, self.high_pass = kernel_size, high_pass
        self.axis = torch.arange(-points, points + 1, dtype=torch.float64) * (NYQUIST / points)
        phase = torch.outer(torch.arange(kernel_size) - kernel_size // 2, 2 * math.pi * self.axis)
        phases = phase[:, None, :, None] + phase[None, :, None, :]  # of rows and of columns
        self._phase = phases.reshape(kernel_size**2, -1)  # (taps, frequencies)
        radius = torch.hypot(self.axis[:, None], self.axis).flatten()
        rings = F.one_hot((radius * (points / NYQUIST)).round().long()).double()
        self._rings = rings / rings.sum(0)  # (frequencies, rings): averages
        self._taps, self._gain, self._radial = Moments(), Moments(), Moments()

    @torch.no_grad()
    def update(self, kernels: Tensor) -> None:
        """Adds kernels (B, groups * kernel_size**2, H, W), as `FreqFusion.predict` gives them."""
        check_map("kernels", kernels)
        taps = self.kernel_size**2
        if kernels.shape[1] % taps:
            raise ValueError(f"kernels must have k * {taps} channels, got {kernels.shape[1]}")
        x = kernels.to(accumulate_dtype(kernels)).unflatten(1, (-1, taps))
        x = x.movedim(2, -1).reshape(-1, taps)
        if self.high_pass:
            x = -x
            x[:, taps // 2] += 1
        cos, sin, rings = (m.to(x) for m in (self._phase.cos(), self._phase.sin(), self._rings))
        with without_autocast(x):
            for chunk in x.split(KERNEL_CHUNK):
                gain = torch.hypot(chunk @ cos, chunk @ sin)
                self._taps.add(chunk)
                self._gain.add(gain)
                self._radial.add(gain @ rings)

    @property
    def kernels(self) -> int:
        """Number of kernels so far."""
        return self._taps.count

    def compute(self) -> dict:
        """Returns means and standard deviations over all kernels so far.

        Returns:
            ``kernels``, how many; ``taps``, ``gain`` and ``radial``, each with ``mean`` and
            ``std``: the filter's weights (k x k); its gain at the frequencies of ``frequency``,
            rows by columns; its gain in rings, at ``radial.frequency``.
        """
        side, points = self.kernel_size, len(self.axis)
        step = (self.axis[1] - self.axis[0]).item()
        return {
            "kernels": self.kernels,
            "frequency": self.axis.tolist(),
            "taps": self._taps.compute((side, side)),
            "gain": self._gain.compute((points, points)),
            "radial": {
                "frequency": [step * ring for ring in range(self._rings.shape[1])],
                **self._radial.compute((-1,)),
            },
        }
