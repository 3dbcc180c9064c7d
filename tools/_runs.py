"""Trains configs in processes of their own and reads what MMEngine's logs say of them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from _cli import CommandError
from _config import check_data, load_config

_PROGRESS = re.compile(r"(?:Iter|Epoch)\((train|val)\).*?(\d+)/(\d+)\](.*)")
_SHOWN = ("loss", "eta", "mIoU", "boundary/mIoU", "coco/bbox_mAP")


@dataclass(frozen=True)
class Run:
    """The training of a config with one seed.

    Args:
        path: file of the config.
        seed: seed of the run.
        folder: its work dir.
        options: further overrides of the config, ``key=value``.
    """

    path: str
    seed: int
    folder: Path
    options: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Name of the config."""
        return Path(self.path).stem

    @property
    def overrides(self) -> list[str]:
        """All overrides of the config."""
        return [*self.options, f"randomness.seed={self.seed}"]

    def check(self) -> Any:
        """Returns the config, or raises a `CommandError` if the run could not begin."""
        config = load_config(self.path, self.overrides, str(self.folder))
        check_data(config, "train_dataloader", "val_dataloader")
        return config


def claim(run: Run) -> None:
    """Notes in the folder of a run what runs there.

    Raises:
        CommandError: if something else does.
    """
    note = run.folder / "run.json"
    content = json.dumps(run.check().to_dict(), indent=1, sort_keys=True, default=str)
    if note.exists() and note.read_text() != content:
        raise CommandError(
            f"{run.folder} holds a run of {run.name} with other settings; choose another --work-dir"
        )
    run.folder.mkdir(parents=True, exist_ok=True)
    note.write_text(content)


def train(run: Run, report: Callable[[str], None]) -> None:
    """Trains a run, or what is left of it.

    Args:
        run: what to train; checkpoints in its folder are resumed.
        report: is called with a line of progress now and then.

    Raises:
        CommandError: if the training fails.
    """
    command = [sys.executable, "-u", str(Path(__file__).with_name("train.py")), run.path]
    command += ["--work-dir", str(run.folder), "--resume", "--cfg-options", *run.overrides]
    last: deque[str] = deque(maxlen=40)
    # threads that wait without spinning for long: little slower on an idle machine, and many times
    # faster on a busy one
    environment = {"GOMP_SPINCOUNT": "1000", **os.environ}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    ) as process:
        for line in process.stdout:
            last.append(line)
            if match := _PROGRESS.search(line):
                report(_progress(*match.groups()))
    if process.returncode == 2:
        raise CommandError(last[-1].strip())
    if process.returncode:
        sys.stderr.writelines(last)
        raise CommandError(f"training {run.name} failed with exit code {process.returncode}")


def results(run: Run, metrics: list[str]) -> dict[str, float] | None:
    """Returns the last validation's `metrics` and the median ``s/iter`` of a run, if it is done."""
    schedule = run.check().train_cfg
    steps = schedule.get("max_iters", schedule.get("max_epochs"))
    logs = sorted(run.folder.glob("*/vis_data/scalars.json"))
    lines = (line for log in logs for line in log.read_text().splitlines(keepends=True))
    records = [json.loads(line) for line in lines if line.endswith("\n")]  # a kill may cut one off
    final = [record for record in records if record["step"] == steps and "loss" not in record]
    if not final:
        return None
    missing = [metric for metric in metrics if metric not in final[-1]]
    if missing:
        raise CommandError(f"{run.name} does not measure {missing[0]}, only {', '.join(final[-1])}")
    times = [record["time"] for record in records if "loss" in record]
    return {**{metric: final[-1][metric] for metric in metrics}, "s/iter": median(times)}


def _progress(mode: str, step: str, steps: str, values: str) -> str:
    found = dict(re.findall(r"(\S+): (\S+)", values))
    shown = "  ".join(f"{name} {found[name]}" for name in _SHOWN if name in found)
    return f"{mode:5} {step:>5}/{steps}  {shown}"
