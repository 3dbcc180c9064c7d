"""Trains several OpenMMLab configs with the same seeds and compares them in a table.

It has the metrics, time and peak memory of the training, FLOPs of one image and parameters. Each
run is one process on one device, and learning rates are taken as they are.
"""

from __future__ import annotations

import argparse
import csv
import sys
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from _cli import CommandError, add_common, explained, folder, quiet, reason, run
from _config import without_connectors
from _runs import METRICS, Run, claim, results, train

_DIGITS = {"s/iter": 3, "memory/MiB": 0, "margin": 3, "boundary margin": 3}  # others have 2


def main() -> int:
    """Runs the command line and returns the exit code."""
    options = argparse.ArgumentParser(
        description=__doc__,
        epilog="A finished run is used again, a killed one is resumed; give the command again.",
    )
    add = options.add_argument
    add("configs", nargs="+", metavar="CONFIG", help="config files")
    add("--seeds", nargs="+", type=int, default=[0], metavar="SEED", help="one run each (0)")
    add("--work-dir", type=folder, default=Path("work_dirs/compare"), help="folder of the runs")
    add("--metrics", nargs="+", help=f"what to compare ({', '.join(METRICS)}: those measured)")
    add(
        "--similarity",
        metavar="LAYER",
        help="compare the similarity margin of a map too, such as neck[0]; see docs/analysis.md",
    )
    add_common(options)
    return run(compare, options.parse_args())


def compare(arguments: argparse.Namespace) -> None:
    """Compares as the command line says; `arguments.work_dir` then has the table and the figures.

    Raises:
        CommandError: if a run cannot begin or fails.
    """
    runs = [
        Run(path, seed, run_folder(arguments.work_dir, path, seed), tuple(arguments.cfg_options))
        for seed in dict.fromkeys(arguments.seeds)
        for path in dict.fromkeys(arguments.configs)
    ]
    _check(runs, arguments.work_dir / "comparison.csv", arguments.similarity)
    rows = [_row(each, arguments.metrics, arguments.similarity) for each in runs]
    sizes = {each.path: _size(each) for each in runs if each.seed == arguments.seeds[0]}
    rows = [row | sizes[each.path] for row, each in zip(rows, runs, strict=True)]
    figures = dict.fromkeys(name for row in rows for name in row)
    rows = [dict.fromkeys(figures) | row for row in rows]
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


def _check(runs: list[Run], table: Path, layer: str | None) -> None:
    """Raises a `CommandError`, before hours of training, if something could not be compared."""
    folders = {each.folder: each.path for each in runs}
    for each in runs:
        each.check()
        if folders[each.folder] != each.path:
            raise CommandError(f"{each.path} and {folders[each.folder]} have the same name")
    if table.exists():
        with open(table) as file:
            old = {(row["config"], row["seed"]) for row in csv.DictReader(file)}
        if lost := old - {(each.name, str(each.seed)) for each in runs}:
            name, seed = min(lost)
            raise CommandError(
                f"{table} has other runs too, such as {name} with seed {seed}; "
                "compare all of them or choose another --work-dir"
            )
    for each in runs:
        claim(each)
    if layer:
        for each in {each.path: each for each in runs}.values():  # one seed of each config
            _check_layer(each, layer)


def _check_layer(each: Run, layer: str) -> None:
    """Raises a `CommandError` if a run's model has no such map."""
    import torch
    from _models import at_size, build, random_batch

    from freqfusion.recorder import FeatureRecorder

    size = (128, 128)
    config = at_size(without_connectors(each.check()), size)
    with quiet(), explained(f"--similarity of {each.name}"), torch.random.fork_rng():
        model = build(config).eval()
        with FeatureRecorder(model, layer) as recorder, torch.no_grad():
            batch = model.data_preprocessor(random_batch(config, size, images=1), False)
            model(**batch, mode="predict")
            if layer not in recorder.features:
                raise ValueError(f"{layer} does not run in a prediction")


def _row(each: Run, metrics: list[str] | None, layer: str | None) -> dict[str, Any]:
    """Trains a run if it is not done and returns its figures."""
    title = f"{each.name}, seed {each.seed}"
    found = results(each, metrics)
    print(f"{title}: {'training' if found is None else 'done before'}", flush=True)
    if found is None:
        train(each, lambda line: print(f"  {line}", flush=True))
        found = results(each, metrics)
    if found is None:
        raise CommandError(f"{each.folder} has no validation at the end of the training")
    margins = _margins(each, layer) if layer else {}
    return {"config": each.name, "seed": each.seed, **found, **margins}


def _margins(each: Run, layer: str) -> dict[str, float | None]:
    """Returns the similarity margin of a map of a trained run: of all pixels, near boundaries."""
    from analyze import similarity_of
    from mmengine.runner import find_latest_checkpoint

    checkpoint = find_latest_checkpoint(str(each.folder))
    found = similarity_of(each.path, checkpoint, [layer], images=64, options=each.overrides)[layer]
    return {
        "margin": found["all"]["macro"]["margin_mean"],
        "boundary margin": found["boundary"]["macro"]["margin_mean"],
    }


def _size(each: Run) -> dict[str, int | float | None]:
    """Returns the parameters of a run's model and the FLOPs of a forward pass of one image."""
    import torch
    from _models import build, cost

    config = without_connectors(each.check())
    with quiet(), torch.random.fork_rng():
        torch.manual_seed(0)  # what a detector's second stage does depends on its first
        try:
            parameters, flops = cost(config, input_size(config))
        except Exception as error:  # hours of training are not lost for this one figure
            print(f"{each.name}: FLOPs are not counted, {reason(error)}", file=sys.stderr)
            parameters = sum(parameter.numel() for parameter in build(config).parameters())
            flops = None
    return {"GFLOPs": None if flops is None else flops / 1e9, "parameters": parameters}


def input_size(config: Any) -> tuple[int, int]:
    """Returns (height, width) of a config's images: of its crop, or resized for validation.

    Raises:
        ValueError: if the config says neither.
    """
    size = (config.model.get("data_preprocessor") or {}).get("size") or config.get("crop_size")
    if size is None:
        pipeline = config.val_dataloader.dataset.pipeline
        scales = [step.scale for step in pipeline if step.type == "Resize" and "scale" in step]
        if not scales:
            raise ValueError("the config has neither a crop size nor a Resize with a scale")
        size = scales[-1][::-1]  # (width, height)
    return tuple(size)


def _table(rows: list[dict[str, str | int | float | None]]) -> str:
    """Returns a Markdown table with a line per config: mean, and standard deviation over seeds."""
    names = list(dict.fromkeys(row["config"] for row in rows))
    figures = [name for name in rows[0] if name not in ("config", "seed", "GFLOPs", "parameters")]
    lines = [["config", *figures, "GFLOPs", "parameters"]]
    for name in names:
        own = [row for row in rows if row["config"] == name]
        cells = [
            _spread([row[figure] for row in own], _DIGITS.get(figure, 2)) for figure in figures
        ]
        cells.append(_spread([own[0]["GFLOPs"]], 3))
        lines.append([name, *cells, f"{own[0]['parameters'] / 1e6:.2f} M"])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    lines.insert(1, ["-" * width for width in widths])
    padded = (
        [cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in lines
    )
    return "".join(f"| {' | '.join(line)} |\n" for line in padded)


def _spread(values: list[float | None], digits: int) -> str:
    """Returns mean and standard deviation of the values that were measured; "-" without any."""
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    spread = f" ± {stdev(known):.{digits}f}" if len(known) > 1 else ""
    return f"{mean(known):.{digits}f}{spread}"


if __name__ == "__main__":
    sys.exit(main())
