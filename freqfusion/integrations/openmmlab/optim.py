"""Mixed precision where MMEngine has none."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from mmengine.optim import OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS
from torch import nn


@OPTIM_WRAPPERS.register_module(force=True)
class CPUAmpOptimWrapper(OptimWrapper):
    """Autocast to bfloat16 on the CPU, where MMEngine's `AmpOptimWrapper` refuses to work.

    It scales no losses: bfloat16 has the exponents of float32.

    Args:
        As `mmengine.optim.OptimWrapper`.
    """

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Runs the forward pass under autocast to bfloat16."""
        with super().optim_context(model), torch.autocast("cpu", torch.bfloat16):
            yield
