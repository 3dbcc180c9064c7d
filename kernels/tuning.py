"""Block sizes of the kernels, and opt-in autotuning among them.

The first candidate of each list is what runs: chosen from what the compiler reports (registers, no
spills, instructions; README.md has the table) and from counted bytes, not yet from measurements on
a GPU. With autotuning, all candidates are measured once for each kind of call.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import triton

PROGRAMS = 512  # enough for every GPU of today


class Blocks(NamedTuple):
    """How the work is cut.

    Attributes:
        rows, cols: pixels of a tile: outputs, or inputs where the gradient of x is computed.
        channels: channels of a block, a power of 2.
        warps: warps of a program.
        stages: depth of the software pipeline.
    """

    rows: int
    cols: int
    channels: int
    warps: int = 4
    stages: int = 2


def power_of_2(n: int, least: int = 16) -> int:
    """The smallest power of 2 that is at least n; tensor cores want 16."""
    return max(least, 1 << (n - 1).bit_length())


@functools.lru_cache(maxsize=4096)
def factor(in_size: int, out_size: int) -> int:
    """The f with which output row i reads source row i // f, for all i; 0 if there is none."""
    f = -(-out_size // in_size)
    return f if (f * in_size - out_size) * (out_size // f) < in_size else 0


@functools.lru_cache(maxsize=4096)
def reach(in_size: int, out_size: int, tile: int, kernel_size: int) -> int:
    """Input rows that `tile` output rows read at most, wherever the tile lies."""
    f = factor(in_size, out_size)
    if f and (tile % f == 0 or f % tile == 0):
        sources = max(tile // f, 1)
    else:
        sources = -(-(tile - 1) * in_size // out_size) + 1
    return min(sources, in_size) + kernel_size - 1


@functools.lru_cache(maxsize=4096)
def output_tiles(
    kernel_size: int,
    heights: tuple[int, int],
    widths: tuple[int, int],
    channels: int,
    element_size: int,
) -> list[Blocks]:
    """Candidates for kernels that go through tiles of outputs.

    A tile is a good one if the inputs that it reaches fill a power of 2, and its products fit into
    registers: without tensor cores (float32) that is half as much.

    Args:
        kernel_size: of the filter.
        heights: of its input and output.
        widths: of its input and output.
        channels: channels of a group.
        element_size: bytes of an element of `x`.
    """

    def columns(rows: int, cols: int) -> int:
        height = reach(*heights, rows, kernel_size)
        return power_of_2(height * reach(*widths, cols, kernel_size))

    block = min(32, power_of_2(channels))
    if columns(4, 4) > 256:
        return [Blocks(4, 4, 16)]
    limits = {(8, 8): 64 if element_size < 4 else 0, (4, 8): 128, (4, 4): 128}
    fitting = [tile for tile, most in limits.items() if columns(*tile) <= most] or [(4, 4)]
    wider = [Blocks(*fitting[0], 2 * block)] if channels > block and element_size < 4 else []
    return [Blocks(*fitting[0], block), *wider, *(Blocks(*tile, block) for tile in fitting[1:])]


def input_tiles(channels: int, element_size: int, channels_last: bool, whole: bool) -> list[Blocks]:
    """Candidates for the gradient of x, which goes through tiles of inputs.

    Kernels are computed again for each block of channels, so a block is as wide as registers and
    the 64 KiB of shared memory that every GPU has allow.

    Args:
        channels: channels of a group.
        element_size: bytes of an element of the gradient.
        channels_last: its channels are neighbours in memory, so that few registers hold addresses.
        whole: the ratio of sizes is a whole number, which costs few registers too.
    """
    if element_size == 4:
        tile, most = (4, 4), 128 if channels_last else 64
    elif channels_last:
        tile, most = (8, 8), 256
    else:
        tile, most = (4, 8), 128 if whole else 64
    block = min(most, power_of_2(channels))
    narrow = [Blocks(*tile, block // 2, warps=8)] if block >= 32 else []
    return [Blocks(*tile, block, warps=8), *narrow, Blocks(4, 4, block, warps=4)]


def pixel_tiles() -> list[Blocks]:
    """Candidates for the similarity kernels, which go through tiles of pixels."""
    return [Blocks(4, 8, 16), Blocks(8, 8, 16, warps=8), Blocks(4, 4, 16)]


def channels_of_program(channels: int, blocks: Blocks, programs: int) -> int:
    """Channels that one of `programs` computes: all, unless that leaves a GPU half empty."""
    parts = -(-PROGRAMS // programs)
    return -(-channels // (parts * blocks.channels)) * blocks.channels


_fastest: dict[tuple, int] = {}


def fastest(launches: list) -> Callable[[], None]:
    """The fastest of `launches`, measured once for each kind of call.

    Each may run several times: a launch must overwrite what it writes. Nothing can be measured
    while a CUDA graph is captured; then, and in Triton's interpreter, it is the first.
    """
    key = _kind(launches[0])
    if key not in _fastest:
        if triton.knobs.runtime.interpret or _is_capturing():
            return launches[0]
        times = [_milliseconds(launch) for launch in launches]
        _fastest[key] = times.index(min(times))
    return launches[_fastest[key]]


def _is_capturing() -> bool:
    return torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()


def _milliseconds(launch) -> float:
    try:
        with launch.on_device():
            return triton.testing.do_bench(launch, warmup=5, rep=20)
    except triton.runtime.errors.OutOfResources:
        return math.inf


def _kind(launch) -> tuple:
    """Kernel, types, layouts, channels and the magnitude of the work, but no exact sizes."""
    tensors = [a for a in launch.arguments.values() if isinstance(a, torch.Tensor)]
    constants = [(n, v) for n, v in launch.arguments.items() if n.isupper() or n == "channels"]
    layouts = [(t.dtype, t.dim() == 4 and t.stride(1) == 1) for t in tensors]
    work = (launch.grid[0] * launch.grid[1]).bit_length()
    return launch.kernel.__name__, tensors[0].device, *constants, *layouts, work
