import csv
import importlib.util
import io
import itertools
import math
import os
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from freqfusion.ops import reassemble

ROOT = Path(__file__).parents[1]
WITHOUT_GPU = {"CUDA_VISIBLE_DEVICES": "", "HIP_VISIBLE_DEVICES": ""}
LAUNCHERS = """#include "carafe_cuda_kernel.cuh"

void CARAFEForwardCUDAKernelLauncher(const Tensor features,
                                     Tensor output, const int kernel_size) {
  launch(features);
}

void CARAFEBackwardCUDAKernelLauncher(
    const Tensor top_grad, const int scale_factor) {
}
"""
BINDING = """#include <torch/extension.h>
using at::Tensor;
void CARAFEForwardCUDAKernelLauncher(const Tensor features,
                                     Tensor output, const int kernel_size);
void CARAFEBackwardCUDAKernelLauncher(
    const Tensor top_grad, const int scale_factor);
PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) {
  m.def("forward", &CARAFEForwardCUDAKernelLauncher);
  m.def("backward", &CARAFEBackwardCUDAKernelLauncher);
}
"""


@pytest.fixture
def gpu(monkeypatch):
    """benchmarks/gpu.py"""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module("gpu")


@pytest.fixture
def mmcv_carafe(gpu):
    """benchmarks/mmcv_carafe.py"""
    return gpu.mmcv_carafe


@pytest.fixture
def suite(monkeypatch):
    """tools/gpu_suite.py"""
    monkeypatch.syspath_prepend(ROOT / "tools")
    return importlib.import_module("gpu_suite")


def run_script(script, *options):
    return subprocess.run(
        [sys.executable, ROOT / script, *options],
        capture_output=True,
        text=True,
        env=os.environ | WITHOUT_GPU | {"PYTHONPATH": str(ROOT)},
    )


def case_of(gpu, name):
    return next(case for case in gpu.CASES if case.name == name)


def tiny_job(gpu, name, pass_, contender, layout="channels_last"):
    case = case_of(gpu, name)._replace(batch=2, channels=32, size=(4, 8))
    return gpu.Job(case, "fp32", layout, pass_, contender)


class StandIn:
    """mmcv's two launchers on the CPU, with their parameters, for contiguous maps."""

    factor = 1

    def forward(
        self,
        features,
        masks,
        rfeatures,
        routput,
        rmasks,
        output,
        kernel_size,
        group_size,
        scale_factor,
    ):
        assert features.is_contiguous() and masks.is_contiguous() and output.is_contiguous()
        for copy, source in ((rfeatures, features), (rmasks, masks), (routput, output)):
            last = source.permute(0, 2, 3, 1)
            copy.resize_(last.shape).copy_(last)
        result = reassemble(features, masks, kernel_size, scale_factor, group_size)
        output.copy_(result * self.factor)

    def backward(
        self,
        top_grad,
        rfeatures,
        masks,
        rtop_grad,
        rbottom_grad_hs,
        rbottom_grad,
        rmask_grad,
        bottom_grad,
        mask_grad,
        kernel_size,
        group_size,
        scale_factor,
    ):
        assert top_grad.is_contiguous() and bottom_grad.is_contiguous()
        for buffer in (rtop_grad, rbottom_grad_hs, rbottom_grad, rmask_grad):
            assert buffer.numel() == 0
        leaves = [t.detach().requires_grad_() for t in (rfeatures.permute(0, 3, 1, 2), masks)]
        with torch.enable_grad():
            out = reassemble(*leaves, kernel_size, scale_factor, group_size)
        for target, grad in zip(
            (bottom_grad, mask_grad), torch.autograd.grad(out, leaves, top_grad), strict=True
        ):
            target.copy_(grad * self.factor)


@pytest.fixture
def machine(gpu):
    """The CPU, with a stand-in for mmcv's operator."""
    return gpu.smoke()._replace(mmcv=StandIn)


def test_smoke_run_has_a_row_for_each_case_and_contender(gpu, tmp_path):
    done = run_script("benchmarks/gpu.py", "--smoke", "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    with (tmp_path / "gpu.csv").open() as file:
        rows = list(csv.DictReader(file))
    columns = [*gpu.FIELDS.split(), "gpu", "driver", "torch", "triton", "python"]
    assert list(rows[0]) == columns
    found = [tuple(row[k] for k in ("name", "pass", "contender")) for row in rows]
    assert len(set(found)) == len(found)
    wanted = {
        (case.name, pass_, contender)
        for case in gpu.CASES
        for pass_, contender in itertools.product(gpu.PASSES[case.kind], gpu.NAMES)
    }
    assert set(found) == wanted
    for row in rows:
        assert row["ms"] or row["note"]
        assert not row["note"].startswith(("failed", "skipped")), row
        if row["contender"] in ("ours", "torch", "unfold", "compile"):
            assert float(row["ms"]) == float(row["ratio_to_ours"]) == 1
        assert (row["dtype"], row["torch"]) == ("fp32", torch.__version__)
    if importlib.util.find_spec("matplotlib"):
        for name in ("gpu_forward.png", "gpu_backward.png"):
            assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    else:
        assert "matplotlib is not installed" in done.stdout


@pytest.mark.parametrize("script", ["benchmarks/gpu.py", "tools/gpu_suite.py"])
def test_without_a_gpu_it_says_so_in_one_sentence(script):
    done = run_script(script)
    assert done.returncode == 2
    assert done.stderr == "There is no GPU that PyTorch can use.\n"
    assert done.stdout == ""


def test_a_smoke_run_never_overwrites_results(gpu, suite, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["script", "--smoke"])
    for script in (gpu, suite):
        with pytest.raises(SystemExit):
            script.main()
        assert "it needs an --out of its own" in capsys.readouterr().err


def test_floor_by_hand(gpu):
    x, logits = 2 * 256 * 100 * 168 * 2, 2 * 25 * 200 * 336 * 2
    out, lse = 2 * 256 * 200 * 336 * 2, 2 * 200 * 336 * 4
    job = gpu.Job(case_of(gpu, "low_pass.fpn"), "bf16", "channels_last", "forward", "floor")
    assert gpu.floor_bytes(job) == x + logits + out + lse == 93_273_600
    backward = job._replace(pass_="backward")  # grad_out and lse; the inputs and their gradients
    assert gpu.floor_bytes(backward) == out + lse + 2 * x + 2 * logits == 117_196_800
    weights_given = job._replace(case=case_of(gpu, "reassemble.fpn"))
    assert gpu.floor_bytes(weights_given) == x + logits + out
    similarity = job._replace(case=case_of(gpu, "similarity.fpn"), pass_="backward")
    assert gpu.floor_bytes(similarity) == 2 * (2 * 64 * 200 * 336 * 2) + 2 * 8 * 200 * 336 * 4
    machine = gpu.smoke()._replace(bandwidth=1000.0)
    assert gpu.measure(machine, job)["ms"] == pytest.approx(93_273.6)
    with pytest.raises(gpu.Unavailable, match="operators only"):
        gpu.floor_bytes(job._replace(case=case_of(gpu, "neck.fpn")))


def test_shapes_of_the_cases(gpu):
    shapes = {case.name: case.shapes() for case in gpu.CASES}
    fine, coarse = (2, 256, 200, 336), (2, 256, 100, 168)
    assert shapes["low_pass.fpn"] == [coarse, (2, 25, 200, 336)]
    assert shapes["high_pass.fpn"] == [fine, (2, 9, 200, 336)]
    assert shapes["similarity.fpn"] == [(2, 64, 200, 336)]
    assert shapes["layer.fpn"] == [fine, coarse]
    assert shapes["neck.fpn"] == [fine, (2, 512, 100, 168), (2, 1024, 50, 84), (2, 2048, 25, 42)]
    assert shapes["low_pass.segnext_416"] == [(16, 416, 32, 32), (16, 25, 64, 64)]


def test_the_most_important_rows_come_first(gpu):
    jobs = gpu.jobs(gpu.CASES, gpu.SETTINGS)
    assert len(jobs) == len(set(jobs)) == len(gpu.CASES) * 4 * 2 * len(gpu.NAMES)
    first = jobs[: 2 * len(gpu.NAMES)]
    assert {job[:3] for job in first} == {(gpu.CASES[0], "bf16", "channels_last")}
    assert first[0].contender == "ours"


def test_rows_after_the_deadline_are_listed_as_skipped(gpu, capsys, tmp_path):
    jobs = [tiny_job(gpu, "low_pass.fpn", "forward", name) for name in gpu.NAMES]
    found = list(gpu.rows(gpu.smoke(), jobs, deadline=time.monotonic() - 1))
    assert [row["note"] for row in found] == ["skipped: the time was up"] * len(jobs)
    gpu.report(found, ("fp32", "channels_last"), "none", tmp_path)
    assert f"{len(jobs)} rows were skipped" in capsys.readouterr().out


def test_a_wrong_result_is_not_timed(gpu, machine):
    wrong = StandIn()
    wrong.factor = 1.1
    job = tiny_job(gpu, "reassemble.fpn", "backward", "mmcv")
    (row,) = gpu.rows(machine._replace(mmcv=lambda: wrong), [job], math.inf)
    assert row["note"] == "failed: ArithmeticError: the result is off by 0.1 of its norm"
    assert "ms" not in row


@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
@pytest.mark.parametrize("name", ["low_pass.fpn", "reassemble.fpn", "high_pass.fpn"])
def test_operators_by_mmcv(gpu, machine, name, layout):
    for pass_ in gpu.PASSES["operator"]:
        assert "ms" in gpu.measure(machine, tiny_job(gpu, name, pass_, "mmcv", layout))


@pytest.mark.parametrize("name", ["layer.fpn", "neck.fpn"])
def test_networks_by_mmcv(gpu, machine, name):
    for pass_ in gpu.PASSES["network"]:
        results, expected = (
            gpu.tensors(gpu.CONTENDERS[contender](machine, tiny_job(gpu, name, pass_, contender))())
            for contender in ("mmcv", "ours")
        )
        assert gpu.difference(results, expected) < 1e-3


def test_mmcv_gets_half_precision_instead_of_bfloat16(gpu, machine):
    job = tiny_job(gpu, "reassemble.fpn", "forward", "mmcv")._replace(dtype="bf16")
    assert gpu.CONTENDERS["mmcv"](machine, job)().dtype == torch.float16


def test_pytorch_path_is_taken_only_around_the_call(gpu, machine, monkeypatch):
    monkeypatch.setenv("FREQFUSION_BACKEND", "auto")
    seen = []
    monkeypatch.setitem(
        gpu.CONTENDERS["torch"].__globals__,
        "ours",
        lambda machine, job: lambda: seen.append(os.environ["FREQFUSION_BACKEND"]),
    )
    gpu.CONTENDERS["torch"](machine, tiny_job(gpu, "low_pass.fpn", "forward", "torch"))()
    assert (seen, os.environ["FREQFUSION_BACKEND"]) == (["torch"], "auto")


def test_targets(gpu):
    def row(name, pass_, contender, **figures):
        keys = dict(name=name, dtype="bf16", layout="channels_last", contender=contender)
        return keys | {"pass": pass_, "note": ""} | figures

    found = [
        row("low_pass.fpn", "forward", "ours", ms=3.0),
        row("low_pass.fpn", "forward", "floor", ms=2.0),
        row("low_pass.fpn", "forward", "graph", ms=2.0),
        *(row("reassemble.fpn", p, "ours", ms=2.0) for p in ("forward", "backward")),
        *(row("reassemble.fpn", p, "mmcv", ms=7.0) for p in ("forward", "backward")),
    ]
    lines = list(gpu.targets(found, ("bf16", "channels_last")))
    assert "low_pass.fpn forward, ms: ours / floor = 1.50   target: at most 1.5" in lines
    assert (
        "reassemble.fpn forward and backward, ms: mmcv / ours = 3.50   target: at least 3" in lines
    )
    assert any("was not measured" in line for line in lines)
    assert "low_pass.fpn forward in a CUDA graph: yes   target: yes" in lines


def archive(path, files):
    with tarfile.open(path, "w:gz") as sdist:
        for name, text in files.items():
            member = tarfile.TarInfo(f"onedl_mmcv-2.3.6/{name}")
            member.size = len(text)
            sdist.addfile(member, io.BytesIO(text.encode()))
    return path


def test_sources_and_binding_of_mmcv(mmcv_carafe, tmp_path):
    names = mmcv_carafe.SOURCES
    files = {name: LAUNCHERS if name.endswith(".cu") else name for name in names}
    sdist = archive(tmp_path / "mmcv.tar.gz", files | {"setup.py": "raise SystemExit"})
    folder = tmp_path / "sources"
    folder.mkdir()
    mmcv_carafe.extract(sdist, folder)
    assert {path.name for path in folder.iterdir()} == {Path(n).name for n in names} | {"THC"}
    assert (folder / "pytorch_cuda_helper.hpp").read_text().endswith("/pytorch_cuda_helper.hpp")
    assert "ATen/cuda/Atomic.cuh" in (folder / "THC" / "THCAtomics.cuh").read_text()
    assert mmcv_carafe.binding((folder / mmcv_carafe.CUDA_SOURCE).read_text()) == BINDING


def test_reasons_why_mmcv_is_not_available(mmcv_carafe, tmp_path, monkeypatch):
    Unavailable = mmcv_carafe.Unavailable
    sdist = archive(tmp_path / "mmcv.tar.gz", {"setup.py": ""})
    with pytest.raises(Unavailable, match="mmcv.tar.gz has no mmcv/ops/csrc/pytorch/cuda"):
        mmcv_carafe.extract(sdist, tmp_path)
    with pytest.raises(Unavailable, match="missing.tar.gz is no readable source archive"):
        mmcv_carafe.extract(tmp_path / "missing.tar.gz", tmp_path)
    with pytest.raises(Unavailable, match="defines no CARAFEForwardCUDAKernelLauncher"):
        mmcv_carafe.binding("")
    monkeypatch.setattr(torch.version, "cuda", None)
    with pytest.raises(Unavailable, match="is built for CUDA, this PyTorch is not"):
        mmcv_carafe.build(sdist)

    def fails(*args, **kwargs):
        raise subprocess.CalledProcessError(1, "pip", stderr="WARNING: retry\nERROR: no such host")

    monkeypatch.setattr(subprocess, "run", fails)
    with pytest.raises(Unavailable, match="pip cannot download .*: ERROR: no such host"):
        mmcv_carafe.download(tmp_path)


def test_steps_of_the_suite(suite, tmp_path):
    args = SimpleNamespace(out=tmp_path, mmcv_sdist=tmp_path / "mmcv.tar.gz", smoke=True)
    steps = suite.steps(args)
    assert sum(step.seconds for step in steps) <= 8 * 60
    assert "--smoke" in steps[-1].arguments and str(args.mmcv_sdist) in steps[-1].arguments
    code = "import freqfusion, sys; print(freqfusion.__file__); sys.exit(3)"
    assert suite.run(suite.Step("fails", ["-c", code], 60), tmp_path / "log") == 3
    assert (tmp_path / "log").read_text().strip() == str(ROOT / "freqfusion" / "__init__.py")
    slow = suite.Step("slow", ["-c", "import time; time.sleep(60)"], 1)
    assert suite.run(slow, tmp_path / "log") == 124


def test_the_suite_goes_on_after_a_failure(suite, tmp_path, monkeypatch, capsys):
    steps = [
        suite.Step("tests", ["-c", "raise SystemExit(1)"], 60),
        suite.Step("benchmarks", ["-c", "print('measured')"], 60),
    ]
    monkeypatch.setattr(suite, "steps", lambda args: steps)
    monkeypatch.setattr(sys, "argv", ["gpu_suite.py", "--smoke", "--out", str(tmp_path)])
    assert suite.main() == 1
    out = capsys.readouterr().out
    assert "measured" in out
    assert "exit code 1" in out and "exit code 0" in out
    assert (tmp_path / "gpu_tests.txt").exists()
