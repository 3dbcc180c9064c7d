"""Sizes, borders, dtypes and memory formats that the forms of `freqfusion.ops.reference` share."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor


def accumulate_dtype(*tensors: Tensor) -> torch.dtype:
    """float64 if any of `tensors` is float64, else float32."""
    return torch.float64 if any(t.dtype == torch.float64 for t in tensors) else torch.float32


def autocast_input(x: Tensor) -> Tensor:
    """`x` in the dtype of autocast, if it is on; float64 stays, as in PyTorch's operators."""
    device = x.device.type
    if x.dtype == torch.float64 or not _has_autocast(x) or not torch.is_autocast_enabled(device):
        return x
    return x.to(torch.get_autocast_dtype(device))


def without_autocast(x: Tensor) -> AbstractContextManager:
    """Turns autocast off inside an operator: its sums stay in the accumulation dtype."""
    return torch.autocast(x.device.type, enabled=False) if _has_autocast(x) else nullcontext()


def _has_autocast(x: Tensor) -> bool:
    return torch.amp.is_autocast_available(x.device.type)  # not on the meta device


def memory_format_of(x: Tensor) -> torch.memory_format:
    """channels_last or contiguous_format; a map that could be either is contiguous."""
    channels_last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    return torch.channels_last if channels_last else torch.contiguous_format


def empty_in_format(x: Tensor, size: tuple[int, ...]) -> Tensor:
    """Uninitialised map of `size` in the memory format (NCHW or channels_last) of `x`."""
    memory_format = memory_format_of(x)
    return torch.empty(size, dtype=x.dtype, device=x.device, memory_format=memory_format)


class Spread:
    """Writes any ratio of target to source size as a whole upsampling factor.

    Target row i reads source row floor(i*h/H). With factor = ceil(H/h) slots for each source row,
    `scatter` puts the H rows into their slots among h*factor (zeros elsewhere) and `gather` takes
    them out. A whole ratio needs neither.
    """

    def __init__(self, source: tuple[int, int], target: tuple[int, int], device: torch.device):
        pairs = list(zip(source, target, strict=True))
        self.factor = tuple(-(-t // s) for s, t in pairs)
        self.size = tuple(s * f for (s, _), f in zip(pairs, self.factor, strict=True))
        self.exact = self.size == tuple(target)
        if not self.exact:
            rows, cols = (_slots(s, t, device) for s, t in pairs)
            self.index = (..., rows[:, None], cols)

    def scatter(self, target: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, h*factor, w*factor)."""
        if self.exact:
            return target
        slots = target.new_zeros(*target.shape[:2], *self.size)
        slots[self.index] = target
        return slots

    def gather(self, slots: Tensor) -> Tensor:
        """(B, C, h*factor, w*factor) -> (B, C, H, W)."""
        return slots if self.exact else slots[self.index]


def _slots(source: int, target: int, device: torch.device) -> Tensor:
    """Slot of every target row: its source row times the factor, plus its rank there."""
    target_row = torch.arange(target, device=device)
    source_row = target_row * source // target
    first = (source_row * target + source - 1) // source
    return source_row * -(-target // source) + target_row - first


def pad(x: Tensor, radius: int, mode: str, extra: tuple[int, int] = (0, 0)) -> Tensor:
    """Adds a border of `radius` by `mode`, then `extra` zero rows below, columns at the right."""
    if mode == "reflect":
        x = _with_mirrored_border(x, radius)
        radius = 0
    if radius == 0 and not any(extra):
        return x
    return F.pad(x, (radius, radius + extra[1], radius, radius + extra[0]))


def _with_mirrored_border(x: Tensor, radius: int) -> Tensor:
    channels_last = memory_format_of(x) == torch.channels_last
    view = x.permute(0, 2, 3, 1) if channels_last else x
    for dim in (1, 2) if channels_last else (2, 3):
        size = view.shape[dim]
        positions = torch.arange(-radius, size + radius, device=x.device)
        view = view.index_select(dim, _mirror(positions, size))
    return view.permute(0, 3, 1, 2) if channels_last else view


def pad_backward(grad: Tensor, radius: int, mode: str) -> Tensor:
    """Gradient of `pad` without `extra`: the border of `grad` is added where it was read."""
    for dim in (2, 3):
        size = grad.shape[dim] - 2 * radius
        inner = grad.narrow(dim, radius, size)
        if mode == "reflect":
            inner = inner.clone()
            for i in (*range(-radius, 0), *range(size, size + radius)):
                inner.select(dim, _mirror(i, size)).add_(grad.select(dim, i + radius))
        grad = inner
    return grad


def _mirror(position: int | Tensor, size: int) -> int | Tensor:
    """Index that `position` reads if a row of `size` is mirrored at its ends for ever."""
    last = size - 1
    return last - abs(last - position % (2 * last)) if last else position * 0
