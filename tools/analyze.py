"""Measures the features inside of a trained model of a config and writes a report.

It has the similarity of features within and between classes, their spectra, the filters and the
offsets of every FreqFusion, and pictures; docs/analysis.md explains the figures.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from _cli import CommandError, add_common, explained, folder, quiet, run
from _config import check_checkpoint, check_data, load_config, without_connectors

if TYPE_CHECKING:
    from torch import Tensor

    from freqfusion.analysis import Scene


def main() -> int:
    """Runs the command line and returns the exit code."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = options.add_argument
    add("config", help="config file")
    add("checkpoint", help="checkpoint file")
    add(
        "--layers",
        nargs="+",
        metavar="NAME",
        help="maps to measure, such as neck[0] or backbone.layer1 (those of every fusion, and all "
        "that the neck gives)",
    )
    add(
        "--out", type=folder, metavar="DIR", help="folder of the report (work_dirs/CONFIG/analysis)"
    )
    add("--images", type=int, default=32, metavar="N", help="images of the validation set (32)")
    add("--edge-k", type=int, default=5, metavar="K", help="dilation of the boundaries, odd (5)")
    add("--device", default=None, help="such as cuda:0 or cpu (what PyTorch finds)")
    add_common(options)
    return run(analyze, options.parse_args())


def analyze(arguments: argparse.Namespace) -> None:
    """Writes a report as the command line says.

    Raises:
        CommandError: if something is missing or does not fit, or there is a report already.
    """
    config = _load(arguments.config, arguments.checkpoint, arguments.cfg_options)
    from freqfusion.analysis import FILES, write_report

    out = arguments.out or Path(config.work_dir) / "analysis"
    present = [out / name for name in FILES if (out / name).exists()]
    if present:
        raise CommandError(f"{present[0]} exists already; choose another --out")
    with explained("a report needs matplotlib"):
        import matplotlib  # noqa: F401
    subject = _Subject(
        arguments.config, config, arguments.checkpoint, arguments.images, arguments.device
    )
    results, scene = subject.measure(arguments.layers, arguments.edge_k)
    with explained(f"cannot write {out}"):
        report = write_report(out, results, scene)
    print(f"\n{report} and {FILES[1]}: {results['about']['images']} images")


def similarity_of(
    config: str,
    checkpoint: str,
    layers: Sequence[str] = ("neck[0]",),
    images: int = 32,
    edge_k: int = 5,
    options: Sequence[str] = (),
    device: str | None = None,
) -> dict[str, dict]:
    """Measures the feature similarity of a trained model, without a report.

    Args:
        config: file of the config.
        checkpoint: file of the checkpoint.
        layers: maps to measure.
        images: how many of the validation set, evenly spaced.
        edge_k: see `freqfusion.analysis.feature_similarity`.
        options: overrides of the config, ``key=value``.
        device: such as ``"cuda:0"``; None for what PyTorch finds.

    Returns:
        For each layer what `freqfusion.analysis.feature_similarity` returns, so that
        ``result["neck[0]"]["boundary"]["macro"]["margin_mean"]`` is a number.

    Raises:
        CommandError: if something is missing, or the data have no semantic labels.
    """
    loaded = _load(config, checkpoint, options)
    subject = _Subject(config, loaded, checkpoint, images, device)
    with quiet():
        found = subject.measure(layers, edge_k, progress=False)[0]["layers"]
    if any(each["similarity"] is None for each in found.values()):
        raise CommandError(f"the validation set of {config} has no semantic labels")
    return {name: each["similarity"] for name, each in found.items()}


def _load(path: str, checkpoint: str, options: Sequence[str]) -> Any:
    """Returns a config whose model takes whole images, after a look at what it needs."""
    config = without_connectors(load_config(path, list(options)))
    check_checkpoint(checkpoint)
    if config.get("val_dataloader") is None:
        raise CommandError(f"{path} has no val_dataloader, whose images would be measured")
    check_data(config, "val_dataloader")
    if (config.model.get("test_cfg") or {}).get("mode") == "slide":
        config.model.test_cfg = {"mode": "whole"}  # a map is of an image, not of a crop
    return config


class _Image(NamedTuple):
    """What belongs to an image of the validation set."""

    labels: Tensor | None  # (1, H, W)
    extent: tuple[int, int] | None  # as in freqfusion.analysis.feature_similarity
    picture: Any  # (H, W, 3), uint8
    covered: tuple[float, float]  # shares of height and width that are no padding


class _Subject:
    """A trained model and the images that it is measured with."""

    def __init__(self, path: str, config: Any, checkpoint: str, images: int, device: str | None):
        from _models import trained
        from mmengine.device import get_device
        from mmengine.registry import DATASETS

        if images < 1:
            raise CommandError(f"--images must be at least 1, got {images}")
        self.path, self.config, self.checkpoint = path, config, checkpoint
        self.device = device or get_device()
        self.model = trained(config, checkpoint)
        with explained(f"cannot use --device {self.device}"):
            self.model.to(self.device)
        with quiet(), explained(f"cannot read the validation set of {path}"):
            self.dataset = DATASETS.build(config.val_dataloader.dataset)
        count = min(images, len(self.dataset))
        if not count:
            raise CommandError(f"the validation set of {path} has no images")
        self.ignored = getattr(self.dataset, "ignore_index", 255)
        self.palette = self.dataset.metainfo.get("palette")
        self.indices = [index * len(self.dataset) // count for index in range(count)]

    def measure(
        self, layers: Sequence[str] | None, edge_k: int, progress: bool = True
    ) -> tuple[dict, Scene]:
        """Returns what a report needs: its figures, and its pictures of the first image.

        Args:
            layers: names of maps; None for those of all fusions and of the neck.
            edge_k: see `freqfusion.analysis.feature_similarity`.
            progress: print it.

        Raises:
            CommandError: if a layer does not exist, or the model fails.
        """
        import torch
        from mmengine.utils import track_iter_progress

        from freqfusion.analysis import ModelAnalysis, Scene

        scene = None
        failed = f"cannot measure {self.path}"
        with torch.no_grad():
            with explained(failed):
                names = self._default_layers() if layers is None else layers
            try:
                analysis = ModelAnalysis(self.model, names, layers is None, edge_k, self.ignored)
            except ValueError as error:
                raise CommandError(str(error)) from error
            with explained(failed), analysis:
                for index in track_iter_progress(self.indices) if progress else self.indices:
                    image = self._run(index)
                    snapshot = analysis.update(image.labels, image.extent)
                    if scene is None:
                        scene = Scene(
                            image.picture, image.labels, self.palette, image.covered, snapshot
                        )
        return {"about": self._about(edge_k), **analysis.compute()}, scene

    def _default_layers(self) -> list[str]:
        """Names of what the neck gives; of what the backbone gives if nothing else is measured."""
        from freqfusion.analysis import find_fusions

        path = "backbone" if getattr(self.model, "neck", None) is None else "neck"
        if path == "backbone" and find_fusions(self.model):
            return []
        given: list[Any] = []
        module = self.model.get_submodule(path)
        with module.register_forward_hook(lambda module, inputs, output: given.append(output)):
            self._run(0)
        several = isinstance(given[-1], (list, tuple))
        return [f"{path}[{index}]" for index in range(len(given[-1]))] if several else [path]

    def _run(self, index: int) -> _Image:
        """Runs the model on an image of the validation set."""
        from mmengine.dataset import pseudo_collate

        sample = self.dataset[index]
        height, width = sample["inputs"].shape[1:]
        picture = sample["inputs"].flip(0).permute(1, 2, 0).numpy()  # OpenCV's channels are BGR
        labels = _labels(sample["data_samples"])
        inputs = self.model.data_preprocessor(pseudo_collate([sample]), False)
        self.model(**inputs, mode="predict")
        padded = inputs["inputs"].shape[2:]
        extent = None
        if labels is not None:  # of the original image, where the pipeline resizes that alone
            labels = labels.to(self.device)
            rows, cols = labels.shape[1:]
            extent = round(rows * padded[0] / height), round(cols * padded[1] / width)
        return _Image(labels, extent, picture, (height / padded[0], width / padded[1]))

    def _about(self, edge_k: int) -> dict:
        """What was measured, and how."""
        import torch

        import freqfusion

        meta = self.dataset.metainfo
        return {
            "config": self.path,
            "checkpoint": self.checkpoint,
            "model": self.config.model.type,
            "dataset": self.config.val_dataloader.dataset.type,
            "images": len(self.indices),
            "edge_k": edge_k,
            "ignore_index": self.ignored,
            "classes": list(meta.get("classes") or ()),
            "freqfusion": freqfusion.__version__,
            "torch": torch.__version__,
        }


def _labels(sample: Any) -> Tensor | None:
    """Semantic labels (1, H, W) of a sample of mmseg or mmdet, if it has any."""
    found = sample.get("gt_sem_seg")
    if found is None:
        return None
    labels = found.get("data")
    return found.get("sem_seg") if labels is None else labels


if __name__ == "__main__":
    sys.exit(main())
