"""mmcv's CUDA operator CARAFE, built on the spot from the sources in mmcv's sdist: a contender.

Only its operator is compiled, not mmcv. The binding calls the two launchers of mmcv's
`carafe_cuda.cu` as they are declared there, so nothing of mmcv is kept in this repository.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor

from freqfusion import FreqFusion
from freqfusion.layers.filters import normalise_kernels

REQUIREMENT = "onedl-mmcv==2.3.6"
CUDA_SOURCE = "carafe_cuda.cu"
SOURCES = (
    f"mmcv/ops/csrc/pytorch/cuda/{CUDA_SOURCE}",
    "mmcv/ops/csrc/common/cuda/carafe_cuda_kernel.cuh",
    "mmcv/ops/csrc/common/cuda/common_cuda_helper.hpp",
    "mmcv/ops/csrc/common/pytorch_cuda_helper.hpp",
)
LAUNCHERS = {
    "forward": "CARAFEForwardCUDAKernelLauncher",
    "backward": "CARAFEBackwardCUDAKernelLauncher",
}
BINDING = """#include <torch/extension.h>
using at::Tensor;
{declarations}
PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) {{
{definitions}
}}
"""


class Unavailable(Exception):
    """A contender cannot run; the message says why."""


def build(sdist: Path | None = None) -> ModuleType:
    """Compiles mmcv's operator; the module has its `forward` and `backward`.

    Args:
        sdist: mmcv's source archive; by default pip downloads it.

    Raises:
        Unavailable: where there is no compiler, no sdist, or it does not compile.
    """
    if torch.version.cuda is None:
        raise Unavailable("mmcv's operator is built for CUDA, this PyTorch is not")
    try:
        from torch.utils import cpp_extension  # it needs setuptools
    except ImportError as error:
        raise Unavailable(f"PyTorch cannot build extensions: {error}") from error
    if cpp_extension.CUDA_HOME is None or not (Path(cpp_extension.CUDA_HOME) / "bin/nvcc").exists():
        raise Unavailable("nvcc is not installed")
    if not cpp_extension.is_ninja_available():
        raise Unavailable("ninja is not installed")
    with tempfile.TemporaryDirectory(prefix="mmcv_carafe_") as folder:
        return _compile(sdist, Path(folder), cpp_extension.load)


def _compile(sdist: Path | None, folder: Path, load: Callable) -> ModuleType:
    extract(sdist or download(folder), folder)
    (folder / "binding.cpp").write_text(binding((folder / CUDA_SOURCE).read_text()))
    # a toolkit without cuSPARSE and the like: their headers come with PyTorch's packages
    packages = Path(torch.__file__).parents[1].glob("nvidia/*/include")
    flags = [flag for path in sorted(packages) for flag in ("-isystem", str(path))]
    try:
        return load(
            "mmcv_carafe",
            [str(folder / CUDA_SOURCE), str(folder / "binding.cpp")],
            extra_cflags=flags,
            extra_cuda_cflags=flags,
            extra_include_paths=[str(folder)],
            build_directory=str(folder),
        )
    except (RuntimeError, OSError, ImportError, subprocess.SubprocessError) as error:
        raise Unavailable(f"mmcv's operator does not build: {_essence(str(error))}") from error


def download(folder: Path) -> Path:
    """Downloads mmcv's sdist into `folder` by pip."""
    command = [sys.executable, "-m", "pip", "download", REQUIREMENT, "--dest", str(folder)]
    command += ["--no-deps", "--no-binary", ":all:"]
    command += ["--quiet", "--retries", "0", "--timeout", "10"]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
    except subprocess.TimeoutExpired:
        raise Unavailable(f"pip did not download {REQUIREMENT} within a minute") from None
    except subprocess.CalledProcessError as error:
        reason = _essence(error.stderr)
        raise Unavailable(f"pip cannot download {REQUIREMENT}: {reason}") from None
    return next(folder.glob("*.tar.gz"))


def extract(sdist: Path, folder: Path):
    """Puts the sources of the operator, and a header that they miss, into `folder`."""
    try:
        with tarfile.open(sdist) as archive:
            members = {m.name.partition("/")[2]: m for m in archive if m.isfile()}
            for source in SOURCES:
                if source not in members:
                    raise Unavailable(f"{sdist} has no {source}")
                data = archive.extractfile(members[source]).read()
                (folder / Path(source).name).write_bytes(data)
    except (OSError, tarfile.TarError) as error:
        raise Unavailable(f"{sdist} is no readable source archive: {error}") from error
    # PyTorch no longer has the header that mmcv includes under its old name
    (folder / "THC").mkdir(exist_ok=True)
    (folder / "THC" / "THCAtomics.cuh").write_text("#include <ATen/cuda/Atomic.cuh>\n")


def binding(cuda_source: str) -> str:
    """C++ that binds the launchers which `cuda_source` defines, as `forward` and `backward`."""
    declarations, definitions = [], []
    for name, launcher in LAUNCHERS.items():
        found = re.search(rf"^void {launcher}\([^)]*\)", cuda_source, re.MULTILINE)
        if not found:
            raise Unavailable(f"{CUDA_SOURCE} defines no {launcher}")
        declarations.append(f"{found.group()};")
        definitions.append(f'  m.def("{name}", &{launcher});')
    return BINDING.format(declarations="\n".join(declarations), definitions="\n".join(definitions))


def _essence(text: str) -> str:
    """The line of an error message that tells most, for a table."""
    lines = [line.strip() for line in text.splitlines() if line.strip()] or ["no message"]
    telling = (line for line in lines if re.search("error:|cannot find", line, re.IGNORECASE))
    return next(telling, lines[0])[:200]


class Carafe(torch.autograd.Function):
    """`reassemble` by mmcv's operator.

    It works on contiguous maps of one dtype, and fills no buffer with zeros beforehand as mmcv's
    own wrapper does, which flatters it.
    """

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, kernel_size: int, extension) -> Tensor:
        """Filters `x`; `extension` is what `build` returns."""
        x, weight = x.contiguous(), weight.contiguous()
        out = x.new_empty(*x.shape[:2], *weight.shape[2:])
        ctx.extension, ctx.options = extension, (kernel_size, 1, weight.shape[2] // x.shape[2])
        x_last, out_last, weight_last = (x.new_empty(0) for _ in range(3))  # resized inside
        extension.forward(x, weight, x_last, out_last, weight_last, out, *ctx.options)
        ctx.save_for_backward(x_last, weight)
        ctx.shape = x.shape
        return out

    @staticmethod
    def backward(ctx, grad_out: Tensor):
        """Gradients of `x` and `weight`."""
        x_last, weight = ctx.saved_tensors
        grad_x, grad_weight = weight.new_empty(ctx.shape), torch.empty_like(weight)
        buffers = [weight.new_empty(0) for _ in range(4)]  # resized inside
        ctx.extension.backward(
            grad_out.contiguous(), x_last, weight, *buffers, grad_x, grad_weight, *ctx.options
        )
        return grad_x, grad_weight, None, None


class MmcvFreqFusion(FreqFusion):
    """`FreqFusion` (one group, zero padding) with its filters by mmcv's operator.

    Attributes:
        carafe: function of a map, kernels and their size.
    """

    carafe: Callable[[Tensor, Tensor, int], Tensor]

    def _reassemble(self, x, mask_lr):
        return self.carafe(x, mask_lr, self.lowpass_kernel)

    def _low_pass(self, x, logits):
        return self.carafe(x, self._low_pass_kernels(logits), self.lowpass_kernel)

    def _high_pass(self, x, logits, residual):
        kernels = normalise_kernels(logits, self.highpass_kernel, 1, self.hamming_highpass)
        details = x - self.carafe(x, kernels, self.highpass_kernel)
        return x + details if residual else details
