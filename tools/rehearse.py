"""Trains configs of real datasets for a minute on generated scenes, and tells what their losses do.

Model, losses, augmentation and evaluation stay those of the config. Images are made small, and the
schedule becomes a short one that fits a network without pretrained weights on a CPU: AdamW, a
constant learning rate, batch norms that learn.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from statistics import mean
from typing import Any

from _cli import CommandError, add_common, folder, run
from _config import load_config, type_name
from _runs import Run, claim, results, train
from scenes import Settings, generate

_FORMATS = {"ADE20KDataset": "ade20k", "CityscapesDataset": "cityscapes"}
_FORMATS |= dict.fromkeys(("CocoDataset", "CocoPanopticDataset"), "coco")
_SHOWN = 10  # iterations at either end, whose mean loss is shown


def main() -> int:
    """Runs the command line and returns the exit code."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = options.add_argument
    add("configs", nargs="+", metavar="CONFIG", help="config files of ADE20K, Cityscapes or COCO")
    add("--iterations", type=int, default=60, metavar="N", help="how long to train (60)")
    add("--size", nargs=2, type=int, default=(128, 256), metavar=("H", "W"), help="of the images")
    add("--batch", type=int, default=2, metavar="N", help="images in a batch (2)")
    add("--lr", type=float, default=5e-4, help="learning rate (0.0005)")
    add("--train", type=int, default=64, metavar="N", help="training scenes (64)")
    add("--val", type=int, default=8, metavar="N", help="validation scenes (8)")
    add(
        "--work-dir", type=folder, default=Path("work_dirs/rehearsal"), help="folder for everything"
    )
    add_common(options)
    return run(rehearse, options.parse_args())


def rehearse(arguments: argparse.Namespace) -> None:
    """Rehearses as the command line says; a finished run is shown again, not repeated.

    Raises:
        CommandError: if a training fails.
    """
    lines = [["config", "iterations", "first loss", "last loss", "s/iter", "evaluation"]]
    for path in arguments.configs:
        small = arguments.work_dir / "configs" / Path(path).name
        config = shrink(path, arguments)
        small.parent.mkdir(parents=True, exist_ok=True)
        config.dump(str(small))
        each = Run(str(small), 0, arguments.work_dir / small.stem)
        claim(each)
        if (found := results(each, [])) is None:
            train(each, lambda line, name=each.name: print(f"{name}: {line}", flush=True))
            found = results(each, [])
        seconds = f"{found['s/iter']:.2f}"
        first, last, metrics = _summary(each)
        lines.append([each.name, str(arguments.iterations), first, last, seconds, metrics])
    table = "".join(f"| {' | '.join(line)} |\n" for line in [lines[0], ["---"] * 6, *lines[1:]])
    (arguments.work_dir / "rehearsal.md").write_text(table)
    print(f"\n{table}", flush=True)


def shrink(path: str, arguments: argparse.Namespace) -> Any:
    """Returns a config made small, with the data that it needs on disk.

    Raises:
        CommandError: if its dataset is none of those that can be generated.
    """
    config = load_config(path, arguments.cfg_options)
    kind = type_name(config.train_dataloader.dataset)
    form = _FORMATS.get(kind)
    if form is None:
        raise CommandError(f"{path} trains on {kind}, not on {list(_FORMATS)}")
    size, counts = tuple(arguments.size), (arguments.train, arguments.val)
    name = "{}-{}x{}-{}-{}".format(form, *size, *counts)
    scenes = arguments.work_dir / "scenes" / name
    generate(scenes, Settings(form, size, 0, *counts), 1)
    root = scenes / "ADEChallengeData2016" if form == "ade20k" else scenes
    from _models import forget_weights

    config = load_config(path, [*arguments.cfg_options, f"data_root={root}"])
    forget_weights(config.model)
    config = type(config)(_small(config.to_dict(), size))
    for key in ("train_dataloader", "val_dataloader", "test_dataloader"):
        config[key].update(num_workers=0, persistent_workers=False)
    config.train_dataloader.update(
        batch_size=arguments.batch,
        sampler={"type": "InfiniteSampler", "shuffle": True},
        batch_sampler=None,
    )
    _shorten(config, arguments.iterations, arguments.lr)
    return config


def _small(node: Any, size: tuple[int, int]) -> Any:
    """Returns a part of a config for small images, with norms that learn."""
    if isinstance(node, dict):
        small = {key: _small(value, size) for key, value in node.items()}
        small.update({key: change(small, size) for key, change in _CHANGES.items() if key in small})
        return small
    if isinstance(node, (list, tuple)):
        return type(node)(_small(value, size) for value in node)
    return node


_CHANGES = {
    "frozen_stages": lambda node, size: -1,
    "norm_eval": lambda node, size: False,
    "requires_grad": lambda node, size: True,
    "crop_size": lambda node, size: size,
    "size": lambda node, size: size if isinstance(node["size"], (list, tuple)) else node["size"],
    "scale": lambda node, size: size[::-1] if node.get("type") in _RESIZES else node["scale"],
    "scales": lambda node, size: (
        [size[0] * n // 4 for n in (3, 4, 5)] if node.get("type") in _RESIZES else node["scales"]
    ),
    "max_size": lambda node, size: 2 * size[1],
    "stride": lambda node, size: size if node.get("mode") == "slide" else node["stride"],
}
_RESIZES = ("Resize", "RandomResize", "RandomChoiceResize")


def _shorten(config: Any, iterations: int, lr: float) -> None:
    """Gives a config a schedule of some iterations, with an evaluation at the end."""
    config.train_cfg = {
        "type": "IterBasedTrainLoop",
        "max_iters": iterations,
        "val_interval": iterations,
    }
    config.optim_wrapper = {
        "type": "OptimWrapper",
        "optimizer": {"type": "AdamW", "lr": lr, "weight_decay": 0.01},
        "clip_grad": {"max_norm": 5.0},
    }
    config.param_scheduler = []
    config.default_hooks.logger = {
        "type": "LoggerHook",
        "interval": 1,
        "log_metric_by_epoch": False,
    }
    config.default_hooks.checkpoint = {
        "type": "CheckpointHook",
        "by_epoch": False,
        "interval": iterations,
    }
    config.log_processor = {"type": "LogProcessor", "window_size": 1, "by_epoch": False}
    config.randomness = {"seed": 0}
    imports = (config.get("custom_imports") or {}).get("imports", [])
    imports = [imports] if isinstance(imports, str) else imports
    config.custom_imports = {
        "imports": [*imports, "panopticapi_stand_in"],
        "allow_failed_imports": False,
    }


def _summary(each: Run) -> list[str]:
    """Returns loss at the beginning, loss in the end and evaluation of a finished run."""
    (log,) = sorted(each.folder.glob("*/vis_data/scalars.json"))[-1:]
    records = [json.loads(line) for line in log.read_text().splitlines()]
    steps = [record for record in records if "loss" in record]
    figures = {key: value for key, value in records[-1].items() if key in _METRICS}
    return [
        f"{mean(step['loss'] for step in steps[:_SHOWN]):.2f}",
        f"{mean(step['loss'] for step in steps[-_SHOWN:]):.2f}",
        ", ".join(f"{_METRICS[key]} {value:.3g}" for key, value in figures.items()),
    ]


_METRICS = {
    "mIoU": "mIoU",
    "coco/bbox_mAP": "box AP",
    "coco/segm_mAP": "mask AP",
    "coco_panoptic/PQ": "PQ",
}


if __name__ == "__main__":
    sys.exit(main())
