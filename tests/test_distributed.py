"""Training in two processes: as one process does with all images, and no parameter is unused."""

import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from processes import in_two_processes
from torch.nn.parallel import DistributedDataParallel

ROOT = Path(__file__).parents[1]
GROUP_NORM = dict(type="GN", num_groups=8, requires_grad=True)
STEPS = 5


def segmentor():
    """Without batch norms, whose statistics are of one process, and without dropout."""
    config = load("scenes/fpn-freqfusion_r18_1xb4-800_scenes-128x256.py")
    config.model.backbone.norm_cfg = config.model.decode_head.norm_cfg = GROUP_NORM
    config.model.decode_head.dropout_ratio = 0
    return config


def detector():
    """GFL, which samples nothing at random and divides its losses by counts of all processes."""
    config = load("coco/gfl_r50_fpn-freqfusion_1x_coco.py")
    config.model.backbone.depth = 18
    config.model.neck.in_channels = [64, 128, 256, 512]
    config.model.neck.out_channels = config.model.bbox_head.in_channels = 64
    config.model.bbox_head.feat_channels = 64
    return config  # norms of the backbone are frozen in eval mode


def load(name):
    sys.path.insert(0, str(ROOT / "tools"))
    from _config import load_config

    return load_config(str(ROOT / "mm_configs" / name), [])


def train(make_config, model_wrapper, images):
    """Parameters after a few steps of SGD on some of two images."""
    config = make_config()
    from _models import at_size, build, random_batch

    torch.manual_seed(0)
    model = build(at_size(config, (64, 64))).train().double()  # so that rounding does not grow
    if make_config is detector:
        # GFL divides its losses by a sum of scores, or by 1 if that is less: it shall be more
        torch.nn.init.zeros_(model.bbox_head.gfl_cls.bias)
    wrapped = model_wrapper(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.003, momentum=0.9)
    before = [p.detach().clone() for p in model.parameters()]
    for _ in range(STEPS):
        batch = random_batch(config, (64, 64))
        batch = {name: [values[i] for i in images] for name, values in batch.items()}
        batch = model.data_preprocessor(batch, True)
        losses = wrapped(batch["inputs"].double(), batch["data_samples"], mode="loss")
        loss, _ = model.parse_losses(losses)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return before, [p.detach() for p in model.parameters()]


def train_one_of_two(rank, make_config, path):
    _, parameters = train(make_config, DistributedDataParallel, [rank])
    if rank == 0:
        torch.save(parameters, path)


# mmdet averages the counts of positives over processes in float32
@pytest.mark.parametrize("make_config, tolerance", [(segmentor, 1e-9), (detector, 1e-6)])
def test_two_processes_train_as_one(make_config, tolerance, tmp_path):
    pytest.importorskip("mmseg" if make_config is segmentor else "mmdet.models")
    before, expected = train(make_config, lambda model: model, [0, 1])
    path = tmp_path / "parameters.pt"
    in_two_processes(train_one_of_two, make_config, path)
    moved = 0
    for start, one, two in zip(before, expected, torch.load(path), strict=True):
        assert (one - two).abs().max() <= tolerance
        moved = max(moved, float((one - start).abs().max()))
    assert moved > 1e-2  # or equality would mean nothing


NECKS = [
    dict(type="FreqFusionFPN", num_outs=4),
    dict(type="FreqFusionFPN", num_outs=5, add_extra_convs="on_input", start_level=1),
    dict(type="FreqFusionFPN", num_outs=5, add_extra_convs="on_input"),
    dict(type="FreqFusionFPN", num_outs=5, add_extra_convs="on_lateral"),
    dict(type="FreqFusionFPN", num_outs=6, add_extra_convs="on_output"),
    dict(type="FreqFusionFPN", num_outs=2, start_level=1, end_level=2),
    dict(type="FreqFusionFPN", num_outs=4, feature_resample=False),
    dict(type="FreqFusionCARAFEFPN", num_outs=4),
    dict(type="FreqFusionCARAFEFPN", num_outs=5),
]


PEERS = ["Nearest", "Bilinear", "CARAFE", "DySample", "SAPA", "FADE"]


def train_necks(rank):
    """Two steps of DDP for each neck; the second fails if a parameter had no gradient before."""
    from mmengine.registry import MODELS

    import freqfusion.integrations.openmmlab  # noqa: F401

    channels = [8, 16, 24, 32]
    peers = [dict(type="FreqFusionFPN", num_outs=4, fusion=dict(type=peer)) for peer in PEERS]
    for config in NECKS + peers:
        torch.manual_seed(rank)
        model = MODELS.build(dict(in_channels=channels, out_channels=32, **config))
        model = DistributedDataParallel(model)
        for _ in range(2):
            feats = [torch.randn(1, c, 64 >> i, 64 >> i) for i, c in enumerate(channels)]
            sum(out.square().mean() for out in model(feats)).backward()
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None, (config, name)
            other = parameter.grad.clone()
            dist.broadcast(other, src=0)
            torch.testing.assert_close(parameter.grad, other)


def test_no_neck_has_unused_parameters():
    pytest.importorskip("mmcv")
    in_two_processes(train_necks)
