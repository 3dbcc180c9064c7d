import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from freqfusion import adaptive_filter, env, reassemble
from freqfusion.ops import backend, reference

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def no_interpreter(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    cached = env.triton_obstacle
    cached.cache_clear()
    yield
    cached.cache_clear()


@pytest.mark.parametrize("choice", [None, "auto", "torch"])
def test_the_cpu_computes_in_pytorch(choice, monkeypatch):
    if choice:
        monkeypatch.setenv("FREQFUSION_BACKEND", choice)
    else:
        monkeypatch.delenv("FREQFUSION_BACKEND", raising=False)
    assert backend.of(torch.ones(1)) is reference


def test_an_unknown_backend_is_named(monkeypatch):
    monkeypatch.setenv("FREQFUSION_BACKEND", "cuda")
    with pytest.raises(ValueError, match="FREQFUSION_BACKEND must be one of auto,.*got 'cuda'"):
        reassemble(torch.ones(1, 1, 2, 2), torch.ones(1, 9, 2, 2), 3)


def test_triton_says_why_it_cannot_run_here(monkeypatch):
    monkeypatch.setenv("FREQFUSION_BACKEND", "triton")
    pytest.importorskip("triton")
    with pytest.raises(RuntimeError, match="on the CPU only with TRITON_INTERPRET=1"):
        reassemble(torch.ones(1, 1, 2, 2), torch.ones(1, 9, 2, 2), 3)


@pytest.mark.parametrize("operator", [reassemble, adaptive_filter])
def test_triton_says_what_it_cannot_compute(operator, monkeypatch):
    monkeypatch.setenv("FREQFUSION_BACKEND", "triton")
    monkeypatch.setattr(env, "triton_obstacle", lambda device: "")
    x, weight = torch.ones(1, 1, 2, 2), torch.ones(1, 289, 2, 2)
    with pytest.raises(RuntimeError, match="kernel_size is 17, they take 15 at most"):
        operator(x, weight, 17)
    for pair in ((x.double(), weight), (x, weight.double())):
        with pytest.raises(RuntimeError, match="float64"):
            operator(*pair, 17)


def test_without_triton(monkeypatch):
    monkeypatch.setattr(env.importlib.util, "find_spec", lambda name: None)
    assert env.triton_obstacle(torch.device("cuda")) == "triton is not installed"
    assert not env.has_triton(torch.device("cuda"))


def test_devices(monkeypatch):
    monkeypatch.setattr(env.importlib.util, "find_spec", lambda name: object())
    assert env.triton_obstacle(torch.device("mps")) == "there is no Triton for mps"
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    obstacle = env.triton_obstacle(torch.device("cuda:1"))
    assert obstacle == "they need compute capability 8.0, cuda:1 has 7.5"


def test_an_old_triton_is_an_obstacle(monkeypatch):
    triton = pytest.importorskip("triton")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert env.triton_obstacle(torch.device("cpu")) == ""
    env.triton_obstacle.cache_clear()
    monkeypatch.delattr(triton.language, "gather")
    obstacle = env.triton_obstacle(torch.device("cpu"))
    assert obstacle == f"they need triton 3.4, {triton.__version__} is installed"


def test_auto_never_interprets(monkeypatch):
    monkeypatch.setenv("FREQFUSION_BACKEND", "auto")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setattr(env, "GPUS", ("cpu",))
    assert backend.of(torch.ones(1)) is reference


def test_auto_falls_back_and_says_so_once(monkeypatch, caplog):
    monkeypatch.setenv("FREQFUSION_BACKEND", "auto")
    monkeypatch.setattr(env, "GPUS", ("cpu",))
    monkeypatch.setattr(env, "triton_obstacle", lambda device: "a test forbids it")
    with caplog.at_level(logging.INFO, logger="freqfusion"):
        assert backend.of(torch.ones(1)) is backend.of(torch.ones(1)) is reference
    assert caplog.messages == ["freqfusion runs in PyTorch on cpu: a test forbids it"]


def test_autotune(monkeypatch):
    monkeypatch.delenv("FREQFUSION_AUTOTUNE", raising=False)
    assert not env.autotune()
    monkeypatch.setenv("FREQFUSION_AUTOTUNE", "1")
    assert env.autotune()


def test_public_functions_run_the_kernels_in_the_interpreter():
    """Gradients included, and triton is loaded for it."""
    pytest.importorskip("triton")
    code = (
        "import sys, torch, freqfusion\n"
        "assert 'triton' not in sys.modules\n"
        "x, w = torch.ones(1, 2, 4, 4, requires_grad=True), torch.zeros(1, 9, 8, 8)\n"
        "freqfusion.adaptive_filter(x, w.requires_grad_(), 3).sum().backward()\n"
        "print('triton' in sys.modules, round(x.grad[0, 0, 2, 2].item(), 5), tuple(w.grad.shape))"
    )
    variables = {"TRITON_INTERPRET": "1", "FREQFUSION_BACKEND": "triton", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, **variables},
    )
    assert done.stdout.split(maxsplit=2) == ["True", "4.0", "(1, 9, 8, 8)\n"]
