"""Writes scenes as Cityscapes: ``leftImg8bit`` and ``gtFine``."""

from __future__ import annotations

import numpy as np

from .categories import lookup
from .formats import Format, number_instances, png
from .render import Scene

# labelIds of the 19 classes that are trained on, in the order of their trainIds
_TRAINED = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
_THINGS = range(24, 34)
_CITIES = {"train": "northtown", "val": "southtown"}


class Cityscapes(Format):
    """Image, labelIds, labelTrainIds (255 is ignored) and instanceIds, all PNG.

    The scene is the sequence number; as in the real set, frame 19 of a sequence is annotated.
    """

    def files(self, split: str, index: int) -> tuple[str, ...]:
        """See `Format.files`."""
        city = _CITIES[split]
        place = f"{split}/{city}/{city}_{index:06d}_000019"
        return (
            f"leftImg8bit/{place}_leftImg8bit.png",
            f"gtFine/{place}_gtFine_labelIds.png",
            f"gtFine/{place}_gtFine_labelTrainIds.png",
            f"gtFine/{place}_gtFine_instanceIds.png",
        )

    def encode(self, scene: Scene) -> tuple[bytes, ...]:
        """See `Format.encode`."""
        labels = lookup("cityscapes")[scene.category]
        instances = number_instances(scene, "cityscapes", _THINGS).astype(np.uint16)
        return png(scene.image), png(labels), png(_TRAIN_IDS[labels]), png(instances)


_TRAIN_IDS = np.full(256, 255, np.uint8)
_TRAIN_IDS[list(_TRAINED)] = np.arange(len(_TRAINED))
