"""Counts parameters and floating point operations of the model of a config."""

from __future__ import annotations

import argparse
import sys

from _cli import add_common, quiet, run
from _config import load_config, without_connectors


def main() -> int:
    """Runs the command line and returns the exit code."""
    options = argparse.ArgumentParser(
        description=__doc__,
        epilog="PyTorch counts a multiply-add as two operations, MMEngine as one; each counts the "
        "operators that it knows, and both know those of this package.",
    )
    options.add_argument("config", help="config file")
    options.add_argument(
        "--shape", nargs=2, type=int, default=(512, 512), metavar=("H", "W"), help="of the image"
    )
    add_common(options)
    return run(count, options.parse_args())


def count(arguments: argparse.Namespace) -> None:
    """Counts as the command line says.

    Raises:
        CommandError: if the config cannot be read.
    """
    config = without_connectors(load_config(arguments.config, arguments.cfg_options))
    from _models import cost, mmengine_flops

    size = tuple(arguments.shape)
    found = cost(config, size)
    with quiet():
        others = mmengine_flops(config, size)
    print(f"image              {size[0]} x {size[1]}")
    print(f"parameters         {found.parameters / 1e6:.2f} M")
    print(f"PyTorch's count    {found.flops / 1e9:.2f} GFLOPs")
    print(f"MMEngine's count   {others / 1e9:.2f} G multiply-adds")


if __name__ == "__main__":
    sys.exit(main())
