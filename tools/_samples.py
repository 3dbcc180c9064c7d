"""Samples as a pipeline gives them to a model, drawn."""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from _annotations import read, segment_ids
from _cli import quiet, reason
from _config import type_name


def draw_samples(
    name: str,
    dataset: Any,
    pipeline: list[Any],
    infos: list[dict[str, Any]],
    count: int,
    out: Path | None,
) -> list[str]:
    """Sends samples through a pipeline, evenly chosen, and draws what comes out.

    Args:
        name: begins the names of the pictures.
        dataset: of mmseg or mmdet, built without its pipeline.
        pipeline: settings of its steps.
        infos: the samples, as the dataset's ``load_data_list`` describes them.
        count: how many to choose.
        out: folder of the pictures, made if needed; None to draw nothing.

    Returns:
        The problems.
    """
    from mmengine.dataset import Compose

    problems = []
    np.random.seed(0)
    try:
        with quiet():
            transform = Compose(_steps(pipeline))
            save = _drawer(dataset) if out else None
    except Exception as error:
        return [f"the pipeline cannot be built: {reason(error)}"]
    chosen = np.linspace(0, len(infos) - 1, min(count, len(infos)))
    for index in chosen.astype(int).tolist():
        info = infos[index]
        try:
            with quiet():
                result = transform(_sample(dataset, info, index))
                if save and result is not None:
                    out.mkdir(parents=True, exist_ok=True)
                    save(result, out / f"{name}_{index:06d}_{Path(info['img_path']).stem}.png")
        except Exception as error:
            problems.append(f"the pipeline fails on {info['img_path']}: {reason(error)}")
    return problems


def _sample(dataset: Any, info: dict[str, Any], index: int) -> dict[str, Any]:
    """Returns what a dataset gives to its pipeline."""
    dataset.data_list, dataset.serialize_data, dataset._fully_initialized = [info], False, True
    return {**dataset.get_data_info(0), "sample_idx": index}


def _steps(pipeline: list[Any]) -> list[Any]:
    """Returns a pipeline that loads before it transforms, so that labels follow the image.

    Pipelines for evaluation load labels last, at the size of the file.
    """
    steps = [copy.deepcopy(step) for step in pipeline]
    loaders = [step for step in steps if type_name(step).startswith("Load")]
    others = [step for step in steps if not type_name(step).startswith("Load")]
    panoptic = [step for step in loaders if type_name(step) == "LoadPanopticAnnotations"]
    if panoptic and not has_panopticapi():
        loaders = [step for step in loaders if step not in panoptic]
        loaders += [dict(type="mmdet.LoadAnnotations"), _load_segments]
    return [*loaders, *others]


def _load_segments(info: dict[str, Any]) -> dict[str, Any]:
    """Loads a panoptic label map as classes, as mmdet does with panopticapi."""
    label = read(info["seg_map_path"], "pillow", "color", None)
    ids = segment_ids(label)
    info["gt_seg_map"] = np.full(ids.shape, 255, np.uint8)
    for segment in info["segments_info"]:
        info["gt_seg_map"][ids == segment["id"]] = segment["category"]
    return info


def _drawer(dataset: Any) -> Callable[[dict[str, Any], Path], None]:
    """Returns a function that saves a packed sample as a picture."""
    if is_from("mmseg", dataset):
        from mmseg.visualization import SegLocalVisualizer

        visualizer, options = SegLocalVisualizer(alpha=0.5), {"with_labels": False}
    else:
        from mmdet.visualization import DetLocalVisualizer

        visualizer, options = DetLocalVisualizer(alpha=0.5), {}
    visualizer.dataset_meta = dataset.metainfo

    def save(result: dict[str, Any], path: Path) -> None:
        pixels = result["inputs"].flip(0).permute(1, 2, 0).numpy()
        pixels = np.ascontiguousarray(pixels.clip(0, 255).astype(np.uint8))
        sample = result["data_samples"]
        boxes = sample.get("gt_instances")
        if boxes is not None and hasattr(boxes.get("bboxes"), "tensor"):
            boxes.bboxes = boxes.bboxes.tensor
        visualizer.add_datasample(
            path.stem, pixels, sample, draw_pred=False, out_file=str(path), **options
        )

    return save


def is_from(library: str, dataset: Any) -> bool:
    """Says whether a library defines the class of a dataset or a base of it."""
    return any(base.__module__.startswith(f"{library}.") for base in type(dataset).__mro__)


def has_panopticapi() -> bool:
    """Says whether mmdet can load panoptic labels."""
    return importlib.util.find_spec("panopticapi") is not None
