"""Operators: spatially-variant filtering and local cosine similarity."""

from .reassemble import adaptive_filter, adaptive_high_pass, carafe, reassemble
from .similarity import local_similarity

__all__ = ["adaptive_filter", "adaptive_high_pass", "carafe", "local_similarity", "reassemble"]
