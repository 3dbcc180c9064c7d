"""Environment variables of the package, which nothing else reads, and where Triton can run.

- `FREQFUSION_BACKEND`: `auto` (default) takes the Triton kernels on GPUs where they can run, and
  PyTorch elsewhere; `triton` raises where they cannot; `torch` never takes them.
- `FREQFUSION_AUTOTUNE`: `1` measures the block sizes of the kernels at the first call of a kind.
"""

from __future__ import annotations

import functools
import importlib.util
import os

import torch

BACKENDS = ("auto", "triton", "torch")
GPUS = ("cuda", "xpu")  # ROCm is "cuda" for PyTorch
LEAST_CAPABILITY = (8, 0)  # of NVIDIA GPUs: bfloat16 on tensor cores


def backend() -> str:
    """Returns `FREQFUSION_BACKEND`.

    Raises:
        ValueError: if it is none of `BACKENDS`.
    """
    value = os.environ.get("FREQFUSION_BACKEND", "auto")
    if value not in BACKENDS:
        raise ValueError(f"FREQFUSION_BACKEND must be one of {', '.join(BACKENDS)}, got {value!r}")
    return value


def autotune() -> bool:
    """Whether `FREQFUSION_AUTOTUNE` is 1."""
    return os.environ.get("FREQFUSION_AUTOTUNE") == "1"


def interpreted() -> bool:
    """Whether Triton interprets kernels instead of compiling them, which is for tests."""
    return os.environ.get("TRITON_INTERPRET") == "1"


@functools.cache
def triton_obstacle(device: torch.device) -> str:
    """Why Triton's kernels cannot run on `device`; empty if they can."""
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed"
    if device.type == "cpu":
        return (
            _triton_fault() if interpreted() else "they run on the CPU only with TRITON_INTERPRET=1"
        )
    if device.type not in GPUS:
        return f"there is no Triton for {device.type}"
    if device.type == "cuda" and torch.version.hip is None:
        capability = torch.cuda.get_device_capability(device)
        if capability < LEAST_CAPABILITY:
            least, found = (".".join(map(str, c)) for c in (LEAST_CAPABILITY, capability))
            return f"they need compute capability {least}, {device} has {found}"
    return _triton_fault()


def _triton_fault() -> str:
    """What is wrong with the installed triton; empty if nothing is."""
    try:
        import triton
        import triton.language
    except Exception as error:  # a broken installation must not break the reference
        return f"triton does not import: {error}"
    if not (hasattr(triton.language, "gather") and hasattr(triton, "knobs")):
        return f"they need triton 3.4, {triton.__version__} is installed"
    return ""


def has_triton(device: torch.device) -> bool:
    """Whether Triton's kernels can run on `device`."""
    return not triton_obstacle(device)
