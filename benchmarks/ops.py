"""Every form of spatially-variant filtering at real shapes: how the forms were chosen.

    python benchmarks/ops.py

For each shape: the unfold form, the shift form (output as large as the input only) and the tile
form with several tiles; forward and backward in milliseconds, their ratio to unfold, and the peak
memory that forward and backward together add. A star marks the form that the package uses.
"""

from __future__ import annotations

import argparse
from functools import partial

import torch
import unfold
from measure import extra_mebibytes, machine, milliseconds, write_csv
from torch import Tensor

from freqfusion.ops import _shift, _tile

SHAPES = [  # channels, side of the input, kernel_size, scale, layout
    (256, 64, 5, 2, "nchw"),
    (256, 64, 5, 2, "channels_last"),
    (25, 64, 5, 2, "nchw"),
    (256, 16, 5, 2, "nchw"),
    (256, 64, 3, 2, "nchw"),
    (256, 64, 7, 2, "nchw"),
    (256, 32, 5, 4, "nchw"),
    (256, 128, 3, 1, "nchw"),
    (256, 128, 3, 1, "channels_last"),
    (64, 128, 3, 1, "nchw"),
    (256, 128, 5, 1, "nchw"),
    (64, 128, 5, 1, "channels_last"),
]
TILES = (2, 4, 8)
LAYOUTS = {"nchw": torch.contiguous_format, "channels_last": torch.channels_last}


class Case:
    """Random input, kernels and cotangent of one shape, and the forms that can compute it."""

    def __init__(self, channels: int, side: int, kernel_size: int, scale: int, layout: str):
        torch.manual_seed(0)
        shapes = (channels, side), (kernel_size**2, side * scale), (channels, side * scale)
        self.x, self.weight, self.grad = (
            torch.randn(1, c, s, s).to(memory_format=LAYOUTS[layout]) for c, s in shapes
        )
        self.kernel_size, self.scale = kernel_size, scale

    def forms(self) -> list[str]:
        """Names of the forms, the baseline first."""
        shift = ["shift"] if self.scale == 1 else []
        return ["unfold", *shift, *(f"tile {tile}" for tile in TILES)]

    def chosen(self) -> str:
        """The form that the package uses."""
        return "shift" if self.scale == 1 else f"tile {_tile.TILE}"

    def forward(self, form: str) -> Tensor:
        """The filtered map."""
        if form == "unfold":
            return unfold.reassemble(self.x, self.weight, self.kernel_size)
        out = torch.empty_like(self.grad)
        if form == "shift":
            _shift.forward(self.x, self.weight, out, self.kernel_size, 1, "zeros")
        else:
            self._tiling(form).forward(self.x, self.weight, out)
        return out

    def backward(self, form: str) -> tuple[Tensor, Tensor]:
        """Gradients of the map and the kernels; unfold runs forward again for its graph."""
        if form == "unfold":
            leaves = self.x.requires_grad_(), self.weight.requires_grad_()
            try:
                return torch.autograd.grad(self.forward(form), leaves, self.grad)
            finally:
                self.x.requires_grad_(False), self.weight.requires_grad_(False)
        if form == "shift":
            grad_weight = torch.empty_like(self.weight)
            args = self.kernel_size, 1, "zeros"
            grad_x = _shift.backward_x(self.grad, self.weight, *args)
            _shift.backward_weight(
                self.grad, self.x, grad_weight.unsqueeze(1), self.kernel_size, "zeros"
            )
            return grad_x, grad_weight
        tiling = self._tiling(form)
        grad_x = tiling.backward_x(self.grad, self.weight)
        return grad_x, tiling.backward_weight(self.grad, self.x)

    def both(self, form: str):
        """Forward and backward."""
        if form != "unfold":
            self.forward(form)
        self.backward(form)

    def _tiling(self, form: str) -> _tile.Tiling:
        size, tile = tuple(self.x.shape[2:]), int(form.split()[1])
        return _tile.Tiling(size, (self.scale, self.scale), self.kernel_size, 1, "zeros", tile)


def prepare(shape: tuple, form: str):
    """Forward and backward of one form, for the memory measurement."""
    return partial(Case(*shape).both, form)


def measure(shape: tuple, repeats: int) -> list[dict]:
    """Figures of every form at one shape."""
    case = Case(*shape)
    forms = case.forms()
    forward = milliseconds({form: partial(case.forward, form) for form in forms}, repeats)
    both = milliseconds({form: partial(case.both, form) for form in forms}, repeats)
    rows = []
    for form in forms:
        row = dict(zip(("channels", "side", "kernel_size", "scale", "layout"), shape, strict=True))
        row |= {"form": form, "chosen": form == case.chosen()}
        row |= {"forward_ms": round(forward[form], 2), "both_ms": round(both[form], 2)}
        row |= {"forward_ratio": round(forward["unfold"] / forward[form], 1)}
        row |= {"both_ratio": round(both["unfold"] / both[form], 1)}
        row |= {"extra_mib": round(extra_mebibytes(prepare, shape, form), 1)}
        rows.append(row)
    return rows


def main():
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    print(machine())
    rows = []
    for shape in SHAPES:
        channels, side, kernel_size, scale, layout = shape
        print(f"\n{channels} channels, {side} -> {side * scale}, k {kernel_size}, {layout}")
        print("  form        forward            forward + backward   memory")
        for row in measure(shape, args.repeats):
            star = "*" if row["chosen"] else " "
            print(
                f"{star} {row['form']:8s} {row['forward_ms']:8.2f} ms {row['forward_ratio']:5.1f}x "
                f"{row['both_ms']:10.2f} ms {row['both_ratio']:5.1f}x {row['extra_mib']:7.0f} MiB"
            )
            rows.append(row)
    print(f"\nwritten to {write_csv('ops', rows)}")


if __name__ == "__main__":
    main()
