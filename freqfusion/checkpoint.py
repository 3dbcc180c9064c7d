"""Checkpoints of the published models under the names that this package and OpenMMLab use.

The authors trained with mmseg 0.x (SegNeXt), mmdet 2.x (detectors) and detectron2 (Mask2Former);
the configs of this package are for mmseg 1.x and mmdet 3.x. The differences are tables of rules
here, applied by `convert`. Nothing here needs those libraries; ``tools/convert_checkpoint.py`` is
the command, and checks the result against the model of a config.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

Rules = tuple[tuple[str, str], ...]  # pattern and replacement, applied one after the other

LEGACY: Rules = (
    (r"(^|\.)dysampler\.(hr_)?(?:scope|sim_direct)\.", r"\1dysampler.\2direct_scale."),
)

SEGNEXT: Rules = ((r"^(backbone\.block\d\.\d+\.mlp\.dwconv)\.dwconv\.", r"\1."),)

# detectron2 -> mmdet. Its layers begin with cross-attention: the norm after it is norms.0.
MASK2FORMER: Rules = (
    # ResNet
    (r"^backbone\.stem\.", "backbone."),
    *((rf"^backbone\.res{stage + 1}\.", f"backbone.layer{stage}.") for stage in (1, 2, 3, 4)),
    (r"^(backbone\..*)\bconv(\d)\.norm\.", r"\1bn\2."),
    (r"^(backbone\..*)\bshortcut\.norm\.", r"\1downsample.1."),
    (r"^(backbone\..*)\bshortcut\.", r"\1downsample.0."),
    # Swin
    (r"^backbone\.patch_embed\.proj\.", "backbone.patch_embed.projection."),
    (r"^backbone\.layers\.", "backbone.stages."),
    (r"^(backbone\.stages\..*)\.attn\.", r"\1.attn.w_msa."),
    (r"^(backbone\.stages\..*)\.mlp\.fc1\.", r"\1.ffn.layers.0.0."),
    (r"^(backbone\.stages\..*)\.mlp\.fc2\.", r"\1.ffn.layers.1."),
    # pixel decoder; level 0 is the deepest in both
    (r"\.pixel_decoder\.input_proj\.(\d)\.0\.", r".pixel_decoder.input_convs.\1.conv."),
    (r"\.pixel_decoder\.input_proj\.(\d)\.1\.", r".pixel_decoder.input_convs.\1.gn."),
    (r"\.pixel_decoder\.transformer\.level_embed$", ".pixel_decoder.level_encoding.weight"),
    (r"\.pixel_decoder\.transformer\.encoder\.", ".pixel_decoder.encoder."),
    (r"(\.encoder\.layers\.\d+)\.norm1\.", r"\1.norms.0."),
    (r"(\.encoder\.layers\.\d+)\.norm2\.", r"\1.norms.1."),
    (r"(\.encoder\.layers\.\d+)\.linear1\.", r"\1.ffn.layers.0.0."),
    (r"(\.encoder\.layers\.\d+)\.linear2\.", r"\1.ffn.layers.1."),
    (r"\.pixel_decoder\.adapter_1\.norm\.", ".pixel_decoder.lateral_convs.0.gn."),
    (r"\.pixel_decoder\.adapter_1\.", ".pixel_decoder.lateral_convs.0.conv."),
    (r"\.pixel_decoder\.layer_1\.norm\.", ".pixel_decoder.output_convs.0.gn."),
    (r"\.pixel_decoder\.layer_1\.", ".pixel_decoder.output_convs.0.conv."),
    (r"\.pixel_decoder\.mask_features\.", ".pixel_decoder.mask_feature."),
    # transformer decoder
    (r"^(sem_seg_head)\.predictor\.", r"\1."),
    (r"\.transformer_(cross|self|ffn)(?:_attention)?_layers\.", r".transformer_decoder.\1."),
    (r"\.transformer_decoder\.cross\.(\d+)\.norm\.", r".transformer_decoder.layers.\1.norms.0."),
    (r"\.transformer_decoder\.self\.(\d+)\.norm\.", r".transformer_decoder.layers.\1.norms.1."),
    (r"\.transformer_decoder\.ffn\.(\d+)\.norm\.", r".transformer_decoder.layers.\1.norms.2."),
    (
        r"\.transformer_decoder\.(cross|self)\.(\d+)\.(?:multihead|self)_attn\.",
        r".transformer_decoder.layers.\2.\1_attn.attn.",
    ),
    (
        r"\.transformer_decoder\.ffn\.(\d+)\.linear1\.",
        r".transformer_decoder.layers.\1.ffn.layers.0.0.",
    ),
    (
        r"\.transformer_decoder\.ffn\.(\d+)\.linear2\.",
        r".transformer_decoder.layers.\1.ffn.layers.1.",
    ),
    (r"\.decoder_norm\.", ".transformer_decoder.post_norm."),
    (r"^(sem_seg_head)\.input_proj\.", r"\1.decoder_input_projs."),
    (r"\.class_embed\.", ".cls_embed."),
    *((rf"\.mask_embed\.layers\.{layer}\.", f".mask_embed.{2 * layer}.") for layer in (0, 1, 2)),
)


class Family(NamedTuple):
    """What is known of the checkpoints of one published model.

    Attributes:
        rules: how its names differ.
        parts: beginnings of names, each of which such a checkpoint has.
        fusions: where the fusions are.
        used: how many of them its model uses; the reference built one more in some models.
    """

    rules: Rules
    parts: tuple[str, ...]
    fusions: str
    used: int


FAMILIES = {
    "segnext": Family(SEGNEXT, ("decode_head.freqfusions.",), "decode_head.freqfusions.", 2),
    "faster-rcnn": Family((), ("neck.alignment.",), "neck.alignment.", 4),
    "mask-rcnn": Family((), ("neck.alignment.", "roi_head.mask_head."), "neck.alignment.", 4),
    "panoptic-fpn": Family((), ("neck.alignment.", "semantic_head."), "neck.alignment.", 4),
    "mask2former": Family(
        MASK2FORMER,
        ("sem_seg_head.pixel_decoder.", "sem_seg_head.predictor."),
        "sem_seg_head.pixel_decoder.freqfusions.",
        3,
    ),
}

LEFT_OUT = {
    r"^ema_": "mmcv's EMA hook swaps before it saves: the plain names hold the averaged weights",
    r"^criterion\.": "class weights of the loss, which are in the config",
    r"^pixel_(?:mean|std)$": "part of the data preprocessor in the config",
}


class Contents(NamedTuple):
    """What a checkpoint file holds.

    Attributes:
        state_dict: tensors by their names, without the prefixes of wrappers.
        meta: what is plain data in the file's ``meta``.
        container: key of the file that the tensors were under; "" without one.
        prefix: prefix that was removed from every name, such as "module.".
        left_out: keys of the file and of its ``meta`` that are not kept, such as "optimizer".
    """

    state_dict: dict[str, Tensor]
    meta: dict[str, Any]
    container: str
    prefix: str
    left_out: list[str]


class Conversion(NamedTuple):
    """What `convert` returns.

    Attributes:
        state_dict: tensors by their new names.
        renamed: new names by the old ones, where they differ.
        left_out: reasons by the old names of the tensors that have no place in the model.
        added: new names of counters that detectron2's frozen norms lack; they are zero.
    """

    state_dict: dict[str, Tensor]
    renamed: dict[str, str]
    left_out: dict[str, str]
    added: list[str]


class Differences(NamedTuple):
    """What `compare` returns; all empty if a checkpoint fits.

    Attributes:
        missing: shapes of the model's tensors that the checkpoint lacks.
        mismatched: shape in the checkpoint and in the model.
        unexpected: names that the model does not have.
    """

    missing: dict[str, tuple[int, ...]]
    mismatched: dict[str, tuple[tuple[int, ...], tuple[int, ...]]]
    unexpected: list[str]


def unwrap(checkpoint: Any) -> Contents:
    """Finds the tensors in what `torch.load` returned.

    They may be under ``state_dict`` (mmengine, mmcv) or ``model`` (detectron2), or be the file
    itself; every ``module.`` in front of all names (DistributedDataParallel) is removed. With
    mmengine's EMA hook, too, ``state_dict`` holds the averaged weights.

    Args:
        checkpoint: contents of the file.

    Returns:
        The tensors, and what else is kept and not kept.

    Raises:
        ValueError: if there are no tensors, or other things among them.

    Example:
        >>> found = unwrap({"model": {"module.a": torch.ones(2)}, "optimizer": {}})
        >>> list(found.state_dict), found.container, found.prefix, found.left_out
        (['a'], 'model', 'module.', ['optimizer'])
    """
    if not isinstance(checkpoint, Mapping):
        raise ValueError(f"checkpoint must be a dict, got {_type_name(checkpoint)}")
    keys = [key for key in ("state_dict", "model") if isinstance(checkpoint.get(key), Mapping)]
    container = keys[0] if keys else ""
    state = checkpoint[container] if container else checkpoint
    for name, value in state.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            where = f"checkpoint[{container!r}]" if container else "checkpoint"
            raise ValueError(
                f"{where} must hold tensors by their names, got {_type_name(value)} for {name!r}"
            )
    if not state:
        raise ValueError("checkpoint must hold tensors, got none")
    prefix = ""
    names = [name for name in state if not name.startswith("ema_")]
    while names and all(name.startswith(f"{prefix}module.") for name in names):
        prefix += "module."
    left_out = [str(key) for key in checkpoint if container and key not in (container, "meta")]
    meta = {}
    found = checkpoint.get("meta") if container else None
    for key, value in found.items() if isinstance(found, Mapping) else ():
        try:
            meta[str(key)] = _plain(value)
        except TypeError:
            left_out.append(f"meta[{key!r}]")
    state = {name.removeprefix(prefix): value for name, value in state.items()}
    return Contents(state, meta, container, prefix, left_out)


def rename_legacy_keys(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Renames the gates of the offset generator, which had other names in some releases.

    Args:
        state_dict: tensors of a layer, a neck or a model.

    Returns:
        A new dict, in which ``scope`` and ``sim_direct`` are ``direct_scale``, and so with ``hr_``
        in front.

    Raises:
        ValueError: if two tensors would get one name.

    Example:
        >>> list(rename_legacy_keys({"alignment.0.dysampler.hr_scope.bias": torch.zeros(8)}))
        ['alignment.0.dysampler.hr_direct_scale.bias']
    """
    return _take(state_dict, _renamed(state_dict, LEGACY))


def convert(state_dict: Mapping[str, Tensor], model: str, head: str = "decode_head") -> Conversion:
    """Converts the tensors of a published checkpoint to the names of mmseg 1.x and mmdet 3.x.

    Most only change their names. The merging layers of a Swin backbone also change the order of
    their inputs, as detectron2's and mmdet's collect the four pixels of a patch differently.

    Args:
        state_dict: tensors of the checkpoint, without ``module.``; see `unwrap`.
        model: one of `FAMILIES`.
        head: name of Mask2Former's head in the model: "decode_head" (mmseg) or "panoptic_head"
            (mmdet).

    Returns:
        The tensors, which are not copied, and what was done.

    Raises:
        ValueError: if `model` is unknown, `state_dict` is of another model, or two tensors would
            get one name.

    Example:
        >>> state = {"neck.alignment.0.dysampler.scope.bias": torch.zeros(32)}
        >>> convert(state, "faster-rcnn").renamed["neck.alignment.0.dysampler.scope.bias"]
        'neck.alignment.0.dysampler.direct_scale.bias'
    """
    if model not in FAMILIES:
        raise ValueError(f"model must be one of {', '.join(FAMILIES)}, got {model!r}")
    family = FAMILIES[model]
    for part in family.parts:
        if not any(name.startswith(part) for name in state_dict):
            raise ValueError(
                f"state_dict must be of {model}, with names that begin with {part!r}, "
                f"got names that begin with {_beginnings(state_dict)}"
            )
    left_out = {name: why for name in state_dict if (why := _why_left_out(name, family))}
    kept = {name: value for name, value in state_dict.items() if name not in left_out}
    rules = (*LEGACY, *family.rules, (r"^sem_seg_head\.", f"{head}."))
    names = _renamed(kept, rules)
    converted = _take(kept, names)
    if model == "mask2former":
        for name, value in converted.items():
            if re.match(r"backbone\.stages\.\d+\.downsample\.", name):
                converted[name] = _reorder_patch(name, value)
    added = []
    for name in [name for name in converted if name.endswith(".running_var")]:
        counter = f"{name.removesuffix('running_var')}num_batches_tracked"
        if counter not in converted:
            converted[counter] = torch.zeros((), dtype=torch.long)
            added.append(counter)
    renamed = {old: new for old, new in names.items() if old != new}
    return Conversion(converted, renamed, left_out, added)


def compare(state_dict: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> Differences:
    """Compares the names and shapes of a checkpoint with those of a model.

    Args:
        state_dict: tensors of the checkpoint.
        target: `state_dict()` of the model.

    Returns:
        The differences; all empty if the checkpoint fits.

    Example:
        >>> compare({"a": torch.ones(2), "b": torch.ones(1)}, {"a": torch.ones(3)})
        Differences(missing={}, mismatched={'a': ((2,), (3,))}, unexpected=['b'])
    """
    missing = {name: tuple(t.shape) for name, t in target.items() if name not in state_dict}
    mismatched = {
        name: (tuple(value.shape), tuple(target[name].shape))
        for name, value in state_dict.items()
        if name in target and value.shape != target[name].shape
    }
    return Differences(missing, mismatched, [name for name in state_dict if name not in target])


def _renamed(names: Iterable[str], rules: Rules) -> dict[str, str]:
    """New names by the old ones."""
    result = {}
    for old in names:
        new = old
        for pattern, replacement in rules:
            new = re.sub(pattern, replacement, new)
        result[old] = new
    return result


def _take(state_dict: Mapping[str, Tensor], names: dict[str, str]) -> dict[str, Tensor]:
    sources: dict[str, str] = {}
    for old, new in names.items():
        if new in sources:
            raise ValueError(
                f"state_dict must have one tensor for {new}, got {sources[new]} and {old}"
            )
        sources[new] = old
    return {new: state_dict[old] for new, old in sources.items()}


def _why_left_out(name: str, family: Family) -> str | None:
    """The reason why a tensor has no place in the model; None if it has one."""
    for pattern, reason in LEFT_OUT.items():
        if re.search(pattern, name):
            return reason
    fusion = re.match(rf"{re.escape(family.fusions)}(\d+)\.", name)
    if fusion and int(fusion[1]) >= family.used:
        return f"a fusion that the reference built and never used; the model has {family.used}"
    return None


def _reorder_patch(name: str, value: Tensor) -> Tensor:
    """From four pixels (down, then right) of all channels to channels of four pixels, row-major."""
    if value.shape[-1] % 4:
        raise ValueError(f"{name} must have 4 * C inputs, got the shape {tuple(value.shape)}")
    pixels = value.unflatten(-1, (4, -1))[..., [0, 2, 1, 3], :]
    return pixels.transpose(-1, -2).flatten(-2)


def _plain(value: Any) -> Any:
    """Rebuilds what consists of numbers, strings, lists and dicts; TypeError for the rest."""
    if value is None or type(value) in (bool, int, float, str):
        return value
    if type(value) in (list, tuple):
        return type(value)(_plain(item) for item in value)
    if isinstance(value, Mapping):
        return {_plain(key): _plain(item) for key, item in value.items()}
    raise TypeError(f"value must be plain data, got {_type_name(value)}")


def _beginnings(state_dict: Mapping[str, Tensor]) -> str:
    names = dict.fromkeys(".".join(name.split(".")[:2]) for name in state_dict)
    return ", ".join([*list(names)[:4], *(["..."] if len(names) > 4 else [])])


def _type_name(value: Any) -> str:
    return type(value).__name__
