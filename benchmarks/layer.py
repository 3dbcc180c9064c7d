"""The whole layer beside its unfold form: forward, forward + backward, peak extra memory.

python benchmarks/layer.py
"""

from __future__ import annotations

import argparse
from functools import partial

import torch
from measure import extra_mebibytes, machine, milliseconds, write_csv
from unfold import twin_of

from freqfusion import FreqFusion

MEMORY_FORMATS = {"nchw": torch.contiguous_format, "channels_last": torch.channels_last}


def prepare(form: str, backward: bool, channels: int, size: int, layout: str):
    """A function of no arguments that runs the layer once."""
    torch.manual_seed(0)
    options = dict(compressed_channels=64, feature_resample=True)
    layer = FreqFusion(channels, channels, **options)
    if form == "unfold":
        layer = twin_of(layer, channels, channels, **options)
    hr, lr = (
        torch.randn(1, channels, side, side).to(memory_format=MEMORY_FORMATS[layout])
        for side in (size, size // 2)
    )
    return partial(_run, layer, hr.requires_grad_(backward), lr.requires_grad_(backward), backward)


def _run(layer: FreqFusion, hr: torch.Tensor, lr: torch.Tensor, backward: bool):
    with torch.set_grad_enabled(backward):
        _, fine, coarse = layer(hr, lr)
        if backward:
            torch.autograd.grad((fine + coarse).sum(), [hr, lr, *layer.parameters()])


def main():
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--channels", type=int, default=256)
    parser.add_argument("--size", type=int, default=128, help="side of the fine map")
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    shape = f"hr (1, {args.channels}, {args.size}, {args.size}), 64 compressed channels, resampling"
    print(f"{shape}\n{machine()}\n")
    print("layout        pass              unfold          freqfusion     ratio: time  memory")
    rows = []
    for layout in MEMORY_FORMATS:
        for backward in (False, True):
            setting = backward, args.channels, args.size, layout
            forms = {form: prepare(form, *setting) for form in ("unfold", "freqfusion")}
            times = milliseconds(forms, args.repeats)
            memory = {form: extra_mebibytes(prepare, form, *setting) for form in forms}
            name = "forward+backward" if backward else "forward"
            ratios = [figures["unfold"] / figures["freqfusion"] for figures in (times, memory)]
            cells = [f"{times[form]:7.1f} ms {memory[form]:5.0f} MiB" for form in forms]
            print(
                f"{layout:13s} {name:16s} {'  '.join(cells)}  {ratios[0]:8.1f}x {ratios[1]:6.1f}x"
            )
            for form in forms:
                rows.append(
                    dict(layout=layout, run=name, form=form, shape=shape, ms=round(times[form], 2))
                    | dict(extra_mib=round(memory[form], 1))
                )
    print(f"\nwritten to {write_csv('layer', rows)}")


if __name__ == "__main__":
    main()
