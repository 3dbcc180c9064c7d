"""Converts a checkpoint of the authors to the names of the models in mm_configs."""

from __future__ import annotations

import argparse
import importlib
import os
import pickle
import re
import sys
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from _cli import CommandError, explained, quiet, run
from torch import Tensor

from freqfusion.checkpoint import FAMILIES, Contents, Conversion, compare, convert, unwrap

CONFIGS = Path(__file__).parents[1] / "mm_configs"
DEFAULTS = {  # the config of a published model, and the libraries that build it
    "segnext": ("ade20k/segnext_mscan-t_freqfusion_1xb16-adamw-160k_ade20k-512x512.py", ["mmseg"]),
    "faster-rcnn": ("coco/faster-rcnn_r50_fpn-carafe-freqfusion_1x_coco.py", ["mmdet"]),
    "mask-rcnn": ("coco/mask-rcnn_r50_fpn-carafe-freqfusion_1x_coco.py", ["mmdet"]),
    "panoptic-fpn": ("coco/panoptic-fpn_r50_fpn-carafe-freqfusion_1x_coco.py", ["mmdet"]),
    "mask2former": (
        "ade20k/mask2former-freqfusion_swin-b-in22k-384x384-pre_8xb2-160k_ade20k-640x640.py",
        ["mmseg", "mmdet"],
    ),
}
UNSAFE = (
    "read a file that holds Python objects; such a file can run any program while it is read, so "
    "only for files from someone you trust"
)


def main() -> int:
    """Runs the command line and returns the exit code."""
    options = argparse.ArgumentParser(description=__doc__)
    add = options.add_argument
    add("source", metavar="SRC", help="checkpoint of mmseg 0.x, mmdet 2.x or detectron2")
    add("destination", metavar="DST", help="file to write; one that exists is never overwritten")
    add("--model", required=True, choices=list(FAMILIES), help="what the checkpoint is of")
    compared = options.add_mutually_exclusive_group()
    compared.add_argument(
        "--config", help="config whose model has to fit (one of mm_configs for each --model)"
    )
    compared.add_argument(
        "--no-check",
        action="store_true",
        help="compare with no model; Mask2Former's head gets its name in mmseg, decode_head",
    )
    add(
        "--drop-unexpected",
        action="store_true",
        help="leave out tensors that the model does not have",
    )
    add("--unsafe", action="store_true", help=UNSAFE)
    add("--debug", action="store_true", help="show where in the code an error comes from")
    return run(convert_checkpoint, options.parse_args())


def convert_checkpoint(arguments: argparse.Namespace) -> None:
    """Converts as the command line says, and prints what was done.

    Raises:
        CommandError: if the file cannot be read, does not fit the model, or DST cannot be written.
    """
    source, destination = Path(arguments.source), Path(arguments.destination)
    _check_destination(destination)
    contents = _contents(source, arguments.unsafe)
    target, config, head = None, "", "decode_head"
    if not arguments.no_check:
        target, config, head = _target(arguments.model, arguments.config)
    try:
        conversion = convert(contents.state_dict, arguments.model, head)
    except ValueError as error:
        raise CommandError(f"{source}: {error}") from error
    _report(contents, conversion)
    state_dict = conversion.state_dict
    if target is None:
        print("not compared with a model" + (f": {config}" if config else ", as --no-check says"))
    else:
        print(f"compared with the {len(target)} tensors of {config}")
        try:
            state_dict = _fitted(state_dict, target, arguments.drop_unexpected)
        except ValueError as error:
            hint = "" if arguments.config else "; --config names the config of another model"
            message = f"{source} does not fit the model of {config}: {error}{hint}"
            raise CommandError(message) from error
    _write({"meta": contents.meta, "state_dict": state_dict}, destination)
    print(f"wrote {destination}: {len(state_dict)} tensors")


def _check_destination(path: Path) -> None:
    if path.exists() or path.is_symlink():
        raise CommandError(f"{path} exists and is not overwritten; choose another DST")
    if not path.parent.is_dir():
        raise CommandError(f"there is no folder {path.parent} to write {path.name} to")


def _contents(path: Path, unsafe: bool) -> Contents:
    if not path.is_file():
        raise CommandError(f"there is no checkpoint {path}")
    try:
        return unwrap(torch.load(path, map_location="cpu", weights_only=not unsafe))
    except ValueError as error:
        raise CommandError(f"{path}: {error}") from error
    except (ImportError, AttributeError) as error:
        raise CommandError(
            f"{path} holds objects of a library that is not here: {_detail(error)}"
        ) from error
    except Exception as error:  # what a damaged file raises depends on where it is damaged
        foreign = re.match(r".*?(?:GLOBAL|class|function) ([\w.]+)", _detail(error))
        if isinstance(error, pickle.UnpicklingError) and foreign:
            raise CommandError(
                f"{path} holds more than tensors and plain data, {foreign[1]}, which can run any "
                "program while it is read; --unsafe reads it if you trust where it comes from"
            ) from error
        raise CommandError(
            f"{path} is not a checkpoint of PyTorch, or is cut short: "
            f"{type(error).__name__} {_detail(error)[:120]}".rstrip()
        ) from error


def _detail(error: Exception) -> str:
    """The first sentence of an error of `torch.load`, without advice on calling it."""
    _, _, detail = str(error).rpartition("WeightsUnpickler error: ")
    return detail.partition("\n")[0].partition(". ")[0].strip()


def _target(model: str, path: str | None) -> tuple[Mapping[str, Tensor] | None, str, str]:
    """The tensors of a config's model, the config, and the name of Mask2Former's head in it.

    Without the libraries that build it: None, the reason, and the name in mmseg.
    """
    default, libraries = DEFAULTS[model]
    for library in (
        "mmengine",
        "mmcv",
        *([] if path else [f"{name}.models" for name in libraries]),
    ):
        try:
            with quiet():
                importlib.import_module(library)
        except ImportError as error:
            return None, f"{library.split('.')[0]} cannot be imported ({error})", "decode_head"
    from _config import load_config

    path = path or str(CONFIGS / default)
    config = load_config(path, [])
    from _models import build

    with explained(f"cannot build the model of {path}"):
        target = build(config).state_dict()
    head = "panoptic_head" if config.model.get("panoptic_head") else "decode_head"
    return target, path, head


def _report(contents: Contents, conversion: Conversion) -> None:
    """Prints what was found in the file and what became of it."""
    where = f"under {contents.container!r}" if contents.container else "without a container"
    prefix = f", {contents.prefix!r} removed from their names" if contents.prefix else ""
    print(f"read {len(contents.state_dict)} tensors {where}{prefix}")
    if contents.left_out:
        print(f"not kept from the file: {', '.join(contents.left_out)}")
    kept = len(conversion.state_dict) - len(conversion.added)
    print(f"mapped {kept} tensors, {len(conversion.renamed)} of them renamed")
    kinds = {_pattern(old): f"  {old} -> {new}" for old, new in conversion.renamed.items()}
    for example in list(kinds.values())[:: max(1, len(kinds) // 8)]:
        print(example)
    for reason in dict.fromkeys(conversion.left_out.values()):
        print(f"left out, {reason}:")
        names = [name for name, why in conversion.left_out.items() if why == reason]
        _print_some((f"  {name}" for name in names), 4, "tensors")
    if conversion.added:
        print(f"added {len(conversion.added)} counters of norms, num_batches_tracked = 0")


def _fitted(
    state_dict: Mapping[str, Tensor], target: Mapping[str, Tensor], drop_unexpected: bool
) -> Mapping[str, Tensor]:
    """The tensors that the model has, in its order; prints the differences.

    Raises:
        ValueError: if one is missing or has another shape, or is left over.
    """
    found = compare(state_dict, target)
    differences = {
        "missing": [f"{name} {shape}" for name, shape in found.missing.items()],
        "of another shape": [f"{name} {a}, not {b}" for name, (a, b) in found.mismatched.items()],
        "unexpected": found.unexpected,
    }
    for what, lines in differences.items():
        print(f"{what}: {len(lines)}")
        _print_some((f"  {line}" for line in lines), 8, "tensors")
    problem = None
    if found.mismatched:
        name, (here, there) = next(iter(found.mismatched.items()))
        problem = f"{name} has the shape {here}, in the model it is {there}"
    elif found.missing:
        name, shape = next(iter(found.missing.items()))
        problem = f"{name}, of shape {shape} in the model, is missing"
    elif found.unexpected and not drop_unexpected:
        problem = (
            f"the model has no {found.unexpected[0]} of shape "
            f"{tuple(state_dict[found.unexpected[0]].shape)} (--drop-unexpected leaves it out)"
        )
    if problem:
        count = sum(map(len, differences.values())) - 1
        others = f", and {count} more differ" if count else ""
        raise ValueError(f"{problem}{others}")
    return {name: state_dict[name] for name in target}


def _pattern(name: str) -> str:
    """A name without its numbers and its last part, to show one example of every kind."""
    return re.sub(r"\d+", "*", name.rpartition(".")[0])


def _print_some(lines: Iterable[str], most: int, what: str) -> None:
    lines = list(lines)
    for line in lines[:most]:
        print(line)
    if len(lines) > most:
        print(f"  and {len(lines) - most} more {what}")


def _write(checkpoint: dict[str, Any], destination: Path) -> None:
    """Writes a file that is either complete or not there."""
    with explained(f"cannot write {destination}"):
        handle, temporary = tempfile.mkstemp(
            prefix=f".{destination.name}.", suffix=".part", dir=destination.parent
        )
    try:
        with explained(f"cannot write {destination}"), os.fdopen(handle, "wb") as file:
            torch.save(checkpoint, file)
            file.flush()
            os.fsync(file.fileno())
        _check_destination(destination)
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(temporary, 0o666 & ~mask)
        os.replace(temporary, destination)
    finally:
        Path(temporary).unlink(missing_ok=True)


if __name__ == "__main__":
    sys.exit(main())
