"""SegNeXt's decode head with FreqFusion."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.registry import MODELS
from mmseg.models.decode_heads import LightHamHead
from mmseg.models.decode_heads.ham_head import NMF2D
from torch import Tensor

from .fusions import ConcatFusions


class FixedStartNMF2D(NMF2D):
    """mmseg's matrix decomposition that gives the same answer twice.

    The bases start from random numbers in training, if `rand_init`, and from fixed ones otherwise,
    the same for every image and on every device. It computes in float32 at least, also under
    autocast: sums over all pixels overflow float16.

    Args:
        args: arguments of `NMF2D`.
        channels: channels of the map.

    Shape:
        - x, output: (B, channels, H, W)
    """

    def __init__(self, args: dict, channels: int):
        super().__init__(args)
        generator = torch.Generator("cpu").manual_seed(0)  # leaves the global one alone
        shape = self.S, channels // self.S, self.R
        bases = F.normalize(torch.rand(shape, generator=generator, device="cpu"), dim=1)
        self.register_buffer("first_bases", bases, persistent=False)  # checkpoints have no such key

    def forward(self, x: Tensor) -> Tensor:
        """Returns the low-rank approximation of `x`, which must not be negative."""
        dtype = torch.promote_types(x.dtype, torch.float32)
        with torch.autocast(x.device.type, enabled=False):
            matrix = x.to(dtype).reshape(len(x) * self.S, x.shape[1] // self.S, -1)
            bases, coef = self.local_inference(matrix, self._start(matrix))
            coef = self.compute_coef(matrix, bases, coef)
            return torch.bmm(bases, coef.transpose(1, 2)).view(x.shape)

    def _start(self, matrix: Tensor) -> Tensor:
        bases = self.first_bases.to(matrix).repeat(len(matrix) // self.S, 1, 1)
        if self.training and self.rand_init:
            return F.normalize(torch.rand_like(bases), dim=1)
        return bases


@MODELS.register_module(force=True)
class FreqFusionHamHead(LightHamHead):
    """mmseg's `LightHamHead` with FreqFusion for its resizing: the published SegNeXt models' head.

    From the deepest level up, each level is fused with the concatenation of those below it. What
    follows is LightHamHead's own: squeeze, hamburger, align, classify. Evaluation is deterministic
    (see `FixedStartNMF2D`). State dict keys: `freqfusions.{i}.*`, 0 is the deepest; all others as
    in LightHamHead. Its checkpoints load, but `squeeze` reads channels in another order: train it.

    Args:
        ham_channels, ham_kwargs: as in LightHamHead.
        fusion_cfg: options of `FreqFusionConcat`; by default those of the published models.
        **kwargs: as in mmseg's `BaseDecodeHead`; `in_channels` and `in_index` finest level first.

    Shape:
        - inputs: the backbone's maps, those of `in_index` (B, in_channels[i], H_i, W_i), none
          larger than the one before it
        - output: (B, num_classes, H_0, W_0)

    Raises:
        ValueError: if levels or options do not fit; see `FreqFusionConcat`.
        TypeError: for an unknown argument.

    Source: FreqFusion (TPAMI 2024, arXiv 2408.12879) in SegNeXt (Guo et al., NeurIPS 2022).

    Example:
        >>> head = FreqFusionHamHead(
        ...     ham_channels=32, in_channels=[16, 32], in_index=[0, 1], channels=32, num_classes=5
        ... )
        >>> head([torch.rand(2, 16, 12, 16), torch.rand(2, 32, 6, 8)]).shape
        torch.Size([2, 5, 12, 16])
    """

    def __init__(
        self,
        ham_channels: int = 512,
        ham_kwargs: dict | None = None,
        fusion_cfg: dict | None = None,
        **kwargs: Any,
    ):
        ham_kwargs = ham_kwargs or {}
        super().__init__(ham_channels, ham_kwargs, **kwargs)
        self.hamburger.ham = FixedStartNMF2D(ham_kwargs, ham_channels)
        self.freqfusions = ConcatFusions(self.in_channels, **(fusion_cfg or {}))

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """Turns the backbone's maps into logits; see the class."""
        x = self.freqfusions(self._transform_inputs(inputs))
        return self.cls_seg(self.align(self.hamburger(self.squeeze(x))))
