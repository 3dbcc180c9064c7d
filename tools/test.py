"""Tests a checkpoint of the model of an OpenMMLab config."""

from __future__ import annotations

import argparse
import sys

from _cli import parser, run
from _config import check_checkpoint, check_data, load_config, without_connectors


def main() -> int:
    """Runs the command line and returns the exit code."""
    options = parser(__doc__)
    options.add_argument("checkpoint", help="checkpoint file")
    return run(test, options.parse_args())


def test(arguments: argparse.Namespace) -> None:
    """Tests as the command line says.

    Raises:
        CommandError: if it cannot start.
    """
    check_checkpoint(arguments.checkpoint)
    config = load_config(arguments.config, arguments.cfg_options, arguments.work_dir)
    without_connectors(config)
    config.launcher = arguments.launcher
    config.load_from = arguments.checkpoint
    check_data(config, "test_dataloader")
    from _runner import launch  # imports mmengine, which load_config has checked for

    launch(config, "test")


if __name__ == "__main__":
    sys.exit(main())
