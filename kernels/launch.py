"""Launchers: from tensors to kernels, their grids and their arguments.

Each launcher writes into tensors that it is given, and yields one `Launch` for each candidate of
`tuning`, the best guess first. `run` calls one; `tools/aot_report.py` compiles them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import NamedTuple

import torch
import triton
from torch import Tensor

from . import reassemble, similarity, tuning
from .tuning import Blocks, factor, power_of_2, reach

EPS = 1e-8  # least norm, as in torch.nn.functional.cosine_similarity


class Launch(NamedTuple):
    """A kernel with all that it is called with."""

    kernel: triton.JITFunction
    grid: tuple[int, int]
    arguments: dict
    blocks: Blocks

    def __call__(self):
        """Runs the kernel on the current stream of the device of its tensors."""
        with self.on_device():
            self.kernel[self.grid](
                **self.arguments, num_warps=self.blocks.warps, num_stages=self.blocks.stages
            )

    def on_device(self) -> contextlib.AbstractContextManager:
        """Makes the device of its tensors the current one."""
        device = next(a.device for a in self.arguments.values() if isinstance(a, Tensor))
        if device.type == "cpu":
            return contextlib.nullcontext()
        return torch.get_device_module(device).device(device)


class Filter(NamedTuple):
    """What the passes of a filter have in common.

    Attributes:
        kernel_size, groups: of the operator.
        softmax: the weights are logits.
        window: factors of the taps, only with `softmax`.
        identity: 0 for the filtered map, n for n times x minus the filtered map.
        border: pixels that surround x beforehand; taps outside of the map read them.
    """

    kernel_size: int
    groups: int = 1
    softmax: bool = False
    window: Tensor | None = None
    identity: int = 0
    border: int = 0


def run(launches: Iterator[Launch], autotune: bool = False):
    """Runs the first of `launches`, or with `autotune` the one that was fastest when measured."""
    first = next(launches)
    if 0 in first.grid:
        return
    (tuning.fastest([first, *launches]) if autotune else first)()


def forward(
    f: Filter, x: Tensor, weight: Tensor, out: Tensor, lse: Tensor | None = None
) -> Iterator[Launch]:
    """Filters `x` into `out`, and writes the log-sum-exp of the logits (B, groups, H, W)."""
    channels = x.shape[1] // f.groups
    for blocks in _output_tiles(f, x, weight):
        tiles = x.shape[0] * _tiles(out, blocks)
        chunk = tuning.channels_of_program(channels, blocks, tiles * f.groups)
        arguments = {"x_ptr": x, "weight_ptr": weight, "out_ptr": out, "chunk": chunk}
        arguments |= _filter(f, x, weight, lse, blocks, x, weight, out)
        arguments |= _reach(f, x, weight, blocks)
        arguments |= _strides("x", x) | _strides("w", weight, "t") | _strides("o", out)
        grid = tiles, f.groups * triton.cdiv(channels, chunk)
        yield Launch(reassemble.reassemble_fwd_kernel, grid, arguments, blocks)


def backward_weight(
    f: Filter,
    grad_out: Tensor,
    x: Tensor,
    weight: Tensor,
    grad_weight: Tensor,
    lse: Tensor | None = None,
) -> Iterator[Launch]:
    """Writes the gradient of the weights, with `softmax` of the logits."""
    for blocks in _output_tiles(f, x, weight):
        arguments = {"grad_out_ptr": grad_out, "x_ptr": x, "weight_ptr": weight}
        arguments |= {"grad_weight_ptr": grad_weight}
        arguments |= _filter(f, x, weight, lse, blocks, grad_out, x, weight, grad_weight)
        arguments |= _reach(f, x, weight, blocks)
        arguments |= _strides("g", grad_out) | _strides("x", x)
        arguments |= _strides("w", weight, "t") | _strides("v", grad_weight, "t")
        grid = x.shape[0] * _tiles(weight, blocks), f.groups
        yield Launch(reassemble.reassemble_bwd_weight_kernel, grid, arguments, blocks)


def backward_x(
    f: Filter, grad_out: Tensor, weight: Tensor, grad_x: Tensor, lse: Tensor | None = None
) -> Iterator[Launch]:
    """Writes the gradient of `x` and its border."""
    channels = grad_x.shape[1] // f.groups
    whole = all(factor(*sizes) for sizes in _sizes(f, grad_x, weight))
    layout = grad_out.element_size(), grad_out.stride(1) == 1
    for blocks in tuning.input_tiles(channels, *layout, whole):
        block = 8 if f.kernel_size <= 7 else 4  # kernels of 81 taps and more are fewer at a time
        arguments = {"grad_out_ptr": grad_out, "weight_ptr": weight, "grad_x_ptr": grad_x}
        arguments |= _filter(f, grad_x, weight, lse, blocks, grad_out, weight, grad_x)
        arguments |= {"BLOCK_H": block, "BLOCK_W": block} | _strides("g", grad_out)
        arguments |= _strides("w", weight, "t") | _strides("x", grad_x)
        grid = (
            grad_x.shape[0] * _tiles(grad_x, blocks),
            f.groups * triton.cdiv(channels, blocks.channels),
        )
        yield Launch(reassemble.reassemble_bwd_x_kernel, grid, arguments, blocks)


def similarity_forward(x: Tensor, out: Tensor, dilation: int) -> Iterator[Launch]:
    """Writes cosine similarities (B, 8, H, W), contiguous float32."""
    for blocks in tuning.pixel_tiles():
        arguments = {"x_ptr": x, "out_ptr": out}
        arguments |= _similarity(x, dilation, blocks, x, out) | _strides("x", x)
        grid = x.shape[0] * _tiles(x, blocks), 1
        yield Launch(similarity.similarity_fwd_kernel, grid, arguments, blocks)


def similarity_backward(
    grad_out: Tensor, x: Tensor, grad_x: Tensor, dilation: int
) -> Iterator[Launch]:
    """Writes the gradient of `x`."""
    for blocks in tuning.pixel_tiles():
        arguments = {"grad_out_ptr": grad_out, "x_ptr": x, "grad_x_ptr": grad_x}
        arguments |= _similarity(x, dilation, blocks, grad_out, x, grad_x)
        arguments |= _strides("g", grad_out, "t") | _strides("x", x) | _strides("d", grad_x)
        grid = x.shape[0] * _tiles(x, blocks), 1
        yield Launch(similarity.similarity_bwd_kernel, grid, arguments, blocks)


def is_wide(*tensors: Tensor) -> bool:
    """Whether an offset inside of an image of one of `tensors` needs 64 bits."""
    return any(
        sum((size - 1) * stride for size, stride in zip(t.shape[1:], t.stride()[1:], strict=True))
        >= 2**31
        for t in tensors
    )


def _sizes(f: Filter, x: Tensor, weight: Tensor) -> list[tuple[int, int]]:
    return [(n - 2 * f.border, m) for n, m in zip(x.shape[2:], weight.shape[2:], strict=True)]


def _tiles(target: Tensor, blocks: Blocks) -> int:
    return triton.cdiv(target.shape[2], blocks.rows) * triton.cdiv(target.shape[3], blocks.cols)


def _output_tiles(f: Filter, x: Tensor, weight: Tensor) -> list[Blocks]:
    channels = x.shape[1] // f.groups
    return tuning.output_tiles(f.kernel_size, *_sizes(f, x, weight), channels, x.element_size())


def _filter(
    f: Filter, x: Tensor, weight: Tensor, lse: Tensor | None, blocks: Blocks, *tensors: Tensor
) -> dict:
    (in_height, out_height), (in_width, out_width) = _sizes(f, x, weight)
    return {
        "window_ptr": weight if f.window is None else f.window,
        "lse_ptr": weight if lse is None else lse,
        "in_height": in_height,
        "in_width": in_width,
        "out_height": out_height,
        "out_width": out_width,
        "BORDER": f.border,
        "channels": x.shape[1] // f.groups,
        "K": f.kernel_size,
        "FACTOR_H": factor(in_height, out_height),
        "FACTOR_W": factor(in_width, out_width),
        "SOFTMAX": f.softmax,
        "WINDOW": f.window is not None,
        "IDENTITY": f.identity,
        "BLOCK_T": power_of_2(f.kernel_size**2 + 1),  # one more: the weight of no tap, 0
    } | _cut(blocks, *tensors)


def _reach(f: Filter, x: Tensor, weight: Tensor, blocks: Blocks) -> dict:
    rows, cols = _sizes(f, x, weight)
    height = reach(*rows, blocks.rows, f.kernel_size)
    width = reach(*cols, blocks.cols, f.kernel_size)
    return {"REACH_H": height, "REACH_W": width, "BLOCK_N": power_of_2(height * width)}


def _similarity(x: Tensor, dilation: int, blocks: Blocks, *tensors: Tensor) -> dict:
    sizes = {"channels": x.shape[1], "height": x.shape[2], "width": x.shape[3]}
    return sizes | {"dilation": dilation, "EPS": EPS} | _cut(blocks, *tensors)


def _cut(blocks: Blocks, *tensors: Tensor) -> dict:
    block = {"TILE_H": blocks.rows, "TILE_W": blocks.cols, "BLOCK_C": blocks.channels}
    return block | {"WIDE": is_wide(*tensors)}


def _strides(name: str, tensor: Tensor, channel: str = "c") -> dict:
    names = (f"stride_{name}{dim}" for dim in ("n", channel, "h", "w"))
    return dict(zip(names, tensor.stride(), strict=True))
