"""Trains configs in processes of their own and reads what MMEngine's logs say of them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from _cli import CommandError
from _config import check_data, load_config

_PROGRESS = re.compile(r"(?:Iter|Epoch)\((train|val)\).*?(\d+)/(\d+)\](.*)")
_MEMORY = "peak_memory.json"  # in the folder of a run
METRICS = ("mIoU", "boundary/mIoU", "coco/bbox_mAP", "coco/segm_mAP", "coco_panoptic/PQ")
_SHOWN = ("loss", "eta", *METRICS)


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
        CommandError: if something else does, or did and has left something.
    """
    note = run.folder / "run.json"
    content = json.dumps(run.check().to_dict(), indent=1, sort_keys=True, default=str)
    left = any(run.folder.glob("*.pth")) or any(_records(run.folder))
    if left and note.exists() and note.read_text() != content:
        raise CommandError(
            f"{run.folder} holds a run of {run.name} with other settings; choose another --work-dir"
        )
    run.folder.mkdir(parents=True, exist_ok=True)
    note.write_text(content)


def train(run: Run, report: Callable[[str], None]) -> None:
    """Trains a run, or what is left of it, and notes in its folder how much memory that takes.

    Args:
        run: what to train; checkpoints in its folder are resumed.
        report: is called with a line of progress now and then.

    Raises:
        CommandError: if the training fails.
    """
    command = [sys.executable, "-u", str(Path(__file__).with_name("train.py")), run.path]
    command += ["--work-dir", str(run.folder), "--resume", "--cfg-options", *run.overrides]
    config = run.check()
    logger = config.get("default_hooks", {}).get("logger", {})
    if "max_iters" in config.train_cfg and logger.get("log_metric_by_epoch", True):
        # so that `results` sees which iteration a validation is of
        command.append("default_hooks.logger.log_metric_by_epoch=False")
        command += [] if "type" in logger else ["default_hooks.logger.type=LoggerHook"]
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
                if match[1] == "train":  # not what a validation at the end takes
                    _note_memory(run.folder, process.pid)
                report(_progress(*match.groups()))
    if process.returncode == 2:
        raise CommandError(last[-1].strip())
    if process.returncode:
        sys.stderr.writelines(last)
        raise CommandError(f"training {run.name} failed with exit code {process.returncode}")


def results(run: Run, metrics: list[str] | None) -> dict[str, float | None] | None:
    """Returns the figures of a run, if it is done.

    They are the last validation's `metrics` (None: those of `METRICS` that it measures), the median
    ``s/iter`` and the peak ``memory/MiB`` of the training: on a GPU what PyTorch allocated, else
    the resident memory of the process without its workers. A figure that was not measured is None.
    """
    schedule = run.check().train_cfg
    last = schedule.get("max_iters", schedule.get("max_epochs"))
    records = list(_records(run.folder))
    final = [record for record in records if record["step"] == last and "loss" not in record]
    if not final:
        return None
    if metrics is None:
        metrics = [metric for metric in METRICS if metric in final[-1]]
    for metric in metrics:
        if metric not in final[-1]:
            found = ", ".join(final[-1])
            print(f"{run.name} does not measure {metric}, only {found}", file=sys.stderr)
    steps = [record for record in records if "loss" in record]
    times = [record["time"] for record in steps if "time" in record]
    allocated = [record["memory"] for record in steps if "memory" in record]
    return {
        **{metric: final[-1].get(metric) for metric in metrics},
        "s/iter": median(times) if times else None,
        "memory/MiB": max(allocated) if allocated else _noted_memory(run.folder),
    }


def _records(folder: Path) -> Iterator[dict[str, Any]]:
    """Yields what MMEngine has logged in a folder, of all trainings there."""
    for log in sorted(folder.glob("*/vis_data/scalars.json")):
        lines = log.read_text().splitlines(keepends=True)
        # a kill may cut one off
        yield from (json.loads(line) for line in lines if line.endswith("\n"))


def _note_memory(folder: Path, process: int) -> None:
    """Notes the peak of a process in a folder, unless an earlier one's was higher."""
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except OSError:  # it has just ended, or this is no Linux
        return
    # not `ru_maxrss`, which begins at the memory of the process that started this one
    peak = re.search(r"VmHWM:\s*(\d+) kB", status)
    mebibytes = int(peak[1]) / 1024 if peak else 0
    if mebibytes > (_noted_memory(folder) or 0):
        (folder / _MEMORY).write_text(json.dumps({"MiB": round(mebibytes, 1)}))


def _noted_memory(folder: Path) -> float | None:
    """Returns the noted peak; None for a run that was trained without."""
    note = folder / _MEMORY
    try:
        return json.loads(note.read_text())["MiB"]
    except (FileNotFoundError, json.JSONDecodeError):  # a kill may cut a note off
        return None


def _progress(mode: str, step: str, steps: str, values: str) -> str:
    found = dict(re.findall(r"(\S+): (\S+)", values))
    shown = "  ".join(f"{name} {found[name]}" for name in _SHOWN if name in found)
    return f"{mode:5} {step:>5}/{steps}  {shown}"
