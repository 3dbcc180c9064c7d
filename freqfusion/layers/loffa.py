"""LoFFA: aggregation of feature maps by their low frequencies, and AdaIN between two streams."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..ops._checks import check_choice, check_map, check_positive, check_same_device
from .lofe import LoFE, conv_block

ADAIN = (None, "target_to_source")
ENHANCE = ("LoFE", "conv", None)


def adaptive_instance_norm(content: Tensor, style: Tensor, eps: float = 1e-5) -> Tensor:
    """Gives every channel of every image in `content` the mean and deviation it has in `style`.

    sigma(style) * (content - mu(content)) / sigma(content) + mu(style), where mu and sigma are
    taken over the pixels, in float32 at least, and sigma**2 is the mean square plus `eps`.

    Args:
        content: the map to be normalised.
        style: the map with the statistics to take over.
        eps: added to both variances.

    Shape:
        - content: (B, C, H, W); style: (B, C, h, w), any sizes
        - output: as `content`, in its dtype

    Raises:
        ValueError: if shapes or devices do not fit.
        TypeError: if a map is no floating point tensor.

    Source: Huang and Belongie, "Arbitrary Style Transfer in Real-time with Adaptive Instance
    Normalization", ICCV 2017.

    Example:
        >>> photo, sketch = torch.randn(2, 8, 16, 16), 3 + torch.randn(2, 8, 12, 12)
        >>> out = adaptive_instance_norm(photo, sketch)
        >>> out.mean((2, 3)).allclose(sketch.mean((2, 3)), atol=1e-5)
        True
    """
    check_map("content", content)
    check_map("style", style)
    check_same_device("style", style, "content", content)
    if style.shape[:2] != content.shape[:2]:
        raise ValueError(
            "style must have the batch size and the channels of content, "
            f"{tuple(content.shape[:2])}, got {tuple(style.shape[:2])}"
        )
    dtype = torch.promote_types(content.dtype, torch.float32)
    x = content.to(dtype)
    var, mean = torch.var_mean(x, (2, 3), correction=0, keepdim=True)
    style_var, style_mean = torch.var_mean(style.to(dtype), (2, 3), correction=0, keepdim=True)
    scale = ((style_var + eps) / (var + eps)).sqrt()
    return ((x - mean) * scale + style_mean).to(content.dtype)


class LoFFA(nn.Module):
    """Low-Frequency Feature Aggregation: some feature maps of an image become one map.

    Every map is reduced to `channels` by a 1x1 convolution and resized bilinearly to the size of
    the first one, goes through a `LoFE` and a 3x3 convolution of its own, and the results are added
    with weights that sum to 1. Two streams, such as sketches and photos, share all parameters. With
    `adain`, the maps of the target take over the statistics of those of the source before and after
    LoFE; those of the source stay as they are.

    The ablations: no AdaIN, ``adain=None``; a convolution for LoFE, ``enhance="conv"``; strided and
    transposed convolutions for the wavelet transform, ``wavelet="conv"``; a single wavelet level,
    ``levels=1``; nothing but the 1x1 and 3x3 convolutions, ``adain=None, enhance=None``.

    Args:
        in_channels: channels of the maps of a stream.
        channels: channels of the output.
        adain: "target_to_source", or None for none.
        enhance: "LoFE"; "conv" for a 3x3 convolution with norm and activation in its place; None
            for nothing there.
        eps: see `adaptive_instance_norm`.
        **options: of `LoFE`; "conv" has `norm` and `act`.

    Attributes:
        weights: what the maps count in the sum, (len(in_channels),); the softmax of `logits`, equal
            at the start.

    Shape:
        - source, target: maps (B, in_channels[i], H_i, W_i), of any sizes
        - output: (B, channels, H_0, W_0), or one for the source and one for the target

    Raises:
        ValueError: if an option or a map does not fit; see also `LoFE`.
        TypeError: for an unknown option, or a map that is no floating point tensor.

    Source: LoFFA in SFA-DIFT; the resizing, the softmax and what the streams share are this
        package's choices.

    Example:
        >>> aggregate = LoFFA([64, 32], channels=16, adain="target_to_source")
        >>> sketch = [torch.randn(2, 64, 15, 15), torch.randn(2, 32, 30, 30)]
        >>> photo = [torch.randn(2, 64, 20, 15), torch.randn(2, 32, 40, 30)]
        >>> [tuple(out.shape) for out in aggregate(sketch, photo)]
        [(2, 16, 15, 15), (2, 16, 20, 15)]
        >>> LoFFA([64, 32], channels=16)(photo).shape
        torch.Size([2, 16, 20, 15])
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        channels: int,
        adain: str | None = None,
        enhance: str | None = "LoFE",
        eps: float = 1e-5,
        **options: Any,
    ):
        super().__init__()
        if not in_channels:
            raise ValueError(f"in_channels must name at least one map, got {in_channels!r}")
        for i, number in enumerate(in_channels):
            check_positive(f"in_channels[{i}]", number)
        check_positive("channels", channels)
        check_choice("adain", adain, ADAIN)
        check_choice("enhance", enhance, ENHANCE)
        self.in_channels, self.adain, self.eps = tuple(in_channels), adain, eps
        self.reduce = nn.ModuleList(nn.Conv2d(number, channels, 1) for number in in_channels)
        self.enhance = nn.ModuleList(_enhancer(enhance, channels, options) for _ in in_channels)
        self.refine = nn.ModuleList(
            nn.Conv2d(channels, channels, 3, padding=1) for _ in in_channels
        )
        self.logits = nn.Parameter(torch.zeros(len(in_channels)))

    @property
    def weights(self) -> Tensor:
        """See the class."""
        return self.logits.softmax(0)

    def forward(
        self, source: Sequence[Tensor], target: Sequence[Tensor] | None = None
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Aggregates the maps of one stream, or of two; see the class."""
        if self.adain and target is None:
            raise ValueError(f"target must be given for adain {self.adain!r}, got None")
        streams = [self._reduced("source", source)]
        if target is not None:
            streams.append(self._reduced("target", target))
        outs = [0] * len(streams)
        layers = zip(self.weights, self.enhance, self.refine, *streams, strict=True)
        for weight, enhance, refine, *maps in layers:
            maps = self._align([enhance(x) for x in self._align(maps)])
            outs = [out + weight * refine(x) for out, x in zip(outs, maps, strict=True)]
        return outs[0] if target is None else tuple(outs)

    def _reduced(self, name: str, feats: Sequence[Tensor]) -> list[Tensor]:
        """The maps of a stream in the same channels and size."""
        if len(feats) != len(self.in_channels):
            raise ValueError(f"{name} must be {len(self.in_channels)} maps, got {len(feats)}")
        maps = []
        for i, (conv, x) in enumerate(zip(self.reduce, feats, strict=True)):
            check_map(f"{name}[{i}]", x)
            if x.shape[1] != conv.in_channels:
                raise ValueError(
                    f"{name}[{i}] must have {conv.in_channels} channels, got {x.shape[1]}"
                )
            maps.append(F.interpolate(conv(x), feats[0].shape[2:], mode="bilinear"))
        return maps

    def _align(self, maps: list[Tensor]) -> list[Tensor]:
        if not self.adain:
            return maps
        source, target = maps
        return [source, adaptive_instance_norm(target, source, self.eps)]


def _enhancer(kind: str | None, channels: int, options: dict[str, Any]) -> nn.Module:
    if kind == "LoFE":
        return LoFE(channels, **options)
    if kind == "conv":
        return conv_block(channels, **options)
    if options:
        raise TypeError(f"enhance None has no options, got {', '.join(options)}")
    return nn.Identity()
