"""The one command for a machine with a GPU: all tests that use it, then the benchmarks.

    python tools/gpu_suite.py                       # into benchmarks/results/, within 8 minutes
    python tools/gpu_suite.py --smoke --out DIR     # the same on the CPU, without timing

It runs in a checkout with torch, triton, numpy, pytest and matplotlib; nothing else must be
installed. Results: gpu_tests.txt and gpu_benchmarks.txt, what the steps printed, and the table and
plots of benchmarks/gpu.py. The exit code is 1 if a step failed, 2 without a GPU.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import torch

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
TESTS = ["tests/test_kernels.py"]  # all that use a GPU


class Step(NamedTuple):
    """A command of Python with the seconds that it may take; its output goes to a file."""

    name: str
    arguments: list[str]
    seconds: int


def steps(args: argparse.Namespace) -> list[Step]:
    """The steps in their order."""
    tests = ["-m", "pytest", *TESTS, "-p", "no:cacheprovider", "-q"]
    benchmarks = ["benchmarks/gpu.py", "--out", str(args.out), "--minutes", "3"]
    if args.mmcv_sdist:
        benchmarks += ["--mmcv-sdist", str(args.mmcv_sdist)]
    if args.smoke:
        benchmarks += ["--smoke"]
    return [Step("tests", tests, 250), Step("benchmarks", benchmarks, 220)]


def run(step: Step, log: Path) -> int:
    """Exit code of a step, 124 if it took too long."""
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    with log.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, *step.arguments],
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": path, "PYTHONUNBUFFERED": "1"},
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            return process.wait(step.seconds)
        except subprocess.TimeoutExpired:
            return 124
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)  # with the compilers that it started
                process.wait()


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="run on the CPU, without timing")
    parser.add_argument("--mmcv-sdist", type=Path, metavar="PATH", help="see benchmarks/gpu.py")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    args = parser.parse_args()
    if args.smoke and args.out == RESULTS:
        parser.error("--smoke measures nothing, it needs an --out of its own")
    if not args.smoke and not torch.cuda.is_available():
        print("There is no GPU that PyTorch can use.", file=sys.stderr)
        return 2
    args.out = args.out.resolve()
    args.out.mkdir(parents=True, exist_ok=True)
    if args.mmcv_sdist:
        args.mmcv_sdist = args.mmcv_sdist.resolve()
    summary = []
    for step in steps(args):
        log = args.out / f"gpu_{step.name}.txt"
        start = time.monotonic()
        code = run(step, log)
        seconds = time.monotonic() - start
        why = f", stopped after {step.seconds} s" if code == 124 else ""
        summary.append((code, f"{step.name:10s} {seconds:5.0f} s, exit code {code}{why}; {log}"))
        print(log.read_text(errors="replace"), flush=True)
    print("Summary:", *(line for _, line in summary), sep="\n  ")
    return int(any(code for code, _ in summary))


if __name__ == "__main__":
    sys.exit(main())
