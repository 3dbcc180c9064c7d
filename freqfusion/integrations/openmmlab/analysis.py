"""Costs of the operators for MMEngine's analysis, which counts a multiply-add as one operation."""

from __future__ import annotations

import math

from mmengine.analysis import complexity_analysis
from mmengine.analysis.jit_handles import get_shape


def _filtering(inputs: list, outputs: list) -> float:
    """Taps times outputs; the graph has the size of the kernels as a constant."""
    kernel_size = next(i.toIValue() for i in inputs[2:] if isinstance(i.toIValue(), int))
    return kernel_size**2 * math.prod(get_shape(outputs[0]))


def _similarity(inputs: list, outputs: list) -> float:
    """Four products for eight neighbours, for each channel."""
    return get_shape(inputs[0])[1] * math.prod(get_shape(outputs[0])) / 2


def register_costs() -> None:
    """Lets `mmengine.analysis.get_model_complexity_info` count the operators of this package."""
    complexity_analysis._DEFAULT_SUPPORTED_FLOP_OPS.update(
        {
            "freqfusion::reassemble": _filtering,
            "freqfusion::adaptive_filter": _filtering,
            "freqfusion::local_similarity": _similarity,
        }
    )
