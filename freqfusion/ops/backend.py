"""Which implementation computes: the Triton kernels or the reference, alike in their functions."""

from __future__ import annotations

import functools
import logging
from types import ModuleType

import torch
from torch import Tensor

from .. import env
from . import reference

LARGEST_KERNEL = 15  # of the Triton kernels: a tile of larger ones does not fit into registers

_logger = logging.getLogger("freqfusion")


def of(x: Tensor, weight: Tensor | None = None, kernel_size: int = 1) -> ModuleType:
    """The implementation for these arguments; see `freqfusion.env` for what decides.

    Raises:
        RuntimeError: if `FREQFUSION_BACKEND` is "triton" and the kernels cannot do it.
    """
    wanted = env.backend()
    on_gpu = x.device.type in env.GPUS and not env.interpreted()
    if wanted == "torch" or (wanted == "auto" and not on_gpu):
        return reference
    obstacle = env.triton_obstacle(x.device) or _too_much(x, weight, kernel_size)
    if not obstacle:
        from . import accelerated

        _log_once(logging.INFO, f"freqfusion runs its Triton kernels on {x.device}")
        return accelerated
    if wanted == "triton":
        raise RuntimeError(f"FREQFUSION_BACKEND is triton, but the kernels cannot run: {obstacle}")
    _log_once(logging.INFO, f"freqfusion runs in PyTorch on {x.device}: {obstacle}")
    return reference


def _too_much(x: Tensor, weight: Tensor | None, kernel_size: int) -> str:
    """What the kernels do not do; empty if they do it."""
    if torch.float64 in (x.dtype, x.dtype if weight is None else weight.dtype):
        return "they do not compute in float64"
    if kernel_size > LARGEST_KERNEL:
        return f"kernel_size is {kernel_size}, they take {LARGEST_KERNEL} at most"
    return ""


@functools.cache
def _log_once(level: int, message: str):
    _logger.log(level, message)
