"""Draws what a trained model of a config finds in images."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from _cli import CommandError, add_common, explained, folder, quiet, run
from _config import (
    IMAGES,
    check_checkpoint,
    datasets_of,
    load_config,
    type_name,
    without_connectors,
)


def main() -> int:
    """Runs the command line and returns the exit code."""
    options = argparse.ArgumentParser(description=__doc__)
    add = options.add_argument
    add("config", help="config file")
    add("checkpoint", help="checkpoint file")
    add("images", nargs="+", metavar="IMAGE", help="image files, or folders of them")
    add("--out", type=folder, required=True, metavar="DIR", help="folder of the pictures")
    add("--device", default=None, help="such as cuda:0 or cpu (what PyTorch finds)")
    add("--score", type=float, default=0.3, help="least score of a box that is drawn (0.3)")
    add("--opacity", type=float, default=0.5, help="of the classes over the image (0.5)")
    add_common(options)
    return run(infer, options.parse_args())


def infer(arguments: argparse.Namespace) -> None:
    """Writes one picture for each image as the command line says.

    Raises:
        CommandError: if something is missing, or a picture exists already.
    """
    config = without_connectors(load_config(arguments.config, arguments.cfg_options))
    check_checkpoint(arguments.checkpoint)
    images = _images(arguments.images)
    pictures = [arguments.out / f"{image.stem}.png" for image in images]
    doubled = {path for path in pictures if pictures.count(path) > 1}
    if doubled:
        raise CommandError(f"two of the images would be written to {doubled.pop()}")
    present = [path for path in pictures if path.exists()]
    if present:
        raise CommandError(f"{present[0]} exists already; choose another --out")
    from mmengine.device import get_device
    from mmengine.utils import track_iter_progress

    with quiet(), explained(f"cannot load {arguments.checkpoint}"):
        draw = _drawer(config, arguments, arguments.device or get_device())
    arguments.out.mkdir(parents=True, exist_ok=True)
    for image, picture in track_iter_progress(list(zip(images, pictures, strict=True))):
        with explained(f"cannot draw {image}"):
            draw(image, picture)
    print(f"\n{len(pictures)} pictures in {arguments.out}")


def _images(names: list[str]) -> list[Path]:
    found = []
    for path in map(Path, names):
        if not path.exists():
            raise CommandError(f"there is no image {path}")
        inside = (
            sorted(p for p in path.iterdir() if p.suffix.lower() in IMAGES)
            if path.is_dir()
            else [path]
        )
        if not inside:
            raise CommandError(f"there are no images in {path}")
        found += inside
    return found


def _drawer(config: Any, arguments: argparse.Namespace, device: str):
    """A function of an image's path and the picture's, for a segmentor or a detector."""
    datasets = list(datasets_of(config.test_dataloader.dataset))
    for dataset in datasets:  # an image alone has no labels to load
        dataset.pipeline = [
            step for step in dataset.pipeline if not type_name(step).endswith("Annotations")
        ]
    if "test_pipeline" not in config:  # where mmseg looks for it
        config.test_pipeline = datasets[0].pipeline
    if config.default_scope == "mmseg":
        from mmseg.apis import inference_model, init_model
        from mmseg.registry import DATASETS
        from mmseg.visualization import SegLocalVisualizer as Visualizer

        options = {"with_labels": False}
    else:
        from mmdet.apis import inference_detector as inference_model
        from mmdet.apis import init_detector as init_model
        from mmdet.registry import DATASETS
        from mmdet.visualization import DetLocalVisualizer as Visualizer

        options = {"pred_score_thr": arguments.score}
    model = init_model(config, device=device)
    kind = datasets[0].type
    kind = DATASETS.get(kind) if isinstance(kind, str) else kind
    known = [datasets[0].get("metainfo") or {}, getattr(kind, "METAINFO", {})]
    model.dataset_meta = _load(model, arguments.checkpoint, known)
    visualizer = Visualizer(alpha=arguments.opacity)
    visualizer.dataset_meta = model.dataset_meta

    def draw(image: Path, picture: Path) -> None:
        import mmcv

        pixels = mmcv.imread(str(image), channel_order="rgb")
        if pixels is None:
            raise ValueError("it is no image that OpenCV reads")
        result = inference_model(model, str(image))
        visualizer.add_datasample(
            picture.stem, pixels, result, draw_gt=False, out_file=str(picture), **options
        )

    return draw


def _load(model: Any, checkpoint: str, known: list[dict]) -> dict:
    """Loads a checkpoint; returns its classes and palette, or else the first that are `known`."""
    from mmengine.runner import load_checkpoint

    loaded = load_checkpoint(model, checkpoint, map_location="cpu", strict=True)
    meta = loaded.get("meta", {})
    older = {key.lower(): meta[key] for key in ("CLASSES", "PALETTE") if key in meta}
    sources = (meta.get("dataset_meta") or {}, older, *known)
    return {
        key: next((source[key] for source in sources if source.get(key)), None)
        for key in ("classes", "palette")
    }


if __name__ == "__main__":
    sys.exit(main())
