"""Writes procedurally generated street scenes as Cityscapes, ADE20K or COCO."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable
from pathlib import Path

from scenes import CATEGORIES, FORMATS, Progress, RefusedError, Settings, generate

DESCRIPTION = f"""\
Writes street-like scenes with exact labels, laid out on disk like a real dataset.

The scenes are drawn, not photographed: textured shapes that overlap, thin poles and wires, holes.
Use them to train and compare segmentation models in minutes where the real data is out of reach.
Colour tells nothing about the class; texture and shape do. There are {len(CATEGORIES) - 1} classes
({", ".join(category.name for category in CATEGORIES[1:])})
and some clutter without a label.
"""

EXAMPLES = """\
examples:
  python tools/make_scenes.py data/cityscapes --format cityscapes
  python tools/make_scenes.py data/coco --format coco --train 2000 --val 200 --workers 4

The same arguments write the same files again. A run that was stopped goes on where it was when
the command is given again, and larger --train and --val add scenes to a set. A folder that holds
anything else is left alone: the command then says so and exits with code 2.
"""


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line and returns the exit code."""
    options = _parser().parse_args(arguments)
    settings = Settings(options.format, options.size, options.seed, options.train, options.val)
    progress = Progress(sys.stderr)
    try:
        generate(options.out, settings, options.workers, progress.update)
    except (RefusedError, OSError) as error:
        sys.stderr.write(f"make_scenes: {error}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("\nmake_scenes: stopped; the same command goes on from here\n")
        return 130
    counts = f"{options.train} train and {options.val} val scenes"
    sys.stderr.write(f"{options.out}: {counts} ({options.format}), {progress.seconds:.1f} s\n")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("out", metavar="OUT", type=Path, help="folder to write to: new, empty or begun earlier")
    add("--format", choices=FORMATS, required=True, help="dataset whose layout to write")
    add("--train", metavar="N", type=_integer(0), default=512, help="training scenes (512)")
    add("--val", metavar="N", type=_integer(0), default=64, help="validation scenes (64)")
    add("--size", metavar="HxW", type=_size, default="128x256", help="pixels (128x256)")
    add("--seed", metavar="S", type=_integer(0), default=0, help="other seed, other scenes (0)")
    add("--workers", metavar="N", type=_integer(1), default=1, help="processes to use (1)")
    return parser


def _integer(least: int) -> Callable[[str], int]:
    """Returns a parser of integers from `least` up."""

    def parse(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"must be an integer from {least} up, got {text!r}")
        return int(text)

    return parse


def _size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)x(\d+)", text)
    if not match or min(int(side) for side in match.groups()) < 32:
        raise argparse.ArgumentTypeError(f"must be HxW, both 32 or more, got {text!r}")
    return int(match[1]), int(match[2])


if __name__ == "__main__":
    sys.exit(main())
