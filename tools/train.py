"""Trains the model of an OpenMMLab config."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from _cli import CommandError, parser, run
from _config import check_data, find, load_config


def main() -> int:
    """Runs the command line and returns the exit code."""
    options = parser(__doc__)
    options.add_argument("--amp", action="store_true", help="train in mixed precision")
    options.add_argument("--compile", action="store_true", help="compile the model with PyTorch")
    options.add_argument(
        "--resume", action="store_true", help="go on from the work dir's latest checkpoint, if any"
    )
    return run(train, options.parse_args())


def train(arguments: argparse.Namespace) -> None:
    """Trains as the command line says.

    Raises:
        CommandError: if it cannot start.
    """
    config = load_config(arguments.config, arguments.cfg_options, arguments.work_dir)
    config.launcher = arguments.launcher
    if arguments.resume:
        _resume(config)
    elif any(Path(config.work_dir).glob("*.pth")):
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


def _resume(config: Any) -> None:
    """Sets a config to go on in its work dir, or to begin there as it would without."""
    from mmengine.runner import find_latest_checkpoint

    config.resume = find_latest_checkpoint(config.work_dir) is not None
    if config.resume:
        config.load_from = None  # else MMEngine resumes the run that this one began from


def _use_amp(config: Any) -> None:
    """Switches a config to mixed precision: fp16 with loss scaling, on a CPU bf16 without."""
    from mmengine.device import get_device

    wrapper = config.optim_wrapper
    found = wrapper.setdefault("type", "OptimWrapper")
    if found not in ("OptimWrapper", "AmpOptimWrapper"):
        raise CommandError(f"--amp needs optim_wrapper.type OptimWrapper, the config has {found}")
    if get_device() == "cpu":
        if any(find(config.model, "rpn_head")):
            raise CommandError(
                "--amp on a CPU: mmcv's operators of two-stage detectors are float32"
            )
        wrapper.type = "CPUAmpOptimWrapper"
        for option in ("loss_scale", "dtype"):
            wrapper.pop(option, None)
    else:
        wrapper.type = "AmpOptimWrapper"
        wrapper.setdefault("loss_scale", "dynamic")


if __name__ == "__main__":
    sys.exit(main())
