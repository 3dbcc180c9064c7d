"""Writes scenes as COCO 2017: instances and panoptic."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np

from .formats import Format, jpg, number_instances, png, read_png
from .outlines import polygons, run_lengths
from .render import SPLITS, Scene

_THINGS = range(1, 91)
_SMALLEST = 16  # pixels; of anything smaller the real set has no annotation
_INFO = {
    "info": {"description": "Procedurally generated street scenes", "version": "1.0"},
    "licenses": [],
}


class Coco(Format):
    """Image as JPEG, segments as PNG (``id = R + 256 G + 65536 B``), two JSON files per split.

    A segment's id says its category (see `number_instances`), so the JSON files follow from the
    segment PNGs alone. Stuff is one segment per category, void is 0.
    """

    def files(self, split: str, index: int) -> tuple[str, ...]:
        """See `Format.files`."""
        name = f"{index + 1:012d}"
        return f"{split}2017/{name}.jpg", f"annotations/panoptic_{split}2017/{name}.png"

    def encode(self, scene: Scene) -> tuple[bytes, ...]:
        """See `Format.encode`."""
        ids = number_instances(scene, "coco", _THINGS)
        ids[np.bincount(ids.ravel())[ids] < _SMALLEST] = 0
        channels = [ids & 255, ids >> 8 & 255, ids >> 16]
        return jpg(scene.image), png(np.stack(channels, axis=-1).astype(np.uint8))

    def describe(self, files: Sequence[Path]) -> dict[str, Any]:
        """Returns size and segments of the scene; things carry their ``segmentation``."""
        channels = read_png(files[1]).astype(np.int32)
        ids = channels @ (1, 256, 65536)
        segments = [_segment(ids, number) for number in np.unique(ids[ids > 0]).tolist()]
        return {"height": ids.shape[0], "width": ids.shape[1], "segments": segments}

    def summarise(self, records: dict[str, list[dict[str, Any]]]) -> dict[str, bytes]:
        """Returns ``instances_*2017.json`` and ``panoptic_*2017.json``."""
        files = {}
        for split in SPLITS:
            scenes = dict(enumerate(records[split], start=1))
            for kind, content in (("instances", _instances), ("panoptic", _panoptic)):
                document = {**_INFO, "images": _images(scenes), **content(scenes)}
                text = json.dumps(document, separators=(",", ":"))
                files[f"annotations/{kind}_{split}2017.json"] = text.encode()
        return files


def _segment(ids: np.ndarray, number: int) -> dict[str, Any]:
    """Measures one segment."""
    mask = ids == number
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    (top, bottom), (left, right) = rows[[0, -1]].tolist(), columns[[0, -1]].tolist()
    segment = {
        "id": number,
        "category_id": number // 1000 or number,
        "area": int(mask.sum()),
        "bbox": [left, top, right - left + 1, bottom - top + 1],
        "iscrowd": 0,
    }
    if segment["category_id"] in _THINGS:
        segment["segmentation"] = polygons(mask) or run_lengths(mask)
    return segment


def _images(scenes: dict[int, dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {
            "id": image,
            "file_name": f"{image:012d}.jpg",
            "height": scene["height"],
            "width": scene["width"],
        }
        for image, scene in scenes.items()
    ]


def _instances(scenes: dict[int, dict[str, Any]]) -> dict[str, Any]:
    """Lists every thing under an id that is unique in the file."""
    things = (
        {**segment, "image_id": image}
        for image, scene in scenes.items()
        for segment in scene["segments"]
        if "segmentation" in segment
    )
    annotations = [{**thing, "id": number} for number, thing in enumerate(things, start=1)]
    categories = [
        {"supercategory": group, "id": number, "name": name}
        for group, number, name in sorted(_categories(), key=itemgetter(1))
        if number in _THINGS
    ]
    return {"annotations": annotations, "categories": categories}


def _panoptic(scenes: dict[int, dict[str, Any]]) -> dict[str, Any]:
    """Lists the segments image by image, things and stuff."""
    annotations = [
        {
            "image_id": image,
            "file_name": f"{image:012d}.png",
            "segments_info": [
                {key: value for key, value in segment.items() if key != "segmentation"}
                for segment in scene["segments"]
            ],
        }
        for image, scene in scenes.items()
    ]
    categories = [
        {"supercategory": group, "isthing": int(number in _THINGS), "id": number, "name": name}
        for group, number, name in sorted(_categories(), key=itemgetter(1))
    ]
    return {"annotations": annotations, "categories": categories}


def _categories() -> Iterator[tuple[str, int, str]]:
    """Yields supercategory, id and name of COCO's 133 categories."""
    table = Path(__file__).with_name("coco_categories.txt").read_text("utf-8")
    for line in table.splitlines():
        group, members = line.split(": ")
        for member in members.split(", "):
            number, name = member.split(" ", 1)
            yield group, int(number), name
