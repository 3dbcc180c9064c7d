"""FreqFusion: frequency-aware fusion of feature maps for dense prediction."""

from .layers import FreqFusion, FreqFusionOutput
from .necks import FreqFusionCARAFEFPN, FreqFusionConcat, FreqFusionFPN
from .ops import adaptive_filter, carafe, reassemble

__version__ = "0.1.0"

__all__ = [
    "FreqFusion",
    "FreqFusionCARAFEFPN",
    "FreqFusionConcat",
    "FreqFusionFPN",
    "FreqFusionOutput",
    "adaptive_filter",
    "carafe",
    "reassemble",
]
