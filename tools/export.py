"""Exports the network of a config: to ONNX, or by torch.export to a file ending in .pt2.

A segmentor's network ends in class scores before they are resized to the image, a single-stage
detector's in the maps of its head, any other's in the maps of its neck. The input is a normalised
image, (B, 3, H, W). What was written is run, at another size than the one it was traced with, and
compared with the model.
"""

from __future__ import annotations

import argparse
import importlib.util
import inspect
import logging
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from _cli import CommandError, add_common, explained, quiet, run
from _config import check_checkpoint, load_config, without_connectors

TOLERANCE = 1e-4
_ONNX = ("onnxruntime", "onnxscript")


def main() -> int:
    """Runs the command line and returns the exit code."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = options.add_argument
    add("config", help="config file")
    add("out", type=Path, help="file to write, .onnx or .pt2")
    add("--checkpoint", help="checkpoint file (random weights)")
    add("--size", nargs=2, type=int, default=(256, 320), metavar=("H", "W"), help="of the example")
    add("--multiple", type=int, default=32, help="sizes stay open in multiples of this (32)")
    add("--batch", type=int, metavar="N", help="fix the batch to N images")
    add("--fixed", action="store_true", help="fix the sizes, and the batch (to 1)")
    add_common(options)
    return run(export, options.parse_args())


def export(arguments: argparse.Namespace) -> None:
    """Exports as the command line says.

    Raises:
        CommandError: if it cannot be exported, or the file differs from the model.
    """
    out, step = arguments.out, arguments.multiple
    if out.suffix not in (".onnx", ".pt2"):
        raise CommandError(f"OUT must end in .onnx or .pt2, got {out}")
    if out.exists():
        raise CommandError(f"{out} exists already; choose another name")
    if any(side % step for side in arguments.size):
        raise CommandError(f"--size must be multiples of {step}, got {arguments.size}")
    if out.suffix == ".onnx" and not all(map(importlib.util.find_spec, _ONNX)):
        raise CommandError('ONNX needs more packages: pip install "freqfusion[onnx]"')
    config = without_connectors(load_config(arguments.config, arguments.cfg_options))
    if arguments.checkpoint:
        check_checkpoint(arguments.checkpoint)
    import torch

    network = _network(config, arguments.checkpoint)
    batch = arguments.batch or (1 if arguments.fixed else None)
    sides = [side + (0 if arguments.fixed else step) for side in arguments.size]
    example = torch.randn(batch or 2, 3, *arguments.size)
    other = torch.randn(batch or 1, 3, *sides)
    shapes = ({**_open_batch(batch), **({} if arguments.fixed else _open_sides(step))},)
    with quiet(), explained(f"cannot export {arguments.config}"), torch.no_grad():
        runs = _onnx if out.suffix == ".onnx" else _pt2
        results = runs(network, example, out, shapes, other)
        expected = network(other)
    error = agree(results, expected)
    if not error <= TOLERANCE:
        out.unlink()
        raise CommandError(
            f"what was exported differs from the model by {error:.1e} of the largest value"
        )
    print(f"{out}: {len(expected)} outputs, off by {error:.1e} at {tuple(other.shape)}")


def agree(results: list, expected: list) -> float:
    """Returns the largest error, as a share of the largest value; infinity for other shapes."""
    if [x.shape for x in results] != [x.shape for x in expected]:
        return math.inf
    pairs = zip(results, expected, strict=True)
    errors = [float((a - b).abs().max() / b.abs().max()) for a, b in pairs]
    return math.inf if any(map(math.isnan, errors)) else max(errors)


def _open_batch(batch: int | None) -> dict:
    """The number of images, open if it is not given."""
    import torch

    return {} if batch else {0: torch.export.Dim("batch", max=1024)}


def _open_sides(step: int) -> dict:
    """Height and width, open in multiples of `step`."""
    import torch

    dims = (torch.export.Dim(name, min=2, max=512) for name in ("rows", "cols"))
    return {axis: step * dim for axis, dim in zip((2, 3), dims, strict=True)}


def _network(config: Any, checkpoint: str | None) -> Any:
    """What is exported: an image in, a list of maps out."""
    import torch
    from _models import build, trained

    model = trained(config, checkpoint) if checkpoint else build(config).eval()
    for name, module in list(model.named_modules()):
        if _rounds(module):  # its own would fix the sizes
            scale, mode = module.scale_factor, module.mode
            upsample = torch.nn.Upsample(None, scale, mode, module.align_corners)
            model.set_submodule(name, upsample)
    heads = (getattr(model, name, None) for name in ("decode_head", "bbox_head", "panoptic_head"))
    head = next(filter(None, heads), None)
    if head and "batch_data_samples" in inspect.signature(head.forward).parameters:
        raise CommandError(f"{type(head).__name__} takes more than maps and cannot be exported")

    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, image: torch.Tensor) -> list[torch.Tensor]:
            maps = self.model.extract_feat(image)
            return list(_tensors(head(maps) if head else maps))

    return Network().eval()


def _rounds(module: Any) -> bool:
    """Whether a module is mmseg's Upsample by a factor, which makes Python numbers of sizes."""
    kind = type(module)
    return (kind.__module__, kind.__name__) == ("mmseg.models.utils.wrappers", "Upsample") and (
        module.size is None
    )


def _tensors(maps: Any) -> Iterator[Any]:
    """Yields the tensors of nested lists and tuples."""
    if isinstance(maps, (list, tuple)):
        for each in maps:
            yield from _tensors(each)
    else:
        yield maps


def _onnx(network: Any, example: Any, out: Path, shapes: Any, other: Any) -> list:
    """Writes ONNX, and returns what onnxruntime computes of `other`."""
    import onnxruntime
    import torch

    from freqfusion.export import export_onnx

    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # that torchvision is not installed
    export_onnx(network, (example,), out, shapes, input_names=["image"])
    session = onnxruntime.InferenceSession(str(out))
    return [torch.from_numpy(x) for x in session.run(None, {"image": other.numpy()})]


def _pt2(network: Any, example: Any, out: Path, shapes: Any, other: Any) -> list:
    """Writes an exported program, and returns what it computes of `other` when loaded."""
    import torch

    torch.export.save(torch.export.export(network, (example,), dynamic_shapes=shapes), out)
    return torch.export.load(out).module()(other)


if __name__ == "__main__":
    sys.exit(main())
