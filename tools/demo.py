"""Trains a Semantic FPN and its FreqFusion twin on generated scenes and shows the difference.

The two configs differ in one line, the type of the neck. Scenes, table and picture are written to
the work dir; give the command again to go on after an interruption.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

from _cli import CommandError, add_common, folder, quiet, run
from _config import load_config
from compare import compare, run_folder

TOOLS = Path(__file__).resolve().parent
CONFIGS = [
    TOOLS.parent / "mm_configs" / "scenes" / f"{model}_r18_1xb4-800_scenes-128x256.py"
    for model in ("fpn", "fpn-freqfusion")
]


def main() -> int:
    """Runs the command line and returns the exit code."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = options.add_argument
    add("--work-dir", type=folder, default=Path("work_dirs/demo"), help="folder for everything")
    add("--train", type=int, default=512, metavar="N", help="training scenes (512)")
    add("--val", type=int, default=64, metavar="N", help="validation scenes (64)")
    add("--seed", type=int, default=0, help="seed of scenes and training (0)")
    add_common(options)
    return run(demo, options.parse_args())


def demo(arguments: argparse.Namespace) -> None:
    """Runs the demonstration as the command line says.

    Raises:
        CommandError: if a step cannot begin or fails.
    """
    begin = time.perf_counter()
    scenes = arguments.work_dir / "scenes"
    _say(f"1/3  generating {arguments.train} + {arguments.val} scenes in {scenes}")
    _generate(scenes, arguments)
    _say("2/3  training, the plain neck first")
    arguments.configs = [str(path) for path in CONFIGS]
    arguments.seeds = [arguments.seed]
    arguments.metrics = arguments.similarity = None
    arguments.cfg_options = [f"data_root={scenes}", *arguments.cfg_options]
    compare(arguments)
    picture = arguments.work_dir / "predictions.png"
    _say(f"3/3  drawing {picture}")
    with quiet():
        _draw(picture, arguments)
    minutes, seconds = divmod(round(time.perf_counter() - begin), 60)
    _say(f"done in {minutes} min {seconds:02} s; table and picture are in {arguments.work_dir}")


def _generate(folder: Path, arguments: argparse.Namespace) -> None:
    command = [sys.executable, str(TOOLS / "make_scenes.py"), str(folder), "--format", "cityscapes"]
    for name in ("train", "val", "seed"):
        command += [f"--{name}", str(getattr(arguments, name))]
    if subprocess.run(command).returncode:
        raise CommandError("the scenes could not be generated")


def _draw(path: Path, arguments: argparse.Namespace) -> None:
    """Draws the predictions of the two models."""
    from _picture import draw
    from mmengine.runner import find_latest_checkpoint

    trained = {}
    for config_path in arguments.configs:
        config = load_config(config_path, arguments.cfg_options)
        folder = run_folder(arguments.work_dir, config_path, arguments.seed)
        trained[config.model.neck.type] = (config, find_latest_checkpoint(str(folder)))
    draw(path, trained)


def _say(text: str) -> None:
    print(f"\n{text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
