"""Block sizes of the kernels, and opt-in autotuning among them.

The first candidate of each list is what runs: chosen from what the compiler reports (registers, no
spills, instructions; README.md has the table) and from counted bytes, not yet from measurements on
a GPU. With autotuning, all candidates are measured once for each kind of call.
"""

from __future__ import annotations

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


def output_tiles(
    columns: Callable[[int, int], int], channels: int, element_size: int
) -> list[Blocks]:
    """Candidates for kernels that go through tiles of outputs.

    A tile is a good one if the inputs that it reaches fill a power of 2, and its products fit into
    registers: without tensor cores (float32) that is half as much.

    Args:
        columns: power of 2 that holds the inputs that a tile of (rows, cols) reaches.
        channels: channels of a group.
        element_size: bytes of an element of `x`.
    """
    block = min(32, power_of_2(channels))
    if columns(4, 4) > 256:
        return [Blocks(4, 4, 16)]
    limits = {(8, 8): 64 if element_size < 4 else 0, (4, 8): 128, (4, 4): 128}
    fitting = [tile for tile, most in limits.items() if columns(*tile) <= most] or [(4, 4)]
    wider = [Blocks(*fitting[0], 2 * block)] if channels > block and element_size < 4 else []
    return [Blocks(*fitting[0], block), *wider, *(Blocks(*tile, block) for tile in fitting[1:])]


def input_tiles(channels: int, element_size: int, channels_last: bool) -> list[Blocks]:
    """Candidates for the gradient of x, which goes through tiles of inputs.

    Kernels are computed again for each block of channels, so a block is as wide as registers and
    the 64 KiB of shared memory that every GPU has allow.
    """
    if element_size == 4:
        block = min(128, power_of_2(channels))
        return [Blocks(4, 4, block), Blocks(4, 4, block, warps=8)]
    if channels_last:
        block = min(256, power_of_2(channels))
        return [Blocks(8, 8, block, warps=8), Blocks(4, 8, block, warps=8)]
    block = min(128, power_of_2(channels))
    return [Blocks(4, 8, block, warps=8), Blocks(8, 8, block, warps=8)]


def pixel_tiles(channels: int, channels_last: bool) -> list[Blocks]:
    """Candidates for the similarity kernels, which go through tiles of pixels."""
    block = min(32, power_of_2(channels))
    return [Blocks(8, 8, block), Blocks(4, 16, block)]


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
        if triton.knobs.runtime.interpret or torch.cuda.is_current_stream_capturing():
            return launches[0]
        times = [triton.testing.do_bench(launch, warmup=5, rep=20) for launch in launches]
        _fastest[key] = times.index(min(times))
    return launches[_fastest[key]]


def _kind(launch) -> tuple:
    """Kernel, types, layouts, channels and the magnitude of the work, but no exact sizes."""
    tensors = [a for a in launch.arguments.values() if isinstance(a, torch.Tensor)]
    constants = [(n, v) for n, v in launch.arguments.items() if n.isupper() or n == "channels"]
    layouts = [(t.dtype, t.dim() == 4 and t.stride(1) == 1) for t in tensors]
    work = (launch.grid[0] * launch.grid[1]).bit_length()
    return launch.kernel.__name__, tensors[0].device, *constants, *layouts, work
