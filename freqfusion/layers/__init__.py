"""Layers: `FreqFusion`, the parts it is made of, the fusions it is compared with, and `LoFE`."""

from .carafe import CARAFE
from .dysample import DySample
from .fade import FADE
from .freqfusion import FreqFusion, FreqFusionFilters, FreqFusionOutput
from .interpolation import Bilinear, Nearest
from .lofe import LoFE
from .loffa import LoFFA, adaptive_instance_norm
from .offsets import OffsetGenerator
from .sapa import SAPA
from .wavelet import DWT2d, IDWT2d

__all__ = [
    "CARAFE",
    "FADE",
    "SAPA",
    "Bilinear",
    "DWT2d",
    "DySample",
    "FreqFusion",
    "FreqFusionFilters",
    "FreqFusionOutput",
    "IDWT2d",
    "LoFE",
    "LoFFA",
    "Nearest",
    "OffsetGenerator",
    "adaptive_instance_norm",
]
