"""Procedural street scenes in the layout of real datasets; see ``make_scenes.py`` beside it.

Colour says nothing about the category, texture does, and the labels are exact to the pixel: a
small benchmark of boundaries and of detail inside objects.
"""

from .categories import CATEGORIES as CATEGORIES
from .dataset import FORMATS as FORMATS
from .dataset import RefusedError as RefusedError
from .dataset import Settings as Settings
from .dataset import generate as generate
from .progress import Progress as Progress
