"""The categories of a scene and their ids in each dataset."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Category(NamedTuple):
    """One category of a scene.

    Args:
        name: Cityscapes' name of it.
        cityscapes: ``labelId`` in Cityscapes.
        ade20k: index in ADE20K's 150 classes, from 1; 0 is unlabelled.
        coco: ``category_id`` in COCO panoptic; 0 is unlabelled.
    """

    name: str
    cityscapes: int
    ade20k: int
    coco: int


# A category map holds indices into this tuple. Where a dataset has no class of that name the
# nearest one stands in: ADE20K's signboard; COCO's light (street lamps) and stop sign.
CATEGORIES = (
    Category("static", cityscapes=4, ade20k=0, coco=0),  # void: clutter that nobody labels
    Category("sky", cityscapes=23, ade20k=3, coco=187),
    Category("road", cityscapes=7, ade20k=7, coco=149),
    Category("building", cityscapes=11, ade20k=2, coco=197),
    Category("vegetation", cityscapes=21, ade20k=5, coco=184),
    Category("fence", cityscapes=13, ade20k=33, coco=185),
    Category("pole", cityscapes=17, ade20k=94, coco=130),
    Category("traffic sign", cityscapes=20, ade20k=44, coco=13),
    Category("person", cityscapes=24, ade20k=13, coco=1),
    Category("car", cityscapes=26, ade20k=21, coco=3),
    Category("bicycle", cityscapes=33, ade20k=128, coco=2),
)

INDEX = {category.name: index for index, category in enumerate(CATEGORIES)}


def lookup(dataset: str, dtype: type = np.uint8) -> np.ndarray:
    """Returns the table that turns a category map into the ids of one dataset.

    Args:
        dataset: a field of `Category`: ``"cityscapes"``, ``"ade20k"`` or ``"coco"``.
        dtype: integer type of the table.

    Example:
        >>> lookup("ade20k")[np.array([INDEX["sky"], INDEX["static"]])].tolist()
        [3, 0]
    """
    return np.array([getattr(category, dataset) for category in CATEGORIES], dtype)
