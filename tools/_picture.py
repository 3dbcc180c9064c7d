"""Draws what segmentation models predict, side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.registry import DATASETS, MODELS, init_default_scope
from mmengine.runner import load_checkpoint

IGNORED = 255


def draw(path: Path, trained: dict[str, tuple[Config, str]], rows: int = 4) -> None:
    """Draws the first images of the validation set, their truth, and every model's predictions.

    A model has two columns: the labels, and the image with wrong pixels in red and their share.
    Ignored pixels are never wrong.

    Args:
        path: image file to write.
        trained: from the name of a model to its config and its checkpoint; all share a dataset.
        rows: how many images.
    """
    config, _ = next(iter(trained.values()))
    init_default_scope(config.default_scope)
    dataset = DATASETS.build(config.val_dataloader.dataset)
    samples = [dataset[index] for index in range(min(rows, len(dataset)))]
    colours = np.zeros((256, 3), np.uint8)
    colours[: len(dataset.metainfo["palette"])] = dataset.metainfo["palette"]

    images = np.stack([sample["inputs"].flip(0).permute(1, 2, 0).numpy() for sample in samples])
    truth = _labels("gt_sem_seg", [sample["data_samples"] for sample in samples])
    columns = {"image": images, "truth": colours[truth]}
    for name, (config, checkpoint) in trained.items():
        prediction = _predict(config, checkpoint, samples)
        wrong = (prediction != truth) & (truth != IGNORED)
        columns[name] = colours[prediction]
        columns[f"{name}: {wrong.mean():.1%} wrong"] = _mark(images, wrong)
    _save(path, columns)


def _predict(config: Config, checkpoint: str, samples: list[Any]) -> np.ndarray:
    """Returns the labels that a model predicts, (N, H, W)."""
    model = MODELS.build(config.model).eval()
    load_checkpoint(model, checkpoint, map_location="cpu", logger="silent")
    with torch.no_grad():
        return _labels("pred_sem_seg", model.test_step(pseudo_collate(samples)))


def _labels(name: str, samples: list[Any]) -> np.ndarray:
    return np.stack([getattr(sample, name).data[0].numpy() for sample in samples])


def _mark(images: np.ndarray, wrong: np.ndarray) -> np.ndarray:
    """Returns the images in pale grey, with the wrong pixels in red."""
    grey = images.mean(axis=-1, keepdims=True) / 2 + 96
    return np.where(wrong[..., None], (220, 0, 0), grey).astype(np.uint8)


def _save(path: Path, columns: dict[str, np.ndarray]) -> None:
    height, width = len(columns["image"]), len(columns)
    figure = Figure(figsize=(3.2 * width, 1.75 * height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(height, width, squeeze=False)
    for column, (title, pictures) in enumerate(columns.items()):
        axes[0, column].set_title(title)
        for row, picture in enumerate(pictures):
            axes[row, column].imshow(picture, interpolation="nearest")
            axes[row, column].set_axis_off()
    figure.savefig(path, dpi=110)
