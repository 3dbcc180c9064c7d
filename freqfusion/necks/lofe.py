"""A neck that enhances the low frequencies of a pyramid and leaves its shapes alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from ..layers import LoFE


class LoFENeck(nn.Module):
    """`LoFE` on the maps of a pyramid, each with parameters of its own, in front of another neck.

    State dict keys: `enhancers.{i}.*`, i is the position of the map.

    Args:
        in_channels: channels of the maps.
        indices: positions of the maps to enhance, the others pass; all by default.
        **options: further arguments of `LoFE`.

    Shape:
        - feats: maps (B, in_channels[i], H_i, W_i), any sizes
        - output: as many maps, of the same shapes

    Raises:
        ValueError: if `indices` or `feats` do not fit; see also `LoFE`.
        TypeError: for an option that `LoFE` does not have.

    Source: LoFE in SFA-DIFT; its place in front of a pyramid is this package's choice.

    Example:
        >>> import torch
        >>> neck = LoFENeck([64, 128], indices=[1], levels=1)
        >>> feats = [torch.randn(1, 64, 32, 32), torch.randn(1, 128, 16, 16)]
        >>> outs = neck(feats)
        >>> outs[0] is feats[0], outs[1].shape
        (True, torch.Size([1, 128, 16, 16]))
    """

    def __init__(
        self, in_channels: Sequence[int], indices: Sequence[int] | None = None, **options: Any
    ):
        super().__init__()
        positions = range(len(in_channels))
        indices = list(positions if indices is None else indices)
        if not indices or not set(indices) <= set(positions):
            raise ValueError(f"indices must be some of 0 to {len(in_channels) - 1}, got {indices}")
        self.enhancers = nn.ModuleList(
            LoFE(channels, **options) if i in indices else nn.Identity()
            for i, channels in enumerate(in_channels)
        )

    def forward(self, feats: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Enhances maps; see the class."""
        if len(feats) != len(self.enhancers):
            raise ValueError(f"feats must be {len(self.enhancers)} maps, got {len(feats)}")
        return tuple(enhance(x) for enhance, x in zip(self.enhancers, feats, strict=True))
