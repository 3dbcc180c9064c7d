"""Layers: `FreqFusion` and the parts that it is made of."""

from .freqfusion import FreqFusion, FreqFusionOutput

__all__ = ["FreqFusion", "FreqFusionOutput"]
