"""Self-distillation in frequency bands: a plug-in for training that leaves the model as it is."""

from .alignment import Connectors, project, resize
from .contrastive import InterContrastiveLoss, IntraContrastiveLoss
from .framer import FramerLoss
from .model import FramerModel

__all__ = [
    "Connectors",
    "FramerLoss",
    "FramerModel",
    "InterContrastiveLoss",
    "IntraContrastiveLoss",
    "project",
    "resize",
]
