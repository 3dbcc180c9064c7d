"""Timing, peak memory and result files of the benchmarks."""

from __future__ import annotations

import csv
import multiprocessing
import platform
import time
from collections.abc import Callable
from pathlib import Path

import torch

RESULTS = Path(__file__).parent / "results"


def milliseconds(functions: dict[str, Callable[[], object]], repeats: int = 7) -> dict[str, float]:
    """Least time of each function; they take turns, so that a busy moment hits them alike."""
    best = {}
    for round_ in range(repeats + 1):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            elapsed = 1e3 * (time.perf_counter() - start)
            if round_:  # the first round warms up
                best[name] = min(elapsed, best.get(name, elapsed))
    return best


def extra_mebibytes(prepare: Callable[..., Callable[[], object]], *args) -> float:
    """Peak resident memory that ``prepare(*args)()`` adds after ``prepare(*args)``.

    Measured in a fresh process on Linux; `prepare` and `args` must be picklable.
    """
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        return pool.apply(_extra_mebibytes, (prepare, args))


def _extra_mebibytes(prepare: Callable[..., Callable[[], object]], args: tuple) -> float:
    function = prepare(*args)
    Path("/proc/self/clear_refs").write_text(
        "5"
    )  # Linux: the peak starts again from what is held now
    before = _resident_mebibytes("VmRSS")
    function()
    return _resident_mebibytes("VmHWM") - before


def _resident_mebibytes(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(field))


def machine() -> str:
    """One line about where the figures come from."""
    threads = torch.get_num_threads()
    return (
        f"torch {torch.__version__}, {threads} threads, {platform.machine()}, {platform.system()}"
    )


def write_csv(name: str, rows: list[dict]) -> Path:
    """Writes `rows` with the machine's line to results/<name>.csv."""
    path = RESULTS / f"{name}.csv"
    path.parent.mkdir(exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, [*rows[0], "machine"])
        writer.writeheader()
        writer.writerows({**row, "machine": machine()} for row in rows)
    return path
