"""Trains the model of an OpenMMLab config."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from _cli import CommandError, parser, run
from _config import check_data, load_config


def main() -> int:
    """Runs the command line and returns the exit code."""
    options = parser(__doc__)
    options.add_argument("--amp", action="store_true", help="train in mixed precision")
    options.add_argument("--compile", action="store_true", help="compile the model with PyTorch")
    options.add_argument(
        "--resume", action="store_true", help="go on from the latest checkpoint in the work dir"
    )
    return run(train, options.parse_args())


def train(arguments: argparse.Namespace) -> None:
    """Trains as the command line says.

    Raises:
        CommandError: if it cannot start.
    """
    config = load_config(arguments.config, arguments.cfg_options, arguments.work_dir)
    config.launcher = arguments.launcher
    config.resume = arguments.resume
    if not arguments.resume and any(Path(config.work_dir).glob("*.pth")):
        raise CommandError(
            f"{config.work_dir} already holds checkpoints; "
            "go on from the latest with --resume or choose another --work-dir"
        )
    if arguments.amp:
        _use_amp(config)
    if arguments.compile:
        config.compile = True
    check_data(config, "train_dataloader", "val_dataloader")
    from _runner import launch  # imports mmengine, which load_config has checked for

    launch(config, "train")


def _use_amp(config: Any) -> None:
    """Switches a config to mixed precision: fp16 with loss scaling, on a CPU bf16 without."""
    from mmengine.device import get_device

    wrapper = config.optim_wrapper
    found = wrapper.setdefault("type", "OptimWrapper")
    if found not in ("OptimWrapper", "AmpOptimWrapper"):
        raise CommandError(f"--amp needs optim_wrapper.type OptimWrapper, the config has {found}")
    if get_device() == "cpu":
        wrapper.type = "CPUAmpOptimWrapper"
        wrapper.pop("loss_scale", None)
    else:
        wrapper.type = "AmpOptimWrapper"
        wrapper.setdefault("loss_scale", "dynamic")


if __name__ == "__main__":
    sys.exit(main())
