"""How like the teacher the students of FRAMER became, from the logs of trainings with its hook.

For the plain trainings, the same config without a weight logs the similarities and trains nothing:

python tools/train.py CONFIG --work-dir RUN --cfg-options randomness.seed=0 \
    default_hooks.logger.interval=1 log_processor.window_size=1 [custom_hooks.0.loss_weight=0]
python benchmarks/framer.py --plain RUN RUN RUN --framer RUN RUN RUN
"""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path
from statistics import mean, stdev

LAST = 10  # iterations that are averaged
RESULTS = Path(__file__).parent / "results" / "framer.csv"


def main() -> None:
    """Runs the command line."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--plain", nargs="+", type=Path, required=True, metavar="RUN")
    options.add_argument("--framer", nargs="+", type=Path, required=True, metavar="RUN")
    arguments = options.parse_args()
    groups = {"plain": arguments.plain, "with FRAMER": arguments.framer}
    rows = [{"training": name, **figures(run)} for name, runs in groups.items() for run in runs]
    with open(RESULTS, "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    names = [name for name in rows[0] if name != "training"]
    print(f"| training | {' | '.join(names)} |\n{'|---' * (len(names) + 1)}|")
    for training in groups:
        own = [row for row in rows if row["training"] == training]
        cells = (spread([row[name] for row in own], 1 if name == "mIoU" else 2) for name in names)
        print(f"| {training} | {' | '.join(cells)} |")


def figures(run: Path) -> dict[str, float]:
    """Similarities in the last iterations, and the evaluation at the end of a run."""
    log = max(run.glob("*/vis_data/scalars.json"))
    records = [json.loads(line) for line in log.read_text().splitlines()]
    steps = [record for record in records if "loss" in record][-LAST:]
    names = [name for name in steps[-1] if name.endswith(("/low", "/high"))]
    return {
        **{name.removeprefix("framer/"): mean(step[name] for step in steps) for name in names},
        "mIoU": records[-1]["mIoU"],
    }


def spread(values: list[float], digits: int) -> str:
    """Mean and standard deviation."""
    return f"{mean(values):.{digits}f} ± {stdev(values):.{digits}f}"


if __name__ == "__main__":
    main()
