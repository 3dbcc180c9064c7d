"""FreqFusion: frequency-aware fusion of feature maps for dense prediction."""

from pathlib import Path

# The kernels lie beside this folder in a checkout, inside of it when installed.
if not (Path(__file__).parent / "kernels").exists():
    __path__.append(str(Path(__file__).parents[1]))

from .layers import FreqFusion, FreqFusionOutput
from .necks import FreqFusionCARAFEFPN, FreqFusionConcat, FreqFusionFPN
from .ops import adaptive_filter, adaptive_high_pass, carafe, reassemble

__version__ = "0.1.0"

__all__ = [
    "FreqFusion",
    "FreqFusionCARAFEFPN",
    "FreqFusionConcat",
    "FreqFusionFPN",
    "FreqFusionOutput",
    "adaptive_filter",
    "adaptive_high_pass",
    "carafe",
    "reassemble",
]
