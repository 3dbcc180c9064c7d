"""The pyramid necks as OpenMMLab modules."""

from __future__ import annotations

import copy
from typing import Any

from mmcv.cnn import ConvModule
from mmengine.model import BaseModule
from mmengine.registry import MODELS
from torch import nn

from ... import necks

XAVIER = {"type": "Xavier", "layer": "Conv2d", "distribution": "uniform"}


class _Fusions(nn.ModuleList):
    """Fusions that keep their own initialisation.

    MMEngine calls `init_weights` after a neck's `init_cfg` and before it loads pretrained weights.
    """

    def init_weights(self) -> None:
        for fusion in self:
            fusion.reset_parameters()


class _OpenMMLabNeck:
    """Makes a neck with the hook `_conv` and the fusions `alignment` one of OpenMMLab's modules."""

    def __init__(
        self,
        *args: Any,
        conv_cfg: dict | None = None,
        norm_cfg: dict | None = None,
        act_cfg: dict | None = None,
        upsample_cfg: dict | None = None,
        init_cfg: dict | list[dict] | None = XAVIER,
        **kwargs: Any,
    ):
        # before the neck's own constructor, which builds the convolutions
        self.conv_cfg, self.norm_cfg, self.act_cfg = conv_cfg, norm_cfg, act_cfg
        super().__init__(*args, **kwargs)
        self.init_cfg = copy.deepcopy(init_cfg)
        self.alignment = _Fusions(self.alignment)

    def _conv(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        padding: int = 0,
        norm: bool = True,
    ) -> ConvModule:
        return ConvModule(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            conv_cfg=self.conv_cfg,
            norm_cfg=self.norm_cfg if norm else None,
            act_cfg=self.act_cfg,
            inplace=False,
        )


@MODELS.register_module(force=True)
class FreqFusionFPN(_OpenMMLabNeck, necks.FreqFusionFPN, BaseModule):
    """`freqfusion.necks.FreqFusionFPN` with the arguments of mmdet's and mmseg's FPN.

    ``neck=dict(type='FreqFusionFPN')`` over a config with an FPN is the whole change; a plain FPN's
    checkpoint loads, and only `alignment.*` is missing from it.

    Args:
        in_channels, out_channels, num_outs, start_level, relu_before_extra_convs,
            no_norm_on_lateral: as in FPN.
        end_level: as in FPN. mmdet's includes the last level and mmseg's does not; `num_outs`,
            which has to be the number of levels, tells which of the two is meant.
        add_extra_convs: as in FPN; True is "on_input", or "on_output" if not
            `extra_convs_on_inputs`.
        extra_convs_on_inputs: what True means in `add_extra_convs` (an argument of mmseg).
        conv_cfg, norm_cfg, act_cfg: of lateral and output convolutions; see mmcv's `ConvModule`.
        upsample_cfg: accepted because inherited configs may have it, and not used: the fusions do
            the upsampling.
        init_cfg: initialisation of lateral and output convolutions. The fusions keep their own;
            pretrained weights are loaded into both.
        fusion: how two levels are fused, for example ``fusion=dict(type='CARAFE')``; "Nearest"
            makes it a plain FPN. See `freqfusion.necks.FreqFusionFPN`.
        **options: options of the fusion, for FreqFusion `compress_ratio`, `feature_resample` and
            others.

    Shape:
        as `freqfusion.necks.FreqFusionFPN`

    Raises:
        ValueError: if levels or the type of the fusion do not fit; see also the fusion.
        TypeError: for an unknown argument.

    Source: FreqFusion (TPAMI 2024, arXiv 2408.12879) in FPN (Lin et al., CVPR 2017).

    Example:
        >>> neck = FreqFusionFPN([64, 128], out_channels=64, num_outs=3, norm_cfg=dict(type='BN'))
        >>> [name for name, _ in neck.lateral_convs[1].named_children()]
        ['conv', 'bn']
    """

    def __init__(
        self,
        in_channels: list[int],
        out_channels: int,
        num_outs: int,
        start_level: int = 0,
        end_level: int = -1,
        add_extra_convs: bool | str = False,
        extra_convs_on_inputs: bool = True,
        **kwargs: Any,
    ):
        if num_outs == end_level - start_level:
            end_level -= 1
        if add_extra_convs is True and not extra_convs_on_inputs:
            add_extra_convs = "on_output"
        super().__init__(
            in_channels, out_channels, num_outs, start_level, end_level, add_extra_convs, **kwargs
        )


@MODELS.register_module(force=True)
class FreqFusionCARAFEFPN(_OpenMMLabNeck, necks.FreqFusionCARAFEFPN, BaseModule):
    """`freqfusion.necks.FreqFusionCARAFEFPN`, the authors' neck for detection, for configs.

    Args:
        in_channels, out_channels, num_outs, start_level, end_level, no_norm_on_lateral, fusion,
            **options: see `freqfusion.necks.FreqFusionCARAFEFPN`.
        conv_cfg, norm_cfg, act_cfg, upsample_cfg, init_cfg: see `FreqFusionFPN`.

    Shape:
        as `freqfusion.necks.FreqFusionFPN`

    Raises:
        ValueError, TypeError: see `FreqFusionFPN`.

    Source: FreqFusion (TPAMI 2024, arXiv 2408.12879), the detection models.
    """


@MODELS.register_module(force=True)
class LoFENeck(necks.LoFENeck, BaseModule):
    """`freqfusion.necks.LoFENeck` for configs, where it stands in front of another neck.

    A list of necks is one neck to MMEngine. It replaces the neck of the base config as a whole, so
    that it has to repeat the second one's arguments or refer to them, as in the example. The second
    neck's parameters are called ``neck.1.*`` then: to load the checkpoint of a model without this
    one takes ``revise_keys=[('^neck[.]', 'neck.1.')]`` in MMEngine's `load_checkpoint`.

    Args:
        in_channels, indices, **options: see `freqfusion.necks.LoFENeck`.
        init_cfg: initialisation of the convolutions and norms; by default their own.

    Shape, Raises:
        as `freqfusion.necks.LoFENeck`

    Source: see `freqfusion.necks.LoFENeck`.

    Example:
        In a config whose base has a `FreqFusionFPN`:
        ``neck=[dict(type='LoFENeck', in_channels=[64, 128, 256, 512]), _base_.model.neck]``
    """

    def __init__(self, *args: Any, init_cfg: dict | list[dict] | None = None, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.init_cfg = copy.deepcopy(init_cfg)
