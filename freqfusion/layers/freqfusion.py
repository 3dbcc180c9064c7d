"""The FreqFusion layer."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..ops import adaptive_filter, adaptive_high_pass, reassemble
from ..ops._checks import (
    PADDING_MODES,
    check_choice,
    check_map,
    check_not_smaller,
    check_odd,
    check_positive,
    check_same_device,
)
from ..ops._geometry import autocast_input
from .filters import hamming2d, nearest_resize, normalise_kernels
from .offsets import OFFSET_MODES, OffsetGenerator, convolve_together

UPSAMPLE_MODES = ("nearest", "bilinear", "bicubic")


class FreqFusionOutput(NamedTuple):
    """What `FreqFusion` returns; add or concatenate `hr_feat` and `lr_feat`.

    Attributes:
        mask_lr: low-pass kernels that made `lr_feat`, summing to 1 over the taps: (B,
            lowpass_kernel**2 * up_group, H, W).
        hr_feat: the fine map with its high frequencies enhanced, (B, hr_channels, H, W).
        lr_feat: the coarse map, upsampled smoothly and resampled, (B, lr_channels, H, W).
    """

    mask_lr: Tensor
    hr_feat: Tensor
    lr_feat: Tensor


class FreqFusionFilters(NamedTuple):
    """What `FreqFusion.predict` returns.

    Attributes:
        low_pass: kernels of the coarse map, summing to 1 over the taps: (B, lowpass_kernel**2 *
            up_group, H, W).
        high_pass: kernels, likewise, of what the high-pass filter takes away from the fine map: (B,
            highpass_kernel**2 * up_group, H, W); None without `use_high_pass`.
        offset: where the coarse map is sampled, see `OffsetGenerator.predict`; None without
            `feature_resample`.
    """

    low_pass: Tensor
    high_pass: Tensor | None
    offset: Tensor | None


class FreqFusion(nn.Module):
    """Frequency-aware fusion of a fine and a coarse map, in place of upsample-and-add.

    Three generators work on compressed maps. Adaptive low-pass filter: kernels that upsample the
    coarse map and smooth inconsistencies inside of objects. Offset generator (`feature_resample`):
    moves samples of that map towards neighbours that are more alike, which repairs boundaries.
    Adaptive high-pass filter: kernels that bring back detail to the fine map. Any H >= h and W >= w
    will do; outputs are as large as the fine map.

    Args:
        hr_channels: channels of the fine (high-resolution) map.
        lr_channels: channels of the coarse (low-resolution) map.
        compressed_channels: channels that kernels and offsets are predicted from.
        lowpass_kernel: side of the low-pass kernels in coarse pixels, odd.
        highpass_kernel: side of the high-pass kernels in fine pixels, odd.
        up_group: channel groups with kernels of their own.
        encoder_kernel: side of the convolutions that predict kernels and offsets, odd.
        upsample_mode, align_corners: interpolation of the coarse map before its filter; only
            without `semi_conv`.
        feature_resample: resample the coarse map by the offset generator.
        feature_resample_group: channel groups that are resampled independently.
        feature_resample_norm: normalise the inputs of the offset generator.
        comp_feat_upsample: the initial fusion: enhance the compressed fine map, and upsample the
            coarse map's kernel logits by the fine map's kernels; else logits are upsampled by
            repetition.
        use_high_pass: use the adaptive high-pass filter; else `hr_feat` is returned as it came.
        hr_residual: add the high frequencies to `hr_feat`; else return them alone.
        semi_conv: predict kernel logits from each map at its own size and add them; else add the
            maps first.
        hamming_window: multiply the kernels by a Hamming window.
        padding_mode: what filters read outside of the map: "zeros", which every released checkpoint
            was trained with, or "reflect".
        offset_mode: "sim_concat" or "sim"; see `OffsetGenerator`.
        zero_init_offset: start with all offsets zero; else as in the published recipe, which starts
            with offsets of about 0.65 coarse pixels.
        use_checkpoint: activation checkpointing: recompute the layer in backward instead of keeping
            its maps.

    Shape:
        - hr_feat: (B, hr_channels, H, W); lr_feat: (B, lr_channels, h, w), H >= h and W >= w
        - output: see `FreqFusionOutput`, in the dtype of the inputs or that of autocast

    Raises:
        ValueError: if an option, a shape or a device does not fit; the message names the argument,
            its value, the rule.
        TypeError: for an unknown argument.

    Source: Chen et al., "Frequency-aware Feature Fusion for Dense Image Prediction", TPAMI 2024,
    arXiv 2408.12879.

    Example:
        >>> fuse = FreqFusion(hr_channels=64, lr_channels=128, feature_resample=True)
        >>> mask, fine, coarse = fuse(torch.randn(1, 64, 32, 32), torch.randn(1, 128, 16, 16))
        >>> torch.cat((fine, coarse), 1).shape
        torch.Size([1, 192, 32, 32])
    """

    def __init__(
        self,
        hr_channels: int,
        lr_channels: int,
        compressed_channels: int = 64,
        lowpass_kernel: int = 5,
        highpass_kernel: int = 3,
        up_group: int = 1,
        encoder_kernel: int = 3,
        upsample_mode: str = "nearest",
        align_corners: bool = False,
        feature_resample: bool = False,
        feature_resample_group: int = 4,
        feature_resample_norm: bool = True,
        comp_feat_upsample: bool = True,
        use_high_pass: bool = True,
        hr_residual: bool = True,
        semi_conv: bool = True,
        hamming_window: bool = True,
        padding_mode: str = "zeros",
        offset_mode: str = "sim_concat",
        zero_init_offset: bool = False,
        use_checkpoint: bool = False,
    ):
        super().__init__()
        check_positive("hr_channels", hr_channels)
        check_positive("lr_channels", lr_channels)
        check_positive("compressed_channels", compressed_channels)
        check_odd("lowpass_kernel", lowpass_kernel)
        check_odd("highpass_kernel", highpass_kernel)
        check_odd("encoder_kernel", encoder_kernel)
        check_choice("padding_mode", padding_mode, PADDING_MODES)
        check_choice("upsample_mode", upsample_mode, UPSAMPLE_MODES)
        check_choice("offset_mode", offset_mode, OFFSET_MODES)
        _check_divides("up_group", up_group, "hr_channels", hr_channels)
        _check_divides("up_group", up_group, "lr_channels", lr_channels)
        if semi_conv and comp_feat_upsample and use_high_pass:  # which filters the compressed map
            _check_divides("up_group", up_group, "compressed_channels", compressed_channels)
        if feature_resample:
            _check_divides(
                "feature_resample_group", feature_resample_group, "lr_channels", lr_channels
            )
        self.hr_channels, self.lr_channels = hr_channels, lr_channels
        self.lowpass_kernel, self.highpass_kernel = lowpass_kernel, highpass_kernel
        self.up_group, self.padding_mode = up_group, padding_mode
        self.upsample_mode, self.align_corners = upsample_mode, align_corners
        self.comp_feat_upsample, self.semi_conv = comp_feat_upsample, semi_conv
        self.use_high_pass, self.hr_residual = use_high_pass, hr_residual
        self.feature_resample, self.hamming_window = feature_resample, hamming_window
        self.use_checkpoint = use_checkpoint

        channels = compressed_channels
        self.hr_channel_compressor = nn.Conv2d(hr_channels, channels, 1)
        self.lr_channel_compressor = nn.Conv2d(lr_channels, channels, 1)
        encoder = partial(
            nn.Conv2d, channels, kernel_size=encoder_kernel, padding=encoder_kernel // 2
        )
        self.content_encoder = encoder(lowpass_kernel**2 * up_group)
        if use_high_pass:
            self.content_encoder2 = encoder(highpass_kernel**2 * up_group)
        if feature_resample:
            self.dysampler = OffsetGenerator(
                channels,
                groups=feature_resample_group,
                kernel_size=encoder_kernel,
                norm=feature_resample_norm,
                mode=offset_mode,
                zero_init=zero_init_offset,
            )
        for name, size in (("lowpass", lowpass_kernel), ("highpass", highpass_kernel)):
            window = torch.empty(1, 1, size, size) if hamming_window else torch.empty(1)
            self.register_buffer(f"hamming_{name}", window)
        self.reset_parameters()

    def reset_parameters(self):
        """The published initialisation: Xavier-uniform, no biases, kernel logits near zero."""
        for window in (self.hamming_lowpass, self.hamming_highpass):
            window.copy_(hamming2d(window.shape[-1]) if self.hamming_window else torch.ones(1))
        for name, module in self.named_children():
            if isinstance(module, nn.Conv2d):
                nn.init.zeros_(module.bias)
                if name.startswith("content_encoder"):
                    nn.init.normal_(module.weight, std=0.001)
                else:
                    nn.init.xavier_uniform_(module.weight)
        if self.feature_resample:
            self.dysampler.reset_parameters()

    def forward(
        self, hr_feat: Tensor, lr_feat: Tensor, use_checkpoint: bool = False
    ) -> FreqFusionOutput:
        """Fuses a fine and a coarse map; see the class.

        Args:
            hr_feat: the fine map.
            lr_feat: the coarse map.
            use_checkpoint: activation checkpointing in this call; see the class.
        """
        self._check_inputs(hr_feat, lr_feat)
        hr_feat, lr_feat = autocast_input(hr_feat), autocast_input(lr_feat)
        if use_checkpoint or self.use_checkpoint:
            return checkpoint(self._fuse, hr_feat, lr_feat, use_reentrant=False)
        return self._fuse(hr_feat, lr_feat)

    def predict(self, hr_feat: Tensor, lr_feat: Tensor) -> FreqFusionFilters:
        """The filters and offsets by which `forward` fuses two maps, to look at.

        Example:
            >>> fine, coarse = torch.randn(1, 8, 4, 4), torch.randn(1, 8, 2, 2)
            >>> filters = FreqFusion(hr_channels=8, lr_channels=8).predict(fine, coarse)
            >>> filters.low_pass.shape, filters.high_pass.shape, filters.offset
            (torch.Size([1, 25, 4, 4]), torch.Size([1, 9, 4, 4]), None)
        """
        self._check_inputs(hr_feat, lr_feat)
        lr = self.lr_channel_compressor(autocast_input(lr_feat))
        hr, low_pass, high = self._predict(self.hr_channel_compressor(autocast_input(hr_feat)), lr)
        if high is not None:
            window = self._window(self.hamming_highpass)
            high = normalise_kernels(high, self.highpass_kernel, self.up_group, window)
        offset = self.dysampler.predict(hr, lr) if self.feature_resample else None
        return FreqFusionFilters(low_pass, high, offset)

    def _fuse(self, hr_feat: Tensor, lr_feat: Tensor) -> FreqFusionOutput:
        lr = self.lr_channel_compressor(lr_feat)
        hr, mask_lr, high_logits = self._predict(self.hr_channel_compressor(hr_feat), lr)
        if not self.semi_conv:
            lr_feat = self._interpolate(lr_feat, hr_feat.shape[2:])
        lr_feat = self._reassemble(lr_feat, mask_lr)
        if self.use_high_pass:
            hr_feat = self._high_pass(hr_feat, high_logits, self.hr_residual)
        if self.feature_resample:
            lr_feat = self.dysampler(hr, lr, lr_feat)
        return FreqFusionOutput(mask_lr, hr_feat, lr_feat)

    def _predict(self, hr: Tensor, lr: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """From the compressed maps: the fine one (enhanced), low-pass kernels, high-pass logits."""
        size = hr.shape[2:]
        if not self.semi_conv:
            low, high = self._encode(hr + nearest_resize(lr, size))
            return hr, self._low_pass_kernels(low), high
        low_lr, high_lr = self._encode(lr)
        if self.comp_feat_upsample:
            return self._initial_fusion(hr, low_lr, high_lr)
        low, high = self._encode(hr)
        if self.use_high_pass:
            high = high + nearest_resize(high_lr, size)
        return hr, self._low_pass_kernels(low + nearest_resize(low_lr, size)), high

    def _initial_fusion(
        self, hr: Tensor, low_lr: Tensor, high_lr: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """`_predict` that upsamples the coarse logits by the kernels of the fine map alone."""
        high = None
        if self.use_high_pass:
            high = self.content_encoder2(hr)
            hr = self._high_pass(hr, high, residual=True)
        low = self.content_encoder(hr)
        mask_lr = self._low_pass_kernels(low + self._low_pass(low_lr, low))
        if self.use_high_pass:
            high = high + self._reassemble(high_lr, mask_lr)
        return hr, mask_lr, high

    def _encode(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Logits of the low-pass and the high-pass kernels from a compressed map."""
        if not self.use_high_pass:
            return self.content_encoder(x), None
        return convolve_together(x, self.content_encoder, self.content_encoder2)

    def _low_pass_kernels(self, logits: Tensor) -> Tensor:
        window = self._window(self.hamming_lowpass)
        return normalise_kernels(logits, self.lowpass_kernel, self.up_group, window)

    def _window(self, window: Tensor) -> Tensor | None:
        return window if self.hamming_window else None

    def _reassemble(self, x: Tensor, mask_lr: Tensor) -> Tensor:
        return reassemble(
            x,
            mask_lr,
            self.lowpass_kernel,
            groups=self.up_group,
            padding_mode=self.padding_mode,
        )

    def _low_pass(self, x: Tensor, logits: Tensor) -> Tensor:
        return adaptive_filter(
            x,
            logits,
            self.lowpass_kernel,
            groups=self.up_group,
            window=self._window(self.hamming_lowpass),
            padding_mode=self.padding_mode,
        )

    def _high_pass(self, x: Tensor, logits: Tensor, residual: bool) -> Tensor:
        return adaptive_high_pass(
            x,
            logits,
            self.highpass_kernel,
            groups=self.up_group,
            window=self._window(self.hamming_highpass),
            padding_mode=self.padding_mode,
            residual=residual,
        )

    def _interpolate(self, lr_feat: Tensor, size: tuple[int, int]) -> Tensor:
        if self.upsample_mode == "nearest":
            return nearest_resize(lr_feat, size)
        return F.interpolate(
            lr_feat, size, mode=self.upsample_mode, align_corners=self.align_corners
        )

    def _check_inputs(self, hr_feat: Tensor, lr_feat: Tensor):
        for name, feat, channels in (
            ("hr_feat", hr_feat, self.hr_channels),
            ("lr_feat", lr_feat, self.lr_channels),
        ):
            check_map(name, feat)
            check_same_device(name, feat, "the layer", self.hr_channel_compressor.weight)
            if feat.shape[1] != channels:
                raise ValueError(f"{name} must have {channels} channels, got {feat.shape[1]}")
        if hr_feat.shape[0] != lr_feat.shape[0]:
            raise ValueError(
                f"lr_feat must have the batch size of hr_feat, {hr_feat.shape[0]}, "
                f"got {lr_feat.shape[0]}"
            )
        check_not_smaller("hr_feat", hr_feat, "lr_feat", lr_feat)


def _check_divides(name: str, value: int, channels_name: str, channels: int):
    if not isinstance(value, int) or value < 1 or channels % value:
        raise ValueError(f"{name} must divide {channels_name} = {channels}, got {value!r}")
