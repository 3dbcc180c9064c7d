"""Operators: spatially-variant filtering and local cosine similarity."""

from .reassemble import adaptive_filter, carafe, reassemble
from .similarity import local_similarity

__all__ = ["adaptive_filter", "carafe", "local_similarity", "reassemble"]
