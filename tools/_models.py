"""Models of configs without their weights, random batches for them, and what they cost."""

from __future__ import annotations

import copy
import itertools
from typing import Any, NamedTuple

import torch
from _cli import explained, quiet
from _config import find
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


def build(config: Any) -> nn.Module:
    """Returns the model of a config with random weights: nothing is downloaded."""
    from mmengine.model import revert_sync_batchnorm
    from mmengine.registry import MODELS, init_default_scope

    init_default_scope(config.get("default_scope", "mmengine"))
    model = copy.deepcopy(config.model)
    forget_weights(model)
    with quiet():
        model = MODELS.build(model)
        model.init_weights()
    return revert_sync_batchnorm(model)


def trained(config: Any, checkpoint: str) -> nn.Module:
    """Returns the model of a config with the weights of a checkpoint, on the CPU, to evaluate.

    Raises:
        CommandError: if it cannot be built, or the weights are not exactly its own.
    """
    from mmengine.runner import load_checkpoint

    with quiet(), explained(f"cannot load {checkpoint}"):
        model = build(config)
        load_checkpoint(model, checkpoint, map_location="cpu", strict=True)
    return model.eval()


def random_batch(config: Any, size: tuple[int, int], images: int = 2) -> dict:
    """Random images (height, width) with labels, as a dataloader of the config would give them."""
    torch.manual_seed(0)
    classes = [find(config.model, name) for name in ("num_classes", "num_things_classes")]
    fewest = min((10, *filter(None, itertools.chain(*classes))))
    if config.default_scope == "mmdet":
        from mmdet.testing import demo_mm_inputs

        batch = demo_mm_inputs(images, (3, *size), with_mask=True, with_semantic=True)
        for sample in batch["data_samples"]:
            sample.gt_instances.labels %= fewest
            sample.gt_sem_seg.sem_seg %= fewest
        return batch
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    shapes = {"img_shape": size, "ori_shape": size, "pad_shape": size}
    samples = []
    for _ in range(images):
        sample = SegDataSample(metainfo={**shapes, "scale_factor": (1.0, 1.0), "flip": False})
        sample.gt_sem_seg = PixelData(data=torch.randint(0, fewest, (1, *size)))
        samples.append(sample)
    inputs = [torch.randint(0, 256, (3, *size), dtype=torch.uint8) for _ in range(images)]
    return {"inputs": inputs, "data_samples": samples}


def at_size(config: Any, size: tuple[int, int]) -> Any:
    """Returns a copy of a config whose model takes images of `size` as they are."""
    config = copy.deepcopy(config)
    model = config.model
    preprocessor = model.get("data_preprocessor", {})
    if "size" in preprocessor:
        preprocessor.size = size
    preprocessor.pop("batch_augments", None)  # may pad to a size of their own
    if model.get("test_cfg", {}).get("mode") == "slide":
        model.test_cfg = {"mode": "whole"}
    return config


class Cost(NamedTuple):
    """Of a model: parameters, and floating point operations of one image (a product is two)."""

    parameters: int
    flops: int


def cost(config: Any, size: tuple[int, int]) -> Cost:
    """Counts a forward pass over one image (height, width), operators of this package included."""
    model = build(at_size(config, size)).eval()
    batch = model.data_preprocessor(random_batch(config, size, images=1))
    mode = "predict" if config.default_scope == "mmseg" else "tensor"  # Mask2Former has no other
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(batch["inputs"], batch["data_samples"], mode=mode)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return Cost(parameters, counter.get_total_flops())


def mmengine_flops(config: Any, size: tuple[int, int]) -> float:
    """What `mmengine.analysis` counts of the same forward pass, a multiply-add as one."""
    from mmengine.analysis import FlopAnalyzer

    model = build(at_size(config, size)).eval()
    batch = model.data_preprocessor(random_batch(config, size, images=1))
    forward, samples = model.forward, batch["data_samples"]
    model.forward = lambda inputs: forward(inputs, samples, mode="tensor")
    analyzer = FlopAnalyzer(model, (batch["inputs"],))
    analyzer.unsupported_ops_warnings(False)
    analyzer.uncalled_modules_warnings(False)
    return analyzer.total()


def forget_weights(node: Any) -> None:
    """Takes the checkpoints that would be downloaded out of a part of a config."""
    if isinstance(node, dict):
        for key, value in node.items():
            if key == "pretrained" or (
                isinstance(value, dict) and value.get("type") == "Pretrained"
            ):
                node[key] = None
            forget_weights(value)
    elif isinstance(node, (list, tuple)):
        for value in node:
            forget_weights(value)
