"""The kernels compile for GPUs that are not there; the compilers come with triton."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton")
ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tools"))

import aot_report  # noqa: E402
from aot_report import Figures  # noqa: E402

if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("Triton's interpreter does not compile", allow_module_level=True)


def test_every_kernel_for_every_gpu():
    command = [sys.executable, str(ROOT / "tools" / "aot_report.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    kernels = 3 * (len(aot_report.SHAPES) - 1) + 2
    assert done.stdout.startswith(f"{kernels * 2 * 2 * 4} kernels compiled")


@pytest.mark.parametrize("shape", ["low-pass, 256 channels, k5, x2", "high-pass, 256 channels, k3"])
def test_tensor_cores_and_wide_accesses(shape):
    calls = list(aot_report.launches(aot_report.SHAPES[shape], torch.bfloat16, torch.channels_last))
    assert len(calls) == 3
    for call in calls:
        figures = aot_report.compile_for(aot_report.TARGETS["sm_90"], call)
        assert figures.tensor >= 2
        assert figures.wide >= 2
        assert figures.spills == 0


@pytest.mark.parametrize("kernel_size", [1, 3, 5, 7, 9, 11, 13, 15])
def test_every_kernel_size_compiles(kernel_size):
    for target in ((14, 18), (28, 36)):
        shape = aot_report.Shape(64, kernel_size, (14, 18), target)
        for call in aot_report.launches(shape, torch.bfloat16, torch.channels_last):
            for name in ("sm_90", "gfx942"):
                gpu = aot_report.TARGETS[name]
                figures = aot_report.compile_for(gpu, call)
                wide = figures._replace(wide=1)  # AMD has too many threads for the rare sizes
                assert not aot_report.broken_ceilings(gpu, call, "bf16", wide)


@pytest.mark.parametrize("shape", ["low-pass, k5, x1.5", "similarity, 64 channels"])
def test_64_bit_offsets_compile(shape, monkeypatch):
    monkeypatch.setattr(aot_report.launch, "is_wide", lambda *tensors: True)
    for layout in aot_report.LAYOUTS.values():
        for call in aot_report.launches(aot_report.SHAPES[shape], torch.bfloat16, layout):
            assert call.arguments["WIDE"]
            aot_report.compile_for(aot_report.TARGETS["sm_90"], call)


def test_ceilings_can_break():
    shape = aot_report.SHAPES["low-pass, 256 channels, k5, x2"]
    call = next(aot_report.launches(shape, torch.bfloat16, torch.channels_last))
    gpu = aot_report.TARGETS["sm_90"]
    fine = Figures(registers=64, shared=20480, spills=0, tensor=4, wide=4, instructions=1000)
    assert not aot_report.broken_ceilings(gpu, call, "bf16", fine)
    for change, message in [
        ({"spills": 2}, "2 spills"),
        ({"shared": 200_000}, "200000 bytes of shared memory"),
        ({"registers": 1024}, "1024 registers for 128 threads"),
        ({"tensor": 0}, "no tensor-core instructions"),
        ({"wide": 0}, "no accesses of 16 bytes"),
    ]:
        wrong = aot_report.broken_ceilings(gpu, call, "bf16", fine._replace(**change))
        assert wrong == [message]


def test_the_table_covers_every_shape():
    text = aot_report.README.read_text(encoding="utf-8")
    table = text.split(aot_report.MARKS[0])[1].split(aot_report.MARKS[1])[0]
    for shape in aot_report.SHAPES:
        assert f"| {shape} | bf16, channels_last |" in table
