"""Brings the maps of different layers to the same channels and size."""

from __future__ import annotations

import functools
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..ops._checks import check_positive
from ..ops.bands import through_cache


class Connectors(nn.ModuleList):
    """Learnt 1 x 1 convolutions that bring student layers to the teacher's channels.

    They begin as the projection that they replace, `project`.

    Args:
        channels: for some of the students, by name: their channels and the teacher's.

    Shape:
        - students: maps (B, C_in, H, W) by name
        - output: the same maps; those that have a connector (B, C_out, H, W)

    Raises:
        ValueError: if `channels` is no such mapping.

    Example:
        >>> connectors = Connectors({"backbone.layer1": (64, 256)})
        >>> connectors({"backbone.layer1": torch.randn(2, 64, 8, 8)})["backbone.layer1"].shape
        torch.Size([2, 256, 8, 8])
    """

    def __init__(self, channels: Mapping[str, tuple[int, int]]):
        super().__init__()
        self.names = tuple(channels)
        for name, pair in channels.items():
            if isinstance(pair, int) or len(pair) != 2:
                raise ValueError(
                    f"connectors must have the channels of the student and of the teacher, "
                    f"got {pair!r} for {name!r}"
                )
            for value in pair:
                check_positive(f"connectors[{name!r}]", value)
            connector = nn.Conv2d(*pair, 1, bias=False)
            with torch.no_grad():
                connector.weight.copy_(orthogonal(*pair)[..., None, None])
            self.append(connector)

    def check_students(self, students: tuple[str, ...]):
        """Raises ValueError if there is a connector of something else than `students`."""
        unknown = [name for name in self.names if name not in students]
        if unknown:
            raise ValueError(
                f"connectors must be of the students {', '.join(students)}, got {unknown[0]!r}"
            )

    def forward(self, students: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """See the class."""
        connectors = dict(zip(self.names, self, strict=True))
        return {n: connectors[n](x) if n in connectors else x for n, x in students.items()}


def project(x: Tensor, channels: int) -> Tensor:
    """Brings maps to `channels` channels by a fixed matrix with orthonormal rows or columns.

    The matrix is random, and the same in every process and every run. It preserves lengths and
    angles if the channels become more.
    """
    if x.shape[1] == channels:
        return x
    weight = through_cache(orthogonal, x)(x.shape[1], channels, x.dtype, x.device)
    return F.conv2d(x, weight[..., None, None])


def resize(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Brings maps to a size: averages the pixels where it is smaller, else interpolates."""
    smaller = [min(pair) for pair in zip(x.shape[2:], size, strict=True)]
    if smaller != list(x.shape[2:]):
        x = F.adaptive_avg_pool2d(x, smaller)
    if smaller != list(size):
        x = F.interpolate(x, tuple(size), mode="bilinear", align_corners=False)
    return x


@functools.lru_cache(maxsize=16)
@torch.inference_mode(False)
def orthogonal(
    channels: int,
    out_channels: int,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Random matrix (out_channels, channels) whose shorter side is orthonormal."""
    matrix = torch.empty(out_channels, channels, dtype=torch.float32, device="cpu")
    nn.init.orthogonal_(matrix, generator=torch.Generator().manual_seed(0))
    return matrix.to(device, dtype)
