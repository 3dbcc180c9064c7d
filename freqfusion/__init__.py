"""FreqFusion: frequency-aware fusion of feature maps for dense prediction."""

from pathlib import Path

# The kernels lie beside this folder in a checkout, inside of it when installed.
if not (Path(__file__).parent / "kernels").exists():
    __path__.append(str(Path(__file__).parents[1]))

from .layers import (
    DWT2d,
    FreqFusion,
    FreqFusionOutput,
    IDWT2d,
    LoFE,
    LoFFA,
    adaptive_instance_norm,
)
from .necks import FreqFusionCARAFEFPN, FreqFusionConcat, FreqFusionFPN, LoFENeck
from .ops import (
    adaptive_filter,
    adaptive_high_pass,
    band_energy,
    carafe,
    frequency_split,
    reassemble,
)

__version__ = "0.1.0"

__all__ = [
    "DWT2d",
    "FreqFusion",
    "FreqFusionCARAFEFPN",
    "FreqFusionConcat",
    "FreqFusionFPN",
    "FreqFusionOutput",
    "IDWT2d",
    "LoFE",
    "LoFENeck",
    "LoFFA",
    "adaptive_filter",
    "adaptive_high_pass",
    "adaptive_instance_norm",
    "band_energy",
    "carafe",
    "frequency_split",
    "reassemble",
]
