"""The operators, the layer and the neck on a GPU, beside what else computes them.

    python benchmarks/gpu.py                       # the most important figures first, for 5 minutes
    python benchmarks/gpu.py --only low_pass.fpn layer.fpn --minutes 2
    python benchmarks/gpu.py --smoke --out DIR     # every function once, on the CPU, without timing

Medians, 20th and 80th percentiles of `triton.testing.do_bench`; forward without a graph, backward
of operators alone. Contenders:

- `ours`; `graph`: ours replayed from a CUDA graph, that is without the time of the CPU;
- `floor`: the bytes that must move once, at the bandwidth of a large copy;
- `unfold`: the form without a kernel; `compile`: that form through torch.compile;
- `torch`: our PyTorch path; `mmcv`: mmcv's CARAFE;
- `nearest_add`: what FreqFusion replaces.

All but the last must agree with our PyTorch path before they are timed: the operators forward and
backward, layer and neck forward.

Targets, in bfloat16 and channels_last at the FPN shape:

- low-pass upsampling within 1.5 times the floor forward, within 2 times the floor backward;
- filtering with given kernels, forward and backward: 3 times as fast as mmcv's CARAFE or faster;
- the layer, forward and backward: 2 times as fast as with mmcv's CARAFE or faster, and less memory;
- forward and backward can be captured in a CUDA graph.
"""

from __future__ import annotations

import argparse
import csv
import functools
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path

import mmcv_carafe
import torch
from contenders import CASES, CONTENDERS, NOTES, PASSES, Case, Job, Machine, floor_bytes, tensors
from measure import RESULTS
from mmcv_carafe import Unavailable

FIELDS = (
    "name shape dtype layout pass contender ms p20 p80 ratio_to_ours floor_ratio extra_mib note"
)
SETTINGS = [  # dtype and layout, the most important first
    ("bf16", "channels_last"),
    ("bf16", "nchw"),
    ("fp32", "channels_last"),
    ("fp32", "nchw"),
]
TARGETS = [  # name, passes, column, the contenders whose sums of it are divided, target
    ("low_pass.fpn", ("forward",), "ms", ("ours", "floor"), "at most 1.5"),
    ("low_pass.fpn", ("forward",), "ms", ("graph", "floor"), "at most 1.5"),
    ("low_pass.fpn", ("backward",), "ms", ("ours", "floor"), "at most 2"),
    ("low_pass.fpn", ("backward",), "ms", ("graph", "floor"), "at most 2"),
    ("reassemble.fpn", ("forward", "backward"), "ms", ("mmcv", "ours"), "at least 3"),
    ("layer.fpn", ("forward+backward",), "ms", ("mmcv", "ours"), "at least 2"),
    ("layer.fpn", ("forward+backward",), "extra_mib", ("ours", "mmcv"), "below 1"),
]
NAMES = [*CONTENDERS, "floor"]
TOLERANCE = 0.03  # of the norm: half precision rounds, a wrong result is off by about 1
QUANTILES = [0.5, 0.2, 0.8]
COPIED = 2**28  # bytes of the copy that tells the bandwidth


def on_gpu(sdist: Path | None) -> Machine:
    """The current GPU."""
    from triton.testing import do_bench

    timer = functools.partial(do_bench, quantiles=QUANTILES)
    source = torch.empty(COPIED, dtype=torch.uint8, device="cuda")
    milliseconds = timer(functools.partial(torch.empty_like(source).copy_, source))[0]

    @functools.cache  # a failure too: a build takes a while
    def mmcv():
        try:
            return mmcv_carafe.build(sdist)
        except Unavailable as reason:
            return reason

    return Machine("cuda", timer, gpu_memory, "inductor", mmcv, 2 * COPIED / milliseconds)


def smoke() -> Machine:
    """The CPU, where functions run once and all times are 1 ms."""

    def timer(function):
        function()
        return 1.0, 1.0, 1.0

    reason = Unavailable("mmcv's operator runs on GPUs")
    return Machine("cpu", timer, lambda function: 0.0, "eager", lambda: reason, 1.0)


def gpu_memory(function: Callable[[], object]) -> float:
    """Peak MiB that `function` adds."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    function()
    return (torch.cuda.max_memory_allocated() - before) / 2**20


def environment() -> dict[str, str]:
    """Columns that tell where the figures come from."""
    found = dict(gpu="none", driver="none", torch=torch.__version__, triton="none")
    if torch.cuda.is_available():
        found |= dict(gpu=torch.cuda.get_device_name(), driver=_driver())
    try:
        import triton

        found["triton"] = triton.__version__
    except ImportError:
        pass
    return found | dict(python=platform.python_version())


def _driver() -> str:
    if torch.version.hip is not None:
        return f"HIP {torch.version.hip}"
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(query, capture_output=True, text=True, check=True).stdout.split()[0]
    except (OSError, subprocess.CalledProcessError, IndexError):
        return "unknown"


def jobs(cases: list[Case], settings: list[tuple[str, str]]) -> list[Job]:
    """All rows, the most important first; torch.compile takes long and comes late."""
    found = [
        Job(case, *setting, pass_, contender)
        for setting, case in product(settings, cases)
        for pass_, contender in product(PASSES[case.kind], NAMES)
    ]

    def is_late(job: Job) -> bool:
        important = (job.dtype, job.layout) == settings[0] and job.case in cases[:2]
        return job.contender == "compile" and not important

    return sorted(found, key=is_late)


@functools.lru_cache(maxsize=1)  # contenders of one pass follow each other
def expected(machine: Machine, job: Job) -> tuple:
    """Results of our PyTorch path."""
    return tensors(CONTENDERS["torch"](machine, job)())


def difference(results: tuple, expected: tuple) -> float:
    """Largest relative error of `results` in the norm."""
    pairs = [
        (a.detach().float(), b.detach().float()) for a, b in zip(results, expected, strict=True)
    ]
    return max(float((a - b).norm() / b.norm().clamp(min=1e-12)) for a, b in pairs)


def measure(machine: Machine, job: Job) -> dict:
    """Figures of one contender.

    Raises:
        Unavailable: if it cannot run.
        ArithmeticError: if its result is not that of our PyTorch path.
    """
    if job.contender == "floor":
        return dict.fromkeys(("ms", "p20", "p80"), floor_bytes(job) / machine.bandwidth)
    function = CONTENDERS[job.contender](machine, job)
    results = tensors(function())
    # gradients of a whole layer differ by much more than rounding where samples change their pixel
    if job.contender != "nearest_add" and job.pass_ != "forward+backward":
        error = difference(results, expected(machine, job._replace(contender="torch")))
        if not error < TOLERANCE:
            raise ArithmeticError(f"the result is off by {error:.2g} of its norm")
    del results
    figures = dict(zip(("ms", "p20", "p80"), machine.timer(function), strict=True))
    note = NOTES.get(job.contender, "")
    return figures | dict(extra_mib=round(machine.memory(function), 2), note=note)


def rows(machine: Machine, todo: list[Job], deadline: float) -> Iterator[dict]:
    """One row for each of `todo`: figures, or the reason why there are none."""
    ours = {}
    for job in todo:
        case, *setting, contender = job
        row = dict(zip(("dtype", "layout", "pass"), setting, strict=True))
        row = dict(name=case.name, shape=_shape(case)) | row | dict(contender=contender)
        try:
            if time.monotonic() > deadline:
                raise Unavailable("skipped: the time was up")
            row |= measure(machine, job)
        except Unavailable as reason:
            row["note"] = str(reason)
        except Exception as error:  # of one contender: the others' figures count all the same
            lines = str(error).strip().splitlines() or ["no message"]
            row["note"] = f"failed: {type(error).__name__}: {lines[0][:200]}"
        if "ms" in row:
            key = case, *setting
            if contender == "ours":
                ours[key] = row["ms"]
            if key in ours:
                row["ratio_to_ours"] = round(row["ms"] / ours[key], 3)
            if case.kind == "operator":
                floor = floor_bytes(job) / machine.bandwidth
                row["floor_ratio"] = round(row["ms"] / floor, 3)
            row |= {name: round(row[name], 5) for name in ("ms", "p20", "p80")}
        yield row


def _shape(case: Case) -> str:
    return " ".join("x".join(map(str, shape)) for shape in case.shapes())


def targets(found: list[dict], setting: tuple[str, str]) -> Iterator[str]:
    """The figures that have a target, with it."""
    figures = {
        (row["name"], row["pass"], row["contender"]): row
        for row in found
        if (row["dtype"], row["layout"]) == setting
    }
    for name, passes, field, contenders, limit in TARGETS:
        what = f"{name} {' and '.join(passes)}, {field}: {' / '.join(contenders)}"
        try:
            over, under = (sum(figures[name, p, c][field] for p in passes) for c in contenders)
            yield f"{what} = {over / under:.2f}   target: {limit}"
        except (KeyError, ZeroDivisionError):
            yield f"{what} was not measured   target: {limit}"
    for pass_ in PASSES["operator"]:
        row = figures.get(("low_pass.fpn", pass_, "graph"), {"note": "not measured"})
        answer = "yes" if "ms" in row else f"no, {row['note']}"
        yield f"low_pass.fpn {pass_} in a CUDA graph: {answer}   target: yes"


def plot(found: list[dict], passes: tuple[str, ...], title: str, path: Path):
    """Bars of the milliseconds of every contender, for each case."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    shown = [row for row in found if row["pass"] in passes and "ms" in row]
    if not shown:
        return
    names = list(dict.fromkeys(row["name"] for row in shown))
    contenders = [c for c in NAMES if any(r["contender"] == c for r in shown)]
    figure, axes = pyplot.subplots(figsize=(3 + 1.6 * len(names), 5), layout="constrained")
    width = 0.85 / len(contenders)
    for i, contender in enumerate(contenders):
        bars = {names.index(r["name"]): r["ms"] for r in shown if r["contender"] == contender}
        offset = (i - (len(contenders) - 1) / 2) * width
        axes.bar([x + offset for x in bars], bars.values(), width, label=contender)
    axes.set_xticks(range(len(names)), [name.replace(".", "\n", 1) for name in names])
    axes.set(yscale="log", ylabel="ms (median)", title=title)
    axes.grid(axis="y", alpha=0.3)
    figure.legend(loc="outside lower center", ncols=len(contenders))
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def report(found: list[dict], setting: tuple[str, str], gpu: str, out: Path):
    """Prints what was skipped and the targets, and draws the plots where matplotlib is."""
    skipped = [row for row in found if row["note"].startswith("skipped")]
    if skipped:
        print(f"\n{len(skipped)} rows were skipped, as the time was up:")
        print("\n".join("  " + _label(row) for row in skipped))
    print("\nTargets:", *targets(found, setting), sep="\n  ")
    shown = [row for row in found if (row["dtype"], row["layout"]) == setting]
    try:
        for name, passes in (
            ("forward", ("forward",)),
            ("backward", ("backward", "forward+backward")),
        ):
            title = f"{' or '.join(passes)}, {' '.join(setting)}, {gpu}"
            plot(shown, passes, title, out / f"gpu_{name}.png")
    except ImportError:
        print("\nno plots: matplotlib is not installed")


def _label(row: dict) -> str:
    return " ".join(row[key] for key in ("name", "dtype", "layout", "pass", "contender"))


def main() -> int:
    """Command line; exit code 1 if ours failed, 2 without a GPU."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="run on the CPU, without timing")
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=[case.name for case in CASES])
    parser.add_argument("--mmcv-sdist", type=Path, metavar="PATH", help="default: from pip")
    parser.add_argument("--minutes", type=float, default=5, help="skip the rows after that time")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    args = parser.parse_args()
    if args.smoke and args.out == RESULTS:
        parser.error("--smoke measures nothing, it needs an --out of its own")
    if not args.smoke and not torch.cuda.is_available():
        print("There is no GPU that PyTorch can use.", file=sys.stderr)
        return 2
    deadline = time.monotonic() + 60 * args.minutes
    cases = [case for case in CASES if case.name in (args.only or case.name)]
    settings = SETTINGS
    if args.smoke:
        cases = [case._replace(batch=1, channels=32, size=(4, 8)) for case in cases]
        settings = [("fp32", "channels_last")]
    machine = smoke() if args.smoke else on_gpu(args.mmcv_sdist)
    columns = environment()
    args.out.mkdir(parents=True, exist_ok=True)
    found, path = [], args.out / "gpu.csv"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, [*FIELDS.split(), *columns])
        writer.writeheader()
        for row in rows(machine, jobs(cases, settings), deadline):
            row.setdefault("note", "")
            found.append(row)
            writer.writerow(row | columns)
            file.flush()  # what ends this process early leaves the rows so far
            print(f"{_label(row):64s} {row.get('ms', ''):>10} {row['note']}", flush=True)
    report(found, settings[0], columns["gpu"], args.out)
    print(f"\nwritten to {path}; a copy moves {machine.bandwidth / 1e9:.2f} TB/s")
    return int(any(r["contender"] == "ours" and r["note"].startswith("failed") for r in found))


if __name__ == "__main__":
    sys.exit(main())
