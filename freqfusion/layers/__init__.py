"""Layers: `FreqFusion` and the parts that it is made of, and the fusions it is compared with."""

from .carafe import CARAFE
from .dysample import DySample
from .fade import FADE
from .freqfusion import FreqFusion, FreqFusionOutput
from .interpolation import Bilinear, Nearest
from .sapa import SAPA

__all__ = [
    "CARAFE",
    "FADE",
    "SAPA",
    "Bilinear",
    "DySample",
    "FreqFusion",
    "FreqFusionOutput",
    "Nearest",
]
