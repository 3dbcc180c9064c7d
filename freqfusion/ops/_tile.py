"""The tile form: upsampling by a whole factor as a batch of small matrix products.

The outputs of a T x T tile of input pixels read only R x R inputs, R = T + k - 1. So a tile is one
product,

    out[(T*up)^2, c] = bands[(T*up)^2, R^2] @ inputs[R^2, c]

where the row of an output holds its k*k weights at the columns of its taps, zeros elsewhere.
Gathering the inputs repeats each about (R/T)^2 times, 4 for k = 5, where an unfolded map repeats it
k^2 * up^2 = 100 times.

Layouts: tile index first (B, rows, cols, groups), pixels next, the c = C/groups channels innermost.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ._geometry import accumulate_dtype, pad, pad_backward

TILE = 4  # input pixels per side: the fastest, or close to it, at every shape of benchmarks/ops.py


class Tiling:
    """How maps of one call are cut into tiles.

    Args:
        size: (h, w) of the input map.
        factor: whole upsampling factors of rows and columns.
        kernel_size, groups, padding_mode: of the operator.
        tile: input pixels per side of a tile, at most.
    """

    def __init__(
        self,
        size: tuple[int, int],
        factor: tuple[int, int],
        kernel_size: int,
        groups: int,
        padding_mode: str,
        tile: int = TILE,
    ):
        self.size, self.factor = size, factor
        self.kernel_size, self.groups, self.padding_mode = kernel_size, groups, padding_mode
        self.tile = tile = min(tile, max(size))
        self.reach = tile + kernel_size - 1
        self.grid = tuple(-(-n // tile) for n in size)
        self.extra = tuple(g * tile - n for g, n in zip(self.grid, size, strict=True))

    def forward(self, x: Tensor, weight: Tensor, out: Tensor):
        """Writes `x` (B, C, h, w), filtered by (B, groups*k*k, h*up, w*up), to `out`."""
        dtype = accumulate_dtype(x, weight)
        bands, inputs = self._cut_weights(weight, dtype), self._cut_inputs(x, dtype)
        self._join_outputs(_product(bands, inputs), out)

    def backward_x(self, grad_out: Tensor, weight: Tensor) -> Tensor:
        """Gradient of `forward` for `x`, in the accumulation dtype."""
        dtype = accumulate_dtype(grad_out, weight)
        bands, grads = self._cut_weights(weight, dtype), self._cut_outputs(grad_out, dtype)
        return self._join_inputs(_product(bands.mT, grads))

    def backward_weight(self, grad_out: Tensor, x: Tensor) -> Tensor:
        """Gradient of `forward` for `weight`, in the accumulation dtype."""
        dtype = accumulate_dtype(grad_out, x)
        grads, inputs = self._cut_outputs(grad_out, dtype), self._cut_inputs(x, dtype)
        return self._join_weights(_product(grads, inputs.mT))

    def _cut_inputs(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        """(B, C, h, w) -> (B, rows, cols, groups, R*R, c); neighbouring tiles share a border."""
        padded = pad(x, self.kernel_size // 2, self.padding_mode, self.extra)
        view = padded.unflatten(1, (self.groups, -1))
        view = view.unfold(3, self.reach, self.tile).unfold(4, self.reach, self.tile)
        return _copy(view.permute(0, 3, 4, 1, 5, 6, 2), dtype).flatten(4, 5)

    def _join_inputs(self, inputs: Tensor) -> Tensor:
        """Adjoint of `_cut_inputs`: adds the tiles up where they overlap.

        If each is cut into blocks of at most T x T, blocks from the same place of all tiles do not
        overlap, and are added in one go.
        """
        tile, (rows, cols) = self.tile, self.grid
        inputs = inputs.unflatten(4, (self.reach, self.reach)).permute(0, 1, 4, 2, 5, 3, 6)
        blocks = range(0, self.reach, tile)
        batch, channels = inputs.shape[0], self.groups * inputs.shape[-1]
        tall, wide = (n * tile + blocks[-1] for n in self.grid)
        padded = inputs.new_zeros(batch, tall, wide, channels)
        for top in blocks:
            for left in blocks:
                block = inputs[:, :, top : top + tile, :, left : left + tile]
                place = padded[:, top : top + rows * tile, left : left + cols * tile]
                place = place.unflatten(3, (self.groups, -1)).unflatten(2, (cols, tile))
                place = place.unflatten(1, (rows, tile))
                place[:, :, : block.shape[2], :, : block.shape[4]].add_(block)
        border = self.kernel_size - 1
        padded = padded[:, : self.size[0] + border, : self.size[1] + border]
        return pad_backward(padded.permute(0, 3, 1, 2), self.kernel_size // 2, self.padding_mode)

    def _output_view(self, full: Tensor) -> Tensor:
        """View (B, rows, cols, groups, T*up, T*up, c) of a map (B, C, rows*T*up, cols*T*up)."""
        view = full.unflatten(3, (self.grid[1], -1)).unflatten(2, (self.grid[0], -1))
        return view.unflatten(1, (self.groups, -1)).permute(0, 3, 5, 1, 4, 6, 2)

    def _cut_outputs(self, grad_out: Tensor, dtype: torch.dtype) -> Tensor:
        """(B, C, h*up, w*up) -> (B, rows, cols, groups, (T*up)^2, c)."""
        return _copy(self._output_view(self._pad_outputs(grad_out)), dtype).flatten(4, 5)

    def _join_outputs(self, outputs: Tensor, out: Tensor):
        """Inverse of `_cut_outputs`, written to `out`."""
        height, width = out.shape[2:]
        whole = out
        if any(self.extra):
            tall, wide = (g * self.tile * f for g, f in zip(self.grid, self.factor, strict=True))
            whole = out.new_empty(out.shape[0], tall, wide, out.shape[1]).permute(0, 3, 1, 2)
        view = self._output_view(whole)
        view.copy_(outputs.view(view.shape))
        if whole is not out:
            out.copy_(whole[:, :, :height, :width])

    def _pad_outputs(self, full: Tensor) -> Tensor:
        """Zeros below and at the right, up to whole tiles."""
        bottom, right = (e * f for e, f in zip(self.extra, self.factor, strict=True))
        return F.pad(full, (0, right, 0, bottom)) if bottom or right else full

    def _weight_view(self, full: Tensor) -> Tensor:
        """View (B, rows, cols, groups, T, up, T, up, k, k) of padded weights."""
        (rows, cols), (up_h, up_w), k = self.grid, self.factor, self.kernel_size
        view = full.unflatten(3, (cols, self.tile, up_w)).unflatten(2, (rows, self.tile, up_h))
        return view.unflatten(1, (self.groups, k, k)).permute(0, 4, 7, 1, 5, 6, 8, 9, 2, 3)

    def _band_view(self, bands: Tensor) -> Tensor:
        """View (..., T, up, T, up, k, k) of the band of (..., T, up, T, up, R, R).

        One input pixel further is one column of R*R further: the band is a diagonal, so a stride.
        """
        *lead, row, sub_row, col, sub_col, down, right = bands.stride()
        strides = (*lead, row + down, sub_row, col + right, sub_col, down, right)
        size = (*bands.shape[:-2], self.kernel_size, self.kernel_size)
        return bands.as_strided(size, strides)

    def _cut_weights(self, weight: Tensor, dtype: torch.dtype) -> Tensor:
        """(B, groups*k*k, h*up, w*up) -> (B, rows, cols, groups, (T*up)^2, R*R)."""
        view = self._weight_view(self._pad_outputs(weight))
        bands = view.new_zeros(*view.shape[:-2], self.reach, self.reach, dtype=dtype)
        self._band_view(bands).copy_(view)
        return bands.flatten(8, 9).flatten(4, 7)

    def _join_weights(self, bands: Tensor) -> Tensor:
        """Adjoint of `_cut_weights`: reads the band."""
        (up_h, up_w), batch = self.factor, bands.shape[0]
        bands = bands.unflatten(4, (self.tile, up_h, self.tile, up_w))
        band = self._band_view(bands.unflatten(8, (self.reach, self.reach)))
        band = band.permute(0, 3, 8, 9, 1, 4, 5, 2, 6, 7).flatten(1, 3).flatten(5, 7).flatten(2, 4)
        height, width = (n * f for n, f in zip(self.size, self.factor, strict=True))
        return band[:batch, :, :height, :width]


def _product(a: Tensor, b: Tensor) -> Tensor:
    """Matrix product over the last two dimensions with the tiles as one batch."""
    return torch.bmm(a.flatten(0, 3), b.flatten(0, 3)).unflatten(0, a.shape[:4])


def _copy(view: Tensor, dtype: torch.dtype) -> Tensor:
    """`view` gathered into contiguous memory and cast, in one pass."""
    return torch.empty(view.shape, dtype=dtype, device=view.device).copy_(view)
