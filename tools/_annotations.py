"""What annotation files and the files of a sample must hold."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from _cli import reason


@dataclass(frozen=True)
class Rules:
    """How the files of a dataset are decoded and which values its label maps may have.

    Args:
        image: decoder of images for `mmcv.imfrombytes`; None if only their presence is checked.
        label: the same for label maps; None if the pipeline loads none.
        panoptic: whether label maps hold ids of segments as R + 256 G + 65536 B.
        backend_args: of MMEngine's file backend.
        classes: number of classes; None if label maps may have any value.
        ignored: value without a class.
    """

    image: str | None = "pillow"
    label: str | None = "pillow"
    panoptic: bool = False
    backend_args: dict[str, Any] | None = None
    classes: int | None = None
    ignored: int = 255


def check_sample(rules: Rules, info: dict[str, Any]) -> tuple[int, list[str]]:
    """Reads the files of one sample.

    Args:
        rules: what holds for the dataset.
        info: the sample, as the dataset's ``load_data_list`` describes it.

    Returns:
        How many label maps could be read, and the problems.
    """
    sizes, problems, labels = {}, [], 0
    if info.get("height") and info.get("width"):
        sizes["the annotation"] = (info["height"], info["width"])
    for key, kind, backend in (
        ("img_path", "image", rules.image),
        ("img_path2", "image", rules.image),
        ("seg_map_path", "label", rules.label),
    ):
        if info.get(key) is None or (kind == "label" and backend is None):
            continue
        flag = "color" if kind == "image" or rules.panoptic else "unchanged"
        try:
            pixels = read(info[key], backend, flag, rules.backend_args)
        except ValueError as error:
            problems.append(f"{kind} {info[key]} {error}")
            continue
        labels += kind == "label"
        if pixels is not None:
            sizes[f"{kind} {info[key]}"] = pixels.shape[:2]
            problems += _check_label(pixels, info, rules) if kind == "label" else []
    if len(set(sizes.values())) > 1:
        told = (f"{what} is {height}x{width}" for what, (height, width) in sizes.items())
        problems.append(f"sizes differ: {', '.join(told)}")
    return labels, problems


def check_coco(document: dict[str, Any], classes: Iterable[str] | None) -> Iterator[str]:
    """Checks an annotation file in COCO's format, instances or panoptic.

    mmdet drops boxes that are empty or outside, and annotations of unknown images, in silence.

    Args:
        document: content of the file.
        classes: of the dataset, in order; None if it has none.

    Yields:
        The problems.
    """
    names = {category["id"]: category["name"] for category in document["categories"]}
    if classes is not None:
        known = [name for name in names.values() if name in classes]
        missing = [name for name in classes if name not in known]
        if missing:
            yield f"the categories lack {len(missing)} classes of the dataset, such as {missing[0]}"
        elif known != list(classes):
            yield "the categories stand in another order than the classes of the dataset"
    images = {image["id"]: image for image in document["images"]}
    annotated = set()
    for annotation in document["annotations"]:
        image = images.get(annotation["image_id"])
        annotated.add(annotation["image_id"])
        if image is None:
            where = f"annotation {annotation.get('id', annotation.get('file_name'))}"
            yield f"{where}: there is no image with id {annotation['image_id']}"
            continue
        for part in annotation.get("segments_info", [annotation]):
            where = f"annotation {part['id']} of {image['file_name']}"
            if part["category_id"] not in names:
                yield f"{where}: unknown category {part['category_id']}"
            x, y, width, height = part["bbox"]
            corners = (x, y, x + width, y + height)
            yield from (f"{where}: {flaw}" for flaw in _check_box(corners, image))
    if is_panoptic(document):
        for number in images.keys() - annotated:
            yield f"image {images[number]['file_name']} has no annotation"


def check_instances(info: dict[str, Any]) -> list[str]:
    """Checks the boxes of a sample whose annotation is of no known format."""
    boxes = (part["bbox"] for part in info.get("instances") or () if len(part.get("bbox", ())) == 4)
    return [f"{info.get('img_path')}: {flaw}" for box in boxes for flaw in _check_box(box, info)]


def is_panoptic(document: dict[str, Any] | None) -> bool:
    """Says whether an annotation file in COCO's format is of the panoptic kind."""
    return any("segments_info" in part for part in (document or {}).get("annotations", [])[:1])


def read(path: str, backend: str | None, flag: str, args: dict | None) -> np.ndarray | None:
    """Decodes a file.

    Args:
        path: of an image or a label map.
        backend: decoder for `mmcv.imfrombytes`; None if only the file's presence is checked.
        flag: colours for `mmcv.imfrombytes`.
        args: of MMEngine's file backend.

    Returns:
        (H, W) or (H, W, 3) in RGB; None without a decoder.

    Raises:
        ValueError: if that cannot be done, in words that follow the file's name.
    """
    import mmcv
    from mmengine import fileio
    from PIL import UnidentifiedImageError

    try:
        if backend is None:
            if not fileio.exists(path, backend_args=args):
                raise FileNotFoundError
            return None
        content = fileio.get(path, backend_args=args)
        pixels = mmcv.imfrombytes(content, flag, "rgb", backend=backend)
    except FileNotFoundError:
        raise ValueError("is missing") from None
    except UnidentifiedImageError:
        raise ValueError("is not an image") from None
    except Exception as error:
        raise ValueError(f"cannot be read: {reason(error)}") from error
    return pixels


def segment_ids(label: np.ndarray) -> np.ndarray:
    """Returns the ids of a panoptic label map: (H, W, 3) RGB -> (H, W)."""
    return label.astype(np.int32) @ (1, 256, 65536)


def _check_label(label: np.ndarray, info: dict[str, Any], rules: Rules) -> Iterator[str]:
    """Yields what is wrong with the values of a label map."""
    what = f"label {info['seg_map_path']}"
    if rules.panoptic:
        found = set(np.unique(segment_ids(label)).tolist()) - {0}
        noted = info["segment_ids"]
        if found - noted:
            yield f"{what} has segments without annotation: {_some(found - noted)}"
        if noted - found:
            yield f"{what} lacks annotated segments: {_some(noted - found)}"
    elif label.ndim != 2:
        yield f"{what} has {label.shape[2]} channels, it must have one"
    elif rules.classes is not None:
        values = np.unique(label).astype(np.int64)
        reduce, renamed = info.get("reduce_zero_label"), info.get("label_map") or {}
        seen = np.where((values == 0) | (values == 255), 255, values - 1) if reduce else values
        seen = np.array([renamed.get(value, value) for value in seen.tolist()])
        wrong = values[(seen < 0) | (seen >= rules.classes) & (seen != rules.ignored)]
        if len(wrong):
            void = f"0 and {rules.ignored} are" if reduce else f"{rules.ignored} is"
            first = int(bool(reduce))
            last = (max(renamed) if renamed else rules.classes - 1) + first
            told = f"classes are {first} to {last}, {void} void"
            yield f"{what} has the values {_some(wrong.tolist())}; {told}"


def _some(values: Iterable[int], most: int = 5) -> str:
    """Lists a few numbers."""
    values = sorted(values)
    return ", ".join(map(str, values[:most])) + (", ..." if len(values) > most else "")


def _check_box(corners: Iterable[float], image: dict[str, Any]) -> Iterator[str]:
    """Yields what is wrong with a box, x1 y1 x2 y2 in pixels; a pixel outside is rounding."""
    left, top, right, bottom = corners
    told = f"box {tuple(corners)}"
    if not (right > left and bottom > top):
        yield f"{told} is empty"
    height, width = image.get("height", np.inf), image.get("width", np.inf)
    if left < -1 or top < -1 or right > width + 1 or bottom > height + 1:
        yield f"{told} is outside of the image, {height}x{width}"
