"""Necks that fuse a feature pyramid by `FreqFusion`, and `LoFENeck`; they need no framework."""

from .concat import FreqFusionConcat
from .fpn import FreqFusionCARAFEFPN, FreqFusionFPN
from .lofe import LoFENeck

__all__ = ["FreqFusionCARAFEFPN", "FreqFusionConcat", "FreqFusionFPN", "LoFENeck"]
