"""Trains several OpenMMLab configs with the same seeds and compares them in a table."""

from __future__ import annotations

import argparse
import csv
import sys
from pathlib import Path
from statistics import mean, stdev

from _cli import add_common, quiet, run
from _runs import Run, claim, results, train


def main() -> int:
    """Runs the command line and returns the exit code."""
    options = argparse.ArgumentParser(
        description=__doc__,
        epilog="A finished run is used again, a killed one is resumed; give the command again.",
    )
    add = options.add_argument
    add("configs", nargs="+", metavar="CONFIG", help="config files")
    add("--seeds", nargs="+", type=int, default=[0], metavar="SEED", help="one run each (0)")
    add("--work-dir", type=Path, default=Path("work_dirs/compare"), help="folder of the runs")
    add("--metrics", nargs="+", default=["mIoU", "boundary/mIoU"], help="what to compare")
    add_common(options)
    return run(compare, options.parse_args())


def compare(arguments: argparse.Namespace) -> None:
    """Compares as the command line says; `arguments.work_dir` then has the table and the figures.

    Raises:
        CommandError: if a run cannot begin or fails.
    """
    runs = [
        Run(path, seed, run_folder(arguments.work_dir, path, seed), tuple(arguments.cfg_options))
        for seed in arguments.seeds
        for path in arguments.configs
    ]
    for each in runs:
        each.check()
    rows = [_row(each, arguments.metrics) for each in runs]
    with open(arguments.work_dir / "comparison.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    table = _table(rows)
    (arguments.work_dir / "comparison.md").write_text(table)
    print(f"\n{table}", flush=True)


def run_folder(work_dir: Path, path: str, seed: int) -> Path:
    """Returns the folder of one run inside of a comparison's."""
    return work_dir / Path(path).stem / f"seed{seed}"


def _row(each: Run, metrics: list[str]) -> dict[str, str | int | float]:
    """Trains a run if it is not done and returns its figures."""
    title = f"{each.name}, seed {each.seed}"
    claim(each)
    found = results(each, metrics)
    print(f"{title}: {'training' if found is None else 'done before'}", flush=True)
    if found is None:
        train(each, lambda line: print(f"  {line}", flush=True))
        found = results(each, metrics)
    return {"config": each.name, "seed": each.seed, "parameters": _parameters(each), **found}


def _parameters(each: Run) -> int:
    from mmengine.registry import MODELS, init_default_scope

    config = each.check()
    with quiet():
        init_default_scope(config.get("default_scope", "mmengine"))
        model = MODELS.build(config.model)
    return sum(parameter.numel() for parameter in model.parameters())


def _table(rows: list[dict[str, str | int | float]]) -> str:
    """Returns a Markdown table with a line per config: mean, and standard deviation over seeds."""
    names = list(dict.fromkeys(row["config"] for row in rows))
    figures = [name for name in rows[0] if name not in ("config", "seed", "parameters")]
    lines = [["config", *figures, "parameters"]]
    for name in names:
        own = [row for row in rows if row["config"] == name]
        cells = [_spread([row[figure] for row in own]) for figure in figures]
        lines.append([name, *cells, f"{own[0]['parameters'] / 1e6:.2f} M"])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    lines.insert(1, ["-" * width for width in widths])
    padded = (
        [cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in lines
    )
    return "".join(f"| {' | '.join(line)} |\n" for line in padded)


def _spread(values: list[float]) -> str:
    spread = f" ± {stdev(values):.2f}" if len(values) > 1 else ""
    return f"{mean(values):.2f}{spread}"


if __name__ == "__main__":
    sys.exit(main())
