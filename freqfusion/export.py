"""Export to ONNX, with sizes left open.

`torch.export` needs nothing from here: the operators are single nodes of the graph. ONNX does not
know them, so they are written out in its own operations first.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .layers.filters import normalise_kernels

OPSET = 18


def export_onnx(
    model: nn.Module,
    args: tuple,
    path: str | Path,
    dynamic_shapes: tuple | dict | None = None,
    input_names: list[str] | None = None,
    output_names: list[str] | None = None,
) -> None:
    """Writes `model` as an ONNX file that any runtime can load (opset 18).

    Args:
        model: in eval mode; anything that `torch.export` can trace.
        args: example inputs.
        path: the file to write; an existing one is not overwritten.
        dynamic_shapes: sizes that stay open, as `torch.export.export` takes them.
        input_names: names of the inputs in the file.
        output_names: names of the outputs in the file.

    Raises:
        FileExistsError: if `path` exists.
        ImportError: if onnx or onnxscript is missing.
    """
    path = Path(path)
    if path.exists():
        raise FileExistsError(f"path must be a new file, {path} exists")
    try:
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ImportError('ONNX needs more packages: pip install "freqfusion[onnx]"') from error
    with torch.no_grad():
        program = torch.export.export(model, args, dynamic_shapes=dynamic_shapes)
        program = program.run_decompositions(written_out())
        torch.onnx.export(
            program,
            f=path,
            opset_version=OPSET,
            input_names=input_names,
            output_names=output_names,
            external_data=False,
            verbose=False,
        )


def written_out() -> dict:
    """Decompositions of the operators into PyTorch's, for `ExportedProgram.run_decompositions`."""
    table = torch.export.default_decompositions()
    operators = torch.ops.freqfusion
    table.update(
        {
            operators.reassemble.default: _reassemble,
            operators.reassemble_backward.default: _reassemble_backward,
            operators.adaptive_filter.default: _adaptive_filter,
            operators.local_similarity.default: _local_similarity,
        }
    )
    return table


def _reassemble(
    x: Tensor, weight: Tensor, kernel_size: int, groups: int, padding_mode: str
) -> Tensor:
    """Tap by tap: the map at that tap of every output, times that tap's weights."""
    weights = weight.float().unflatten(1, (groups, 1, kernel_size**2)).unbind(3)
    taps = _taps(x, weight.shape[2:], kernel_size, groups, padding_mode)
    total = sum(tap * weight for tap, weight in zip(taps, weights, strict=True))
    return total.flatten(1, 2).to(x.dtype)


def _reassemble_backward(
    grad_out: Tensor,
    x: Tensor,
    weight: Tensor,
    kernel_size: int,
    groups: int,
    padding_mode: str,
    need_x: bool,
    need_weight: bool,
) -> tuple[Tensor, Tensor]:
    """Of the weights alone, which is what SAPA scores neighbours with."""
    if need_x:
        raise ValueError("model must be exported without gradients")
    grad = grad_out.float().unflatten(1, (groups, -1))
    taps = _taps(x, weight.shape[2:], kernel_size, groups, padding_mode)
    products = [(grad * tap).sum(2) for tap in taps]
    return x.new_zeros(1), torch.stack(products, 2).flatten(1, 2).to(weight.dtype)


def _taps(
    x: Tensor, size: tuple[int, int], kernel_size: int, groups: int, padding_mode: str
) -> Iterator[Tensor]:
    """Yields (B, groups, C / groups, H, W): what each tap of every output reads."""
    if padding_mode != "zeros":
        raise ValueError(f"padding_mode must be 'zeros' for ONNX, got {padding_mode!r}")
    sizes = zip(x.shape[2:], size, strict=True)
    rows, cols = (torch.arange(to, device=x.device) * of // to for of, to in sizes)
    padded = F.pad(x.float(), [kernel_size // 2] * 4)
    for p in range(kernel_size):
        band = padded.index_select(2, rows + p)
        for q in range(kernel_size):
            yield band.index_select(3, cols + q).unflatten(1, (groups, -1))


def _adaptive_filter(
    x: Tensor,
    logits: Tensor,
    window: Tensor | None,
    kernel_size: int,
    groups: int,
    padding_mode: str,
    identity: int,
) -> tuple[Tensor, Tensor]:
    """`_reassemble` with the softmax before it; the log-sum-exp is for backward and left out."""
    weight = normalise_kernels(logits.float(), kernel_size, groups, window)
    out = _reassemble(x, weight, kernel_size, groups, padding_mode)
    out = identity * x - out if identity else out
    return out, logits.new_zeros(1)


def _local_similarity(x: Tensor, dilation: int) -> Tensor:
    """The eight shifted products of a map of unit vectors."""
    height, width = x.shape[2:]
    unit = x.float() / torch.linalg.vector_norm(x.float(), dim=1, keepdim=True).clamp(min=1e-8)
    padded = F.pad(unit, [dilation] * 4)
    products = []
    for position in (0, 1, 2, 3, 5, 6, 7, 8):
        down, right = (n * dilation for n in divmod(position, 3))
        near = padded[:, :, down : down + height, right : right + width]
        products.append((unit * near).sum(1))
    return torch.stack(products, 1)
