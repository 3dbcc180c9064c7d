"""Operators: spatially-variant filtering, local cosine similarity and frequency bands."""

from .bands import band_energy, frequency_split
from .reassemble import adaptive_filter, adaptive_high_pass, carafe, reassemble
from .similarity import local_similarity

__all__ = [
    "adaptive_filter",
    "adaptive_high_pass",
    "band_energy",
    "carafe",
    "frequency_split",
    "local_similarity",
    "reassemble",
]
