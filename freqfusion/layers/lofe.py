"""LoFE: enhancement of the low frequencies of a map in its wavelet domain."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..ops._checks import check_choice, check_map, check_positive
from .wavelet import HAAR, DWT2d, IDWT2d, pad_end

NORMS = {
    "BN": nn.BatchNorm2d,
    "GN": lambda channels: nn.GroupNorm(math.gcd(32, channels), channels),
    "SyncBN": nn.SyncBatchNorm,
}
ACTS = {"GELU": nn.GELU, "ReLU": nn.ReLU, "SiLU": nn.SiLU}


def conv_block(channels: int, norm: str = "BN", act: str = "GELU") -> nn.Sequential:
    """A 3x3 convolution, norm and activation, from `channels` to `channels`.

    Args:
        channels: channels of the map.
        norm: "BN", "GN" (32 groups, or the most below that divide both) or "SyncBN".
        act: "GELU", "ReLU" or "SiLU".

    Raises:
        ValueError: if there is no such norm or activation.

    Example:
        >>> conv_block(8, norm="GN")(torch.randn(2, 8, 5, 5)).shape
        torch.Size([2, 8, 5, 5])
    """
    check_choice("norm", norm, tuple(NORMS))
    check_choice("act", act, tuple(ACTS))
    conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
    return nn.Sequential(conv, NORMS[norm](channels), ACTS[act]())


class LoFE(nn.Module):
    """Low-Frequency Enhancement: amplifies what is smooth in a map, where the map says so.

    H(x) splits a map into wavelet bands, then the low one of these, `levels` times in all; the
    first low band goes through the block `conv` (3x3 convolution, norm, activation) on the way. It
    multiplies the lowest band by 1 + `mask`, a light convolutional network on it that ends in a
    sigmoid, and the high bands by learnable gains, and puts all of them together again. The layer
    returns x + beta * (H(x) - x) with a learnable beta. With beta = 0 it returns x bit for bit, as
    long as H(x) is finite, so that it may be put into a pretrained network.

    Wavelet bands alias: away from the borders, the layer is exactly equivariant to shifts by
    2**levels pixels and not to shifts by 1 pixel. "GN", and "BN" in training, take their statistics
    over borders too, and loosen the former a little.

    Args:
        channels: channels of the map.
        levels: wavelet levels; 1 is the ablation "single-level DWT".
        wavelet: see `DWT2d`; "conv" is the ablation "strided / transposed convolution": learned
            2 x 2 convolutions of stride 2, as many outputs as there are bands, and their transposed
            ones in place of the transform.
        reduction: the mask is predicted from channels // reduction channels.
        norm: of the block `conv`: "BN", "GN" or "SyncBN".
        act: of that block and of the mask's network: "GELU", "ReLU" or "SiLU".
        beta_init: beta at the start. At 0, all parameters but beta get no gradient in the first
            step.
        learnable_highs: a gain for every channel of every high band, 1 at the start; else the high
            bands stay as they are.
        learnable_synthesis: learn the filters that put the bands together, for every channel of
            every level; they are Haar's at the start, and so only for that wavelet.

    Shape:
        - x, output: (B, channels, H, W), any H and W: a map is mirrored at the bottom and at the
          right up to multiples of 2**levels (repeated, if it is too small for that) and cropped
          again; sizes that `torch.export` leaves open must be multiples

    Raises:
        ImportError: see `DWT2d`.
        ValueError: if an option or a shape does not fit; the message names the argument, its value,
            the rule.
        TypeError: for an unknown argument, or a map that is no floating point tensor.

    Source: LoFE in SFA-DIFT; the mask's network, the gains and the start of beta are this package's
        choices.

    Example:
        >>> enhance = LoFE(16)
        >>> enhance(torch.randn(2, 16, 30, 41)).shape
        torch.Size([2, 16, 30, 41])
    """

    def __init__(
        self,
        channels: int,
        levels: int = 2,
        wavelet: str = HAAR,
        reduction: int = 4,
        norm: str = "BN",
        act: str = "GELU",
        beta_init: float = 0.1,
        learnable_highs: bool = True,
        learnable_synthesis: bool = False,
    ):
        super().__init__()
        check_positive("channels", channels)
        check_positive("levels", levels)
        check_positive("reduction", reduction)
        if learnable_synthesis and wavelet != HAAR:
            raise ValueError(f"learnable_synthesis needs wavelet 'haar', got {wavelet!r}")
        self.channels, self.levels = channels, levels
        self.split, self.merge = nn.ModuleList(), nn.ModuleList()
        for _ in range(levels):
            if wavelet == "conv":
                split, merge = _StridedConv(channels), _TransposedConv(channels)
            else:
                split = DWT2d(wavelet)
                merge = _Synthesis(channels) if learnable_synthesis else IDWT2d(wavelet)
            self.split.append(split)
            self.merge.append(merge)
        self.conv = conv_block(channels, norm, act)
        hidden = max(channels // reduction, 1)
        self.mask = nn.Sequential(
            nn.Conv2d(channels, hidden, 1),
            ACTS[act](),
            nn.Conv2d(hidden, channels, 3, padding=1),
            nn.Sigmoid(),
        )
        gains = (torch.ones(3, channels) for _ in range(levels if learnable_highs else 0))
        self.gains = nn.ParameterList(gains)
        self.beta = nn.Parameter(torch.tensor(float(beta_init)))

    def forward(self, x: Tensor) -> Tensor:
        """Enhances the low frequencies of `x`; see the class."""
        check_map("x", x)
        if x.shape[1] != self.channels:
            raise ValueError(f"x must have {self.channels} channels, got {x.shape[1]}")
        height, width = x.shape[2:]
        enhanced = self._enhance(_pad_to_multiple(x, 2**self.levels))[..., :height, :width]
        return x + self.beta * (enhanced - x)

    def _enhance(self, x: Tensor, level: int = 0) -> Tensor:
        """H(x) of the class, from a level on."""
        if level == self.levels:
            return x * (1 + self.mask(x))
        low, high = self.split[level](x)
        if level == 0:
            low = self.conv(low)
        if self.gains:
            high = high * self.gains[level].to(high.dtype).view(-1, 1, 1)
        return self.merge[level](self._enhance(low, level + 1), high, x.shape[2:])


class _StridedConv(nn.Conv2d):
    """`DWT2d` with learned filters."""

    def __init__(self, channels: int):
        super().__init__(channels, 4 * channels, 2, stride=2)

    def forward(self, x: Tensor) -> Sequence[Tensor]:
        return super().forward(x).split((self.in_channels, 3 * self.in_channels), 1)


class _TransposedConv(nn.ConvTranspose2d):
    """`IDWT2d` with learned filters, for even sizes."""

    def __init__(self, channels: int):
        super().__init__(4 * channels, channels, 2, stride=2)

    def forward(self, low: Tensor, high: Tensor, size: Sequence[int]) -> Tensor:
        return super().forward(torch.cat((low, high), 1))


class _Synthesis(nn.ConvTranspose2d):
    """`IDWT2d` with filters of its own for every channel, Haar's at the start; for even sizes."""

    def __init__(self, channels: int):
        super().__init__(4 * channels, channels, 2, stride=2, groups=channels, bias=False)

    def reset_parameters(self):
        low, lh = ((1, 1), (1, 1)), ((1, 1), (-1, -1))
        hl, hh = ((1, -1), (1, -1)), ((1, -1), (-1, 1))
        haar = torch.tensor((low, lh, hl, hh)) / 2
        with torch.no_grad():
            self.weight.copy_(haar[:, None].repeat(self.groups, 1, 1, 1))

    def forward(self, low: Tensor, high: Tensor, size: Sequence[int]) -> Tensor:
        bands = torch.cat((low, high), 1).unflatten(1, (4, self.groups))
        return super().forward(bands.transpose(1, 2).flatten(1, 2))


def _pad_to_multiple(x: Tensor, multiple: int) -> Tensor:
    rows, columns = (-size % multiple for size in x.shape[2:])
    fits = rows < x.shape[2] and columns < x.shape[3]
    return pad_end(x, rows, columns, "reflect" if fits else "replicate")
