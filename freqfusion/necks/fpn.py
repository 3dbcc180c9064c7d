"""Feature pyramid networks with `FreqFusion`, or its peers, in place of upsample-and-add."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from ..layers import CARAFE, FADE, SAPA, Bilinear, DySample, FreqFusion, Nearest
from ..ops._checks import check_choice, check_positive

EXTRA_CONVS = (False, "on_input", "on_lateral", "on_output")
PEERS = {peer.__name__: peer for peer in (Nearest, Bilinear, CARAFE, DySample, SAPA, FADE)}


class ConvBlock(nn.Sequential):
    """Convolution (Xavier-uniform, no bias in front of a norm), then norm and activation."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        padding: int = 0,
        norm_layer: Callable[[int], nn.Module] | None = None,
        act_layer: Callable[[], nn.Module] | None = None,
    ):
        super().__init__()
        bias = norm_layer is None
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding, bias=bias)
        nn.init.xavier_uniform_(self.conv.weight)
        if bias:
            nn.init.zeros_(self.conv.bias)
        else:
            self.norm = norm_layer(out_channels)
        if act_layer is not None:
            self.act = act_layer()


class _FreqFusionPyramid(nn.Module):
    """What the two necks share: the levels, their laterals and the fusions on the way down."""

    def __init__(
        self,
        in_channels: Sequence[int],
        out_channels: int,
        num_outs: int,
        start_level: int,
        end_level: int,
        no_norm_on_lateral: bool,
        norm_layer: Callable[[int], nn.Module] | None,
        act_layer: Callable[[], nn.Module] | None,
    ):
        super().__init__()
        last = len(in_channels) - 1
        top = last if end_level == -1 else end_level
        if not 0 <= start_level <= top <= last:
            raise ValueError(
                f"start_level and end_level must satisfy 0 <= start_level <= end_level <= {last} "
                f"(or end_level = -1), got {start_level} and {end_level}"
            )
        levels = top - start_level + 1
        if num_outs < levels or (top < last and num_outs != levels):
            rule = "at least" if top == last else "exactly, as end_level leaves levels out,"
            raise ValueError(f"num_outs must be {rule} {levels}, got {num_outs}")
        self.in_channels, self.out_channels, self.num_outs = in_channels, out_channels, num_outs
        self.levels = range(start_level, top + 1)
        self.extra_levels = num_outs - levels
        self.norm_layer, self.act_layer = norm_layer, act_layer
        self.lateral_convs = nn.ModuleList(
            self._conv(in_channels[level], out_channels, 1, norm=not no_norm_on_lateral)
            for level in self.levels
        )

    def _conv(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        padding: int = 0,
        norm: bool = True,
    ) -> nn.Module:
        """Builds a convolution of the neck; a framework's subclass may build its own kind."""
        norm_layer = self.norm_layer if norm else None
        return ConvBlock(
            in_channels, out_channels, kernel_size, stride, padding, norm_layer, self.act_layer
        )

    def _fusions(
        self, count: int, fusion: dict[str, Any] | None, options: dict[str, Any]
    ) -> nn.ModuleList:
        """Builds fusions of the type that `fusion` names, with its options and further ones."""
        fusion = {"type": "FreqFusion"} if fusion is None else fusion
        if not isinstance(fusion, dict):
            raise TypeError(f"fusion must be a dict with a type, got {fusion!r}")
        kind = fusion.get("type")
        check_choice("fusion['type']", kind, ("FreqFusion", *PEERS))
        chosen = {name: value for name, value in fusion.items() if name != "type"}
        if kind == "FreqFusion":
            return self._freq_fusions(count, **chosen, **options)
        peer, channels = PEERS[kind], self.out_channels
        inspect.signature(peer).bind(channels, **chosen, **options)  # without any fusion too
        return nn.ModuleList(peer(channels, **chosen, **options) for _ in range(count))

    def _freq_fusions(
        self, count: int, compress_ratio: int = 8, feature_resample: bool = True, **options
    ) -> nn.ModuleList:
        check_positive("compress_ratio", compress_ratio)
        if "compressed_channels" in options:
            raise TypeError(
                "compressed_channels is 2 * out_channels // compress_ratio here; use compress_ratio"
            )
        channels = self.out_channels
        compressed = 2 * channels // compress_ratio
        options = dict(compressed_channels=compressed, feature_resample=feature_resample, **options)
        inspect.signature(FreqFusion).bind(channels, channels, **options)  # without any fusion too
        try:
            return nn.ModuleList(FreqFusion(channels, channels, **options) for _ in range(count))
        except ValueError as error:
            rule = f"compressed_channels is 2 * out_channels // compress_ratio = {compressed} here"
            raise ValueError(f"{error}; {rule}") from None

    def _laterals(self, feats: Sequence[Tensor]) -> list[Tensor]:
        if len(feats) != len(self.in_channels):
            raise ValueError(f"feats must be {len(self.in_channels)} maps, got {len(feats)}")
        used = feats[self.levels.start : self.levels.stop]
        convs = self.lateral_convs[: len(used)]
        return [conv(feat) for conv, feat in zip(convs, used, strict=True)]

    def _fuse_top_down(self, laterals: list[Tensor]) -> list[Tensor]:
        """Fuses every lateral with the one above it, from the top down."""
        fused = laterals[-1:]
        for fusion, lateral in zip(reversed(self.alignment), reversed(laterals[:-1]), strict=True):
            out = fusion(lateral, fused[0])
            # one map, or FreqFusion's: mask, fine map, coarse map
            fused.insert(0, out if isinstance(out, Tensor) else out[1] + out[2])
        return fused


class FreqFusionFPN(_FreqFusionPyramid):
    """A feature pyramid network that fuses by `FreqFusion`: a drop-in for mmdet's and mmseg's FPN.

    Lateral 1x1 convolutions, fusion from the top down, a 3x3 convolution for every output, and
    extra levels on top by strided convolution or max-pooling. Weights of a plain FPN
    without norms fit; only `alignment.{i}.*`, i the level that is fused into, are new. `fusion`
    puts another method in the place of `FreqFusion`; "Nearest" makes it a plain FPN.

    Args:
        in_channels: channels of the backbone's maps, finest first.
        out_channels: channels of every output.
        num_outs: number of outputs; more than there are levels from `start_level` on adds coarser
            ones.
        start_level, end_level: first and last backbone level to use; -1 is the last. An `end_level`
            below the last leaves no room for extra levels.
        add_extra_convs: False: extra levels by max-pooling of stride 2. "on_input", "on_lateral" or
            "on_output": by 3x3 convolutions of stride 2, the first of which reads the last backbone
            map, lateral or output. True is "on_input".
        relu_before_extra_convs: a ReLU before every extra convolution but the first.
        no_norm_on_lateral: leave the norm out of the laterals.
        norm_layer: from a number of channels to a norm, for example `nn.BatchNorm2d`; None for a
            bias instead.
        act_layer: makes an activation, for example `nn.ReLU`.
        fusion: how two levels are fused: the class in `freqfusion.layers` under "type", which is
            "FreqFusion" (the default), "Nearest", "Bilinear", "CARAFE", "DySample", "SAPA" or
            "FADE", and its options.
        **options: further options of the fusion, in or out of `fusion`. Those of FreqFusion here:
            compress_ratio (8): compress to 2 * out_channels // compress_ratio channels;
            feature_resample (True) and the others, but for compressed_channels: see `FreqFusion`.

    Shape:
        - feats: maps (B, in_channels[i], H_i, W_i), finest first, none larger than the one before
          it
        - output: `num_outs` maps (B, out_channels, H_i, W_i), finest first

    Raises:
        ValueError: if levels, `feats` or the type of the fusion do not fit; see also the fusion.
        TypeError: for an option that the fusion does not have.

    Source: FreqFusion (TPAMI 2024, arXiv 2408.12879) in FPN (Lin et al., CVPR 2017).

    Example:
        >>> import torch
        >>> neck = FreqFusionFPN([64, 128, 256], out_channels=64, num_outs=4)
        >>> feats = [torch.randn(1, c, s, s) for c, s in ((64, 32), (128, 16), (256, 8))]
        >>> [tuple(out.shape[2:]) for out in neck(feats)]
        [(32, 32), (16, 16), (8, 8), (4, 4)]
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        out_channels: int,
        num_outs: int,
        start_level: int = 0,
        end_level: int = -1,
        add_extra_convs: bool | str = False,
        relu_before_extra_convs: bool = False,
        no_norm_on_lateral: bool = False,
        norm_layer: Callable[[int], nn.Module] | None = None,
        act_layer: Callable[[], nn.Module] | None = None,
        fusion: dict[str, Any] | None = None,
        **options,
    ):
        super().__init__(
            in_channels,
            out_channels,
            num_outs,
            start_level,
            end_level,
            no_norm_on_lateral,
            norm_layer,
            act_layer,
        )
        self.add_extra_convs = "on_input" if add_extra_convs is True else add_extra_convs
        self.relu_before_extra_convs = relu_before_extra_convs
        if self.add_extra_convs not in EXTRA_CONVS:
            raise ValueError(
                "add_extra_convs must be a bool, 'on_input', 'on_lateral' or 'on_output', "
                f"got {add_extra_convs!r}"
            )
        self.alignment = self._fusions(len(self.levels) - 1, fusion, options)
        self.fpn_convs = nn.ModuleList(
            self._conv(out_channels, out_channels, 3, padding=1) for _ in self.levels
        )
        if self.add_extra_convs:
            first = in_channels[-1] if self.add_extra_convs == "on_input" else out_channels
            for channels in [first, *[out_channels] * self.extra_levels][: self.extra_levels]:
                self.fpn_convs.append(self._conv(channels, out_channels, 3, stride=2, padding=1))

    def forward(self, feats: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Turns the backbone's maps, finest first, into the pyramid; see the class."""
        laterals = self._fuse_top_down(self._laterals(feats))
        convs = self.fpn_convs[: len(laterals)]
        outs = [conv(x) for conv, x in zip(convs, laterals, strict=True)]
        if self.add_extra_convs:
            sources = {"on_input": feats[-1], "on_lateral": laterals[-1], "on_output": outs[-1]}
            x = sources[self.add_extra_convs]
            for i, conv in enumerate(self.fpn_convs[len(laterals) :]):
                x = conv(F.relu(x) if i and self.relu_before_extra_convs else x)
                outs.append(x)
        else:
            for _ in range(self.extra_levels):
                outs.append(F.max_pool2d(outs[-1], 1, stride=2))
        return tuple(outs)


class FreqFusionCARAFEFPN(_FreqFusionPyramid):
    """The authors' neck for detection: extra levels are laterals, and are fused as well.

    It follows mmdet's FPN_CARAFE. With four maps and `num_outs=5`, a 3x3 convolution of stride 2
    turns C5 into a P6 lateral, which is fused top-down into P5 like the others. Published models
    pad images to multiples of 64. State dict keys: `lateral_convs.{i}.conv.*`,
    `fpn_convs.{i}.conv.*`, `alignment.{i}.*`, i the level that is fused into.

    Args:
        in_channels, out_channels, num_outs, start_level, end_level: see `FreqFusionFPN`.
        no_norm_on_lateral, norm_layer, act_layer: see `FreqFusionFPN`.
        fusion, **options: see `FreqFusionFPN`.

    Shape:
        as `FreqFusionFPN`

    Raises:
        ValueError, TypeError: as `FreqFusionFPN`.

    Source: FreqFusion (TPAMI 2024, arXiv 2408.12879), the detection models; FPN of CARAFE (ICCV
    2019).

    Example:
        >>> import torch
        >>> neck = FreqFusionCARAFEFPN([64, 128, 256], out_channels=64, num_outs=4)
        >>> feats = [torch.randn(1, c, s, s) for c, s in ((64, 32), (128, 16), (256, 8))]
        >>> [tuple(out.shape[2:]) for out in neck(feats)]
        [(32, 32), (16, 16), (8, 8), (4, 4)]
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        out_channels: int,
        num_outs: int,
        start_level: int = 0,
        end_level: int = -1,
        no_norm_on_lateral: bool = False,
        norm_layer: Callable[[int], nn.Module] | None = None,
        act_layer: Callable[[], nn.Module] | None = None,
        fusion: dict[str, Any] | None = None,
        **options,
    ):
        super().__init__(
            in_channels,
            out_channels,
            num_outs,
            start_level,
            end_level,
            no_norm_on_lateral,
            norm_layer,
            act_layer,
        )
        lateral_norm = not no_norm_on_lateral
        for channels in [in_channels[-1], *[out_channels] * num_outs][: self.extra_levels]:
            self.lateral_convs.append(
                self._conv(channels, out_channels, 3, stride=2, padding=1, norm=lateral_norm)
            )
        self.alignment = self._fusions(num_outs - 1, fusion, options)
        self.fpn_convs = nn.ModuleList(
            self._conv(out_channels, out_channels, 3, padding=1) for _ in range(num_outs)
        )

    def forward(self, feats: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Turns the backbone's maps, finest first, into the pyramid; see the class."""
        laterals = self._laterals(feats)
        x = feats[-1]
        for conv in self.lateral_convs[len(laterals) :]:
            x = conv(x)
            laterals.append(x)
        laterals = self._fuse_top_down(laterals)
        return tuple(conv(x) for conv, x in zip(self.fpn_convs, laterals, strict=True))
