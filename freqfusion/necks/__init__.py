"""Necks that fuse a feature pyramid by `FreqFusion`; they need no framework."""

from .concat import FreqFusionConcat
from .fpn import FreqFusionCARAFEFPN, FreqFusionFPN

__all__ = ["FreqFusionCARAFEFPN", "FreqFusionConcat", "FreqFusionFPN"]
