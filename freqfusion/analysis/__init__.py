"""Analysis of trained models: similarity of features, spectra, pictures, and a report of them."""

from ._scene import Scene
from .model import ModelAnalysis, Snapshot, find_fusions
from .report import FILES, write_report
from .similarity import FeatureSimilarity, boundary_band, feature_similarity
from .spectra import KernelResponse, RadialSpectrum

__all__ = [
    "FILES",
    "FeatureSimilarity",
    "KernelResponse",
    "ModelAnalysis",
    "RadialSpectrum",
    "Scene",
    "Snapshot",
    "boundary_band",
    "feature_similarity",
    "find_fusions",
    "write_report",
]
