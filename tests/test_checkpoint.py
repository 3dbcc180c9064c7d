"""Checkpoints in the authors' layouts, written by hand, through the command that converts them."""

import importlib
import importlib.util
import pickle
import re
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from freqfusion import FreqFusionCARAFEFPN, FreqFusionConcat
from freqfusion.checkpoint import compare, convert, rename_legacy_keys, unwrap

ROOT = Path(__file__).parents[1]
TOOLS = ROOT / "tools"


def needs(*modules):
    missing = [m for m in modules if importlib.util.find_spec(m) is None]
    return pytest.mark.skipif(bool(missing), reason=f"{' and '.join(missing)} not installed")


needs_mmseg = needs("mmengine", "mmcv", "mmseg")
needs_mmdet = needs("mmengine", "mmcv", "mmcv._ext", "mmdet")
needs_both = needs("mmengine", "mmcv", "mmcv._ext", "mmseg", "mmdet")


@pytest.fixture
def cli(monkeypatch, capsys, tmp_path):
    """Runs the command: (exit code, output, error) of ``convert SRC DST ...``, SRC as a dict."""
    monkeypatch.syspath_prepend(str(TOOLS))
    tool = importlib.import_module("convert_checkpoint")

    def run(source, *arguments, destination="out.pth"):
        path = tmp_path / "source.pth"
        if isinstance(source, dict):
            save(source, path)
        elif isinstance(source, bytes):
            path.write_bytes(source)
        argv = ["convert_checkpoint.py", path, tmp_path / destination, *arguments]
        monkeypatch.setattr(sys, "argv", list(map(str, argv)))
        with default_scope_restored():
            code = tool.main()
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def save(checkpoint, path, **options):
    """`torch.save`, with plain dicts for layouts."""
    plain = {k: dict(v) if isinstance(v, Layout) else v for k, v in checkpoint.items()}
    torch.save(plain, path, **options)


def default_scope_restored():
    if importlib.util.find_spec("mmengine") is None:
        return nullcontext()
    from mmengine.registry import DefaultScope

    return DefaultScope.overwrite_default_scope("mmengine")


def one_sentence(result, *parts):
    """Checks that a command ended with exit code 2 and one line that has all of `parts`."""
    code, _, error = result
    assert code == 2
    assert error.startswith("convert_checkpoint.py: ")
    assert error.count("\n") == 1 and "Traceback" not in error, error
    for part in parts:
        assert part in error, error


# The authors' layouts, written down by hand: names and shapes, filled with random numbers.


class Layout(dict):
    """A state dict that is filled part by part."""

    def add(self, name, *shape):
        self[name] = torch.randn(shape, generator=self.generator)

    def __init__(self):
        super().__init__()
        self.generator = torch.Generator().manual_seed(0)

    def conv(self, name, outs, ins, *kernel, bias=True):
        self.add(f"{name}.weight", outs, ins, *kernel)
        if bias:
            self.add(f"{name}.bias", outs)

    def norm(self, name, channels):
        self.add(f"{name}.weight", channels)
        self.add(f"{name}.bias", channels)

    def batch_norm(self, name, channels, counter=True):
        self.norm(name, channels)
        self.add(f"{name}.running_mean", channels)
        self.add(f"{name}.running_var", channels)
        if counter:
            self[f"{name}.num_batches_tracked"] = torch.tensor(7)

    def fusion(self, name, hr, lr, channels, groups=4, sim=False, norm=True, gate="direct_scale"):
        """A FreqFusion layer without Hamming windows, as section 4 of the specification has it."""
        self[f"{name}.hamming_lowpass"] = self[f"{name}.hamming_highpass"] = torch.ones(1)
        self.conv(f"{name}.hr_channel_compressor", channels, hr, 1, 1)
        self.conv(f"{name}.lr_channel_compressor", channels, lr, 1, 1)
        self.conv(f"{name}.content_encoder", 25, channels, 3, 3)
        self.conv(f"{name}.content_encoder2", 9, channels, 3, 3)
        name = f"{name}.dysampler"
        offset_in, gate_in = (8, channels) if sim else (channels + 8, channels + 8)
        self.add(f"{name}.init_pos", 1, 8 * groups, 1, 1)
        self.conv(f"{name}.offset", 8 * groups, offset_in, 3, 3)
        self.conv(f"{name}.hr_offset", 2 * groups, offset_in, 3, 3)
        self.conv(f"{name}.{gate}", 8 * groups, gate_in, 3, 3)
        self.conv(f"{name}.hr_{gate}", 2 * groups, gate_in, 3, 3)
        if norm:
            self.norm(f"{name}.norm_hr", channels)
            self.norm(f"{name}.norm_lr", channels)


def mmdet2_resnet18(layout, width):
    """ResNet-18 of mmdet 2.x whose first stage has `width` channels."""
    layout.conv("backbone.conv1", width, 3, 7, 7, bias=False)
    layout.batch_norm("backbone.bn1", width)
    ins = width
    for stage, outs in enumerate([width, 2 * width, 4 * width, 8 * width], 1):
        for block in (0, 1):
            name = f"backbone.layer{stage}.{block}"
            layout.conv(f"{name}.conv1", outs, ins, 3, 3, bias=False)
            layout.batch_norm(f"{name}.bn1", outs)
            layout.conv(f"{name}.conv2", outs, outs, 3, 3, bias=False)
            layout.batch_norm(f"{name}.bn2", outs)
            if ins != outs:
                layout.conv(f"{name}.downsample.0", outs, ins, 1, 1, bias=False)
                layout.batch_norm(f"{name}.downsample.1", outs)
            ins = outs


def mmdet2_faster_rcnn(neck):
    """Faster R-CNN of mmdet 2.x: 5 classes, 32 channels, fully-connected layers of 16."""
    layout = Layout()
    mmdet2_resnet18(layout, 4)
    layout.update({f"neck.{name}": value for name, value in neck.items()})
    layout.conv("rpn_head.rpn_conv", 32, 32, 3, 3)
    layout.conv("rpn_head.rpn_cls", 3, 32, 1, 1)
    layout.conv("rpn_head.rpn_reg", 12, 32, 1, 1)
    layout.conv("roi_head.bbox_head.fc_cls", 6, 16)
    layout.conv("roi_head.bbox_head.fc_reg", 20, 16)
    layout.conv("roi_head.bbox_head.shared_fcs.0", 16, 32 * 7 * 7)
    layout.conv("roi_head.bbox_head.shared_fcs.1", 16, 16)
    return layout


FASTER_RCNN = """
_base_ = "mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py"
custom_imports = dict(imports=["freqfusion.integrations.openmmlab"], allow_failed_imports=False)
model = dict(
    backbone=dict(depth=18, base_channels=4),
    neck=dict(type="FreqFusionCARAFEFPN", in_channels=[8, 12, 16, 20], out_channels=32),
    rpn_head=dict(in_channels=32, feat_channels=32),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=32),
        bbox_head=dict(in_channels=32, fc_out_channels=16, num_classes=5),
    ),
)
"""


def mmseg0_segnext(fusions):
    """SegNeXt of mmseg 0.x: channels 8, 16, 32, 48, one block each, 5 classes."""
    layout, channels, ins = Layout(), (8, 16, 32, 48), 3
    layout.conv("backbone.patch_embed1.proj.0", 4, 3, 3, 3)
    layout.batch_norm("backbone.patch_embed1.proj.1", 4)
    layout.conv("backbone.patch_embed1.proj.3", 8, 4, 3, 3)
    layout.batch_norm("backbone.patch_embed1.proj.4", 8)
    for stage, width in enumerate(channels, 1):
        if stage > 1:
            layout.conv(f"backbone.patch_embed{stage}.proj", width, ins, 3, 3)
            layout.batch_norm(f"backbone.patch_embed{stage}.norm", width)
        name, ins = f"backbone.block{stage}.0", width
        layout.add(f"{name}.layer_scale_1", width)
        layout.add(f"{name}.layer_scale_2", width)
        layout.batch_norm(f"{name}.norm1", width)
        layout.batch_norm(f"{name}.norm2", width)
        layout.conv(f"{name}.attn.proj_1", width, width, 1, 1)
        layout.conv(f"{name}.attn.proj_2", width, width, 1, 1)
        unit = f"{name}.attn.spatial_gating_unit"
        layout.conv(f"{unit}.conv0", width, 1, 5, 5)
        for i, side in enumerate((7, 11, 21)):
            layout.conv(f"{unit}.conv{i}_1", width, 1, 1, side)
            layout.conv(f"{unit}.conv{i}_2", width, 1, side, 1)
        layout.conv(f"{unit}.conv3", width, width, 1, 1)
        layout.conv(f"{name}.mlp.fc1", 2 * width, width, 1, 1)
        layout.conv(f"{name}.mlp.dwconv.dwconv", 2 * width, 1, 3, 3)
        layout.conv(f"{name}.mlp.fc2", width, 2 * width, 1, 1)
        layout.norm(f"backbone.norm{stage}", width)
    for name, outs, ins, norm in (
        ("squeeze", 32, 96, True),
        ("hamburger.ham_in", 32, 32, False),
        ("hamburger.ham_out", 32, 32, True),
        ("align", 32, 32, True),
    ):
        layout.conv(f"decode_head.{name}.conv", outs, ins, 1, 1, bias=not norm)
        if norm:
            layout.norm(f"decode_head.{name}.gn", outs)
    layout.conv("decode_head.conv_seg", 5, 32, 1, 1)
    layout.update({f"decode_head.{name}": value for name, value in fusions.items()})
    return layout


SEGNEXT = """
_base_ = "mmseg::segnext/segnext_mscan-t_1xb16-adamw-160k_ade20k-512x512.py"
custom_imports = dict(imports=["freqfusion.integrations.openmmlab"], allow_failed_imports=False)
model = dict(
    backbone=dict(embed_dims=[8, 16, 32, 48], depths=[1, 1, 1, 1], mlp_ratios=[2, 2, 2, 2]),
    decode_head=dict(
        type="FreqFusionHamHead",
        in_channels=[16, 32, 48], channels=32, ham_channels=32, num_classes=5,
    ),
)
"""


def detectron2_resnet50(layout, width):
    """ResNet-50 of detectron2 with frozen norms, which count no batches."""
    layout.conv("backbone.stem.conv1", width, 3, 7, 7, bias=False)
    layout.batch_norm("backbone.stem.conv1.norm", width, counter=False)
    ins = width
    for stage, blocks in ((2, 3), (3, 4), (4, 6), (5, 3)):
        inner = width * 2 ** (stage - 2)
        for block in range(blocks):
            name = f"backbone.res{stage}.{block}"
            convs = [("conv1", inner, ins, 1), ("conv2", inner, inner, 3)]
            convs += [("conv3", 4 * inner, inner, 1)]
            if block == 0:
                convs += [("shortcut", 4 * inner, ins, 1)]
            for conv, outs, conv_ins, side in convs:
                layout.conv(f"{name}.{conv}", outs, conv_ins, side, side, bias=False)
                layout.batch_norm(f"{name}.{conv}.norm", outs, counter=False)
            ins = 4 * inner


def relative_position_index(window):
    """Row of the bias table for every pair of pixels, from their distances: Swin's definition."""
    pixels = [(y, x) for y in range(window) for x in range(window)]
    span, far = 2 * window - 1, window - 1
    rows = [[(a - c + far) * span + b - d + far for c, d in pixels] for a, b in pixels]
    return torch.tensor(rows)


def detectron2_swin(layout, width, window=4):
    """Swin of detectron2's Mask2Former: two blocks a stage, one head for every 8 channels."""
    layout.conv("backbone.patch_embed.proj", width, 3, 4, 4)
    layout.norm("backbone.patch_embed.norm", width)
    for stage in range(4):
        channels = width * 2**stage
        for block in range(2):
            name = f"backbone.layers.{stage}.blocks.{block}"
            layout.norm(f"{name}.norm1", channels)
            layout.norm(f"{name}.norm2", channels)
            layout.add(
                f"{name}.attn.relative_position_bias_table",
                (2 * window - 1) ** 2,
                channels // 8,
            )
            layout[f"{name}.attn.relative_position_index"] = relative_position_index(window)
            layout.conv(f"{name}.attn.qkv", 3 * channels, channels)
            layout.conv(f"{name}.attn.proj", channels, channels)
            layout.conv(f"{name}.mlp.fc1", 4 * channels, channels)
            layout.conv(f"{name}.mlp.fc2", channels, 4 * channels)
        if stage < 3:
            name = f"backbone.layers.{stage}.downsample"
            layout.conv(f"{name}.reduction", 2 * channels, 4 * channels, bias=False)
            layout.norm(f"{name}.norm", 4 * channels)
        layout.norm(f"backbone.norm{stage}", channels)


def detectron2_mask2former(channels, classes=5):
    """The head: 64 channels, 2 heads, 2 encoder and 3 decoder layers, 7 queries."""
    layout, c = Layout(), 64
    decoder = "sem_seg_head.pixel_decoder"
    for level, ins in enumerate(reversed(channels[1:])):
        layout.conv(f"{decoder}.input_proj.{level}.0", c, ins, 1, 1)
        layout.norm(f"{decoder}.input_proj.{level}.1", c)
    layout.add(f"{decoder}.transformer.level_embed", 3, c)
    for i in range(2):
        name = f"{decoder}.transformer.encoder.layers.{i}"
        layout.conv(f"{name}.self_attn.sampling_offsets", 2 * 3 * 4 * 2, c)
        layout.conv(f"{name}.self_attn.attention_weights", 2 * 3 * 4, c)
        layout.conv(f"{name}.self_attn.value_proj", c, c)
        layout.conv(f"{name}.self_attn.output_proj", c, c)
        layout.norm(f"{name}.norm1", c)
        layout.conv(f"{name}.linear1", 96, c)
        layout.conv(f"{name}.linear2", c, 96)
        layout.norm(f"{name}.norm2", c)
    layout.conv(f"{decoder}.mask_features", c, c, 1, 1)
    layout.conv(f"{decoder}.adapter_1", c, channels[0], 1, 1, bias=False)
    layout.norm(f"{decoder}.adapter_1.norm", c)
    layout.conv(f"{decoder}.layer_1", c, c, 3, 3, bias=False)
    layout.norm(f"{decoder}.layer_1.norm", c)
    for i in range(3):
        layout.fusion(f"{decoder}.freqfusions.{i}", c, c, 64, norm=False, gate="sim_direct")
    predictor = "sem_seg_head.predictor"
    for i in range(3):
        for kind, attention in (("self", "self_attn"), ("cross", "multihead_attn")):
            name = f"{predictor}.transformer_{kind}_attention_layers.{i}"
            layout.add(f"{name}.{attention}.in_proj_weight", 3 * c, c)
            layout.add(f"{name}.{attention}.in_proj_bias", 3 * c)
            layout.conv(f"{name}.{attention}.out_proj", c, c)
            layout.norm(f"{name}.norm", c)
        name = f"{predictor}.transformer_ffn_layers.{i}"
        layout.conv(f"{name}.linear1", 128, c)
        layout.conv(f"{name}.linear2", c, 128)
        layout.norm(f"{name}.norm", c)
        layout.conv(f"{predictor}.mask_embed.layers.{i}", c, c)
    layout.norm(f"{predictor}.decoder_norm", c)
    layout.add(f"{predictor}.query_feat.weight", 7, c)
    layout.add(f"{predictor}.query_embed.weight", 7, c)
    layout.add(f"{predictor}.level_embed.weight", 3, c)
    layout.conv(f"{predictor}.class_embed", classes + 1, c)
    layout.add("criterion.empty_weight", classes + 1)
    return layout


def mask2former_resnet():
    layout = detectron2_mask2former([16, 32, 64, 128])
    detectron2_resnet50(layout, 4)
    return layout


def mask2former_swin():
    layout = detectron2_mask2former([8, 16, 32, 64])
    detectron2_swin(layout, 8)
    return layout


MASK2FORMER = """
_base_ = "{base}"
custom_imports = dict(
    imports=["mmdet.models", "freqfusion.integrations.openmmlab"], allow_failed_imports=False)
attention = dict(embed_dims=64, num_heads=2)
model = dict(
    backbone=dict({backbone}),
    {head}=dict(
        in_channels={channels}, feat_channels=64, out_channels=64, num_queries=7, {classes},
        pixel_decoder=dict(
            type="FreqFusionPixelDecoder",
            encoder=dict(num_layers=2, layer_cfg=dict(
                self_attn_cfg=attention,
                ffn_cfg=dict(embed_dims=64, feedforward_channels=96))),
            positional_encoding=dict(num_feats=32)),
        positional_encoding=dict(num_feats=32),
        transformer_decoder=dict(num_layers=3, layer_cfg=dict(
            self_attn_cfg=attention, cross_attn_cfg=attention,
            ffn_cfg=dict(embed_dims=64, feedforward_channels=128))),
    ),
)
"""
MASK2FORMERS = {
    "resnet in mmseg": (
        mask2former_resnet,
        MASK2FORMER.format(
            base="mmseg::mask2former/mask2former_r50_8xb2-160k_ade20k-512x512.py",
            backbone="base_channels=4, stem_channels=4",
            head="decode_head",
            channels=[16, 32, 64, 128],
            classes="num_classes=5",
        ),
    ),
    "swin in mmdet": (
        mask2former_swin,
        MASK2FORMER.format(
            base="mmdet::mask2former/mask2former_swin-t-p4-w7-224_8xb2-lsj-50e_coco-panoptic.py",
            backbone="embed_dims=8, depths=[2, 2, 2, 2], num_heads=[1, 2, 4, 8], window_size=4",
            head="panoptic_head",
            channels=[8, 16, 32, 64],
            classes="num_things_classes=3, num_stuff_classes=2",
        ),
    ),
}


def legacy(state, old="scope"):
    """The state dict of a golden file under the spellings of some releases."""
    renamed = {re.sub(r"(hr_)?direct_scale", rf"\1{old}", name): v for name, v in state.items()}
    assert any(old in name for name in renamed) and len(renamed) == len(state)
    return renamed


def check_golden(neck, state, golden):
    """Loads `state` into `neck` and compares its outputs with the golden file's."""
    neck = neck(**golden.meta).double()
    neck.load_state_dict(state, strict=True)
    with torch.no_grad():
        outs = neck([golden.inputs[name] for name in sorted(golden.inputs)])
    outs = {"": outs} if isinstance(outs, torch.Tensor) else dict(zip("01234", outs, strict=True))
    assert set(outs) == set(golden.outputs)
    for name, expected in golden.outputs.items():
        assert (outs[name] - expected).abs().max() <= 1e-9 * expected.abs().max()


def part(path, prefix):
    """Tensors of a converted file under a prefix, without it."""
    state = torch.load(path, weights_only=True)["state_dict"]
    found = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    assert found
    return found


class TestGoldenNumbers:
    @pytest.mark.golden("neck_carafe_fpn.npz")
    @pytest.mark.parametrize("old", ["scope", "sim_direct"])
    def test_neck(self, golden, cli, tmp_path, old):
        source = {f"neck.{k}": v for k, v in legacy(golden.state, old).items()}
        code, out, error = cli({"state_dict": source}, "--model", "faster-rcnn", "--no-check")
        assert (code, error) == (0, "")
        assert f"mapped {len(source)} tensors, 16 of them renamed" in out
        check_golden(FreqFusionCARAFEFPN, part(tmp_path / "out.pth", "neck."), golden)

    @pytest.mark.golden("concat_cascade.npz")
    @pytest.mark.parametrize("old", ["scope", "sim_direct"])
    def test_cascade(self, golden, cli, tmp_path, old):
        source = {f"decode_head.{k}": v for k, v in legacy(golden.state, old).items()}
        code, out, error = cli({"state_dict": source}, "--model", "segnext", "--no-check")
        assert (code, error) == (0, "")
        assert f"mapped {len(source)} tensors, 8 of them renamed" in out
        check_golden(FreqFusionConcat, part(tmp_path / "out.pth", "decode_head."), golden)

    @needs_mmdet
    @pytest.mark.golden("neck_carafe_fpn.npz")
    def test_whole_detector(self, golden, cli, tmp_path):
        (tmp_path / "config.py").write_text(FASTER_RCNN)
        source = mmdet2_faster_rcnn(legacy(golden.state))
        arguments = ["--model", "faster-rcnn", "--config", tmp_path / "config.py"]
        code, out, error = cli({"state_dict": source, "meta": {"epoch": 12}}, *arguments)
        assert (code, error) == (0, ""), out
        assert "missing: 0\nof another shape: 0\nunexpected: 0\n" in out
        check_golden(FreqFusionCARAFEFPN, part(tmp_path / "out.pth", "neck."), golden)
        model = loaded(tmp_path / "config.py", tmp_path / "out.pth")
        assert torch.equal(
            model.roi_head.bbox_head.fc_reg.weight, source["roi_head.bbox_head.fc_reg.weight"]
        )

    @needs_mmseg
    @pytest.mark.golden("concat_cascade.npz")
    def test_whole_segnext(self, golden, cli, tmp_path):
        (tmp_path / "config.py").write_text(SEGNEXT)
        source = mmseg0_segnext(legacy(golden.state))
        arguments = ["--model", "segnext", "--config", tmp_path / "config.py"]
        code, out, error = cli({"state_dict": source}, *arguments)
        assert (code, error) == (0, ""), out
        assert "missing: 0\nof another shape: 0\nunexpected: 0\n" in out
        check_golden(
            FreqFusionConcat,
            {
                f"freqfusions.{k}": v
                for k, v in part(tmp_path / "out.pth", "decode_head.freqfusions.").items()
            },
            golden,
        )
        model = loaded(tmp_path / "config.py", tmp_path / "out.pth").double()
        expected = source["backbone.block2.0.mlp.dwconv.dwconv.weight"]
        assert torch.equal(model.backbone.block2[0].mlp.dwconv.weight, expected.double())
        head = model.decode_head.freqfusions
        outs = head([golden.inputs[name] for name in sorted(golden.inputs)])
        assert (outs - golden.outputs[""]).abs().max() <= 1e-6 * outs.abs().max()


def loaded(config, path):
    """The model of a config with the weights of a file, loaded by MMEngine without a difference."""
    from mmengine.config import Config
    from mmengine.registry import MODELS, init_default_scope
    from mmengine.runner import load_checkpoint

    from freqfusion.integrations.openmmlab import versions

    versions.find_mmseg_configs()
    with default_scope_restored():
        config = Config.fromfile(config)
        init_default_scope(config.default_scope)
        config.model.backbone.init_cfg = None
        model = MODELS.build(config.model)
    load_checkpoint(model, str(path), map_location="cpu", strict=True)
    return model.eval()


class TestMask2Former:
    @needs_both
    @pytest.mark.parametrize("name", MASK2FORMERS)
    def test_every_tensor_has_its_place(self, name, cli, tmp_path):
        layout, text = MASK2FORMERS[name]
        source = layout()
        (tmp_path / "config.py").write_text(text)
        arguments = ["--model", "mask2former", "--config", tmp_path / "config.py"]
        code, out, error = cli({"model": source, "iteration": 9}, *arguments)
        assert (code, error) == (0, ""), out
        assert "missing: 0\nof another shape: 0\nunexpected: 0\n" in out
        assert "left out, class weights of the loss, which are in the config:" in out
        assert "not kept from the file: iteration" in out
        state = torch.load(tmp_path / "out.pth", weights_only=True)["state_dict"]
        counters = [k for k in state if k.endswith("num_batches_tracked")]
        assert len(counters) == (53 if "resnet" in name else 0)
        assert len(state) - len(counters) == len(source) - 1
        check_values(source, state)
        model = loaded(tmp_path / "config.py", tmp_path / "out.pth")
        check_decoder_layer(model, source)
        if "swin" in name:
            check_patch_merging(model, source)

    def test_where_tensors_of_one_shape_go(self):
        """Pairs that shapes cannot tell apart, from the order of the two forward passes."""
        renamed = convert(mask2former_resnet(), "mask2former", "panoptic_head").renamed
        predictor, decoder = "sem_seg_head.predictor", "sem_seg_head.pixel_decoder"
        layers = "panoptic_head.transformer_decoder.layers"
        encoder = "panoptic_head.pixel_decoder.encoder.layers"
        attention = (predictor + ".transformer_{}_attention_layers").format
        pairs = {
            f"{attention('cross')}.2.norm.bias": f"{layers}.2.norms.0.bias",
            f"{attention('self')}.2.norm.bias": f"{layers}.2.norms.1.bias",
            f"{predictor}.transformer_ffn_layers.2.norm.bias": f"{layers}.2.norms.2.bias",
            f"{attention('cross')}.0.multihead_attn.out_proj.bias": (
                f"{layers}.0.cross_attn.attn.out_proj.bias"
            ),
            f"{attention('self')}.0.self_attn.in_proj_weight": (
                f"{layers}.0.self_attn.attn.in_proj_weight"
            ),
            f"{predictor}.mask_embed.layers.1.bias": "panoptic_head.mask_embed.2.bias",
            f"{predictor}.mask_embed.layers.2.bias": "panoptic_head.mask_embed.4.bias",
            f"{predictor}.query_embed.weight": "panoptic_head.query_embed.weight",
            f"{predictor}.query_feat.weight": "panoptic_head.query_feat.weight",
            f"{predictor}.level_embed.weight": "panoptic_head.level_embed.weight",
            f"{decoder}.transformer.level_embed": (
                "panoptic_head.pixel_decoder.level_encoding.weight"
            ),
            f"{decoder}.transformer.encoder.layers.1.norm1.bias": f"{encoder}.1.norms.0.bias",
            f"{decoder}.transformer.encoder.layers.1.norm2.bias": f"{encoder}.1.norms.1.bias",
            f"{decoder}.layer_1.norm.bias": "panoptic_head.pixel_decoder.output_convs.0.gn.bias",
            f"{decoder}.adapter_1.norm.bias": "panoptic_head.pixel_decoder.lateral_convs.0.gn.bias",
            f"{decoder}.freqfusions.2.dysampler.hr_sim_direct.bias": (
                "panoptic_head.pixel_decoder.freqfusions.2.dysampler.hr_direct_scale.bias"
            ),
            "backbone.res2.0.conv1.norm.weight": "backbone.layer1.0.bn1.weight",
            "backbone.res5.2.conv3.norm.running_var": "backbone.layer4.2.bn3.running_var",
            "backbone.res3.0.shortcut.norm.bias": "backbone.layer2.0.downsample.1.bias",
        }
        assert {old: renamed[old] for old in pairs} == pairs


def check_values(source, state):
    """All numbers are there once, whatever their names and their order within a tensor."""

    def content(tensors):
        return sorted(
            tuple(value.flatten().sort().values.tolist())
            for name, value in tensors.items()
            if not name.endswith(("num_batches_tracked", "empty_weight"))
        )

    assert content(source) == content(state)


def check_decoder_layer(model, source):
    """A layer of the transformer decoder against its definition, with detectron2's tensors.

    Masked attention to the image, self-attention of the queries, then the feed-forward network;
    each is followed by the norm of its sum with the input (Mask2Former, section 3.2).
    """
    name = "sem_seg_head.predictor.transformer_{}_layers.1."
    query, position = torch.randn(2, 1, 7, 64).unbind()
    image, image_position = torch.randn(2, 1, 20, 64).unbind()

    def norm(x, kind):
        prefix = name.format(kind)
        return F.layer_norm(x, (64,), source[f"{prefix}norm.weight"], source[f"{prefix}norm.bias"])

    def attention(q, k, v, kind, part):
        layer = nn.MultiheadAttention(64, 2, batch_first=True)
        prefix = f"{name.format(kind)}{part}."
        layer.load_state_dict(
            {k.removeprefix(prefix): t for k, t in source.items() if k.startswith(prefix)}
        )
        return layer(q, k, v)[0]

    x = query + attention(
        query + position, image + image_position, image, "cross_attention", "multihead_attn"
    )
    x = norm(x, "cross_attention")
    x = norm(x + attention(*[x + position] * 2, x, "self_attention", "self_attn"), "self_attention")
    ffn = [source[f"{name.format('ffn')}linear{i}.{p}"] for i in (1, 2) for p in ("weight", "bias")]
    x = norm(x + F.linear(F.linear(x, *ffn[:2]).relu(), *ffn[2:]), "ffn")
    head = model.decode_head if hasattr(model, "decode_head") else model.panoptic_head
    with torch.no_grad():
        found = head.transformer_decoder.layers[1](
            query, key=image, value=image, query_pos=position, key_pos=image_position
        )
    assert (found - x).abs().max() <= 1e-4 * x.abs().max()


def check_patch_merging(model, source):
    """The merging layer of a Swin against its definition: 2 x 2 pixels, columns first."""
    name = "backbone.layers.1.downsample"
    x = torch.randn(1, 6, 8, 16)
    pixels = [x[:, row::2, col::2] for row, col in ((0, 0), (1, 0), (0, 1), (1, 1))]
    expected = F.layer_norm(
        torch.cat(pixels, -1), (64,), source[f"{name}.norm.weight"], source[f"{name}.norm.bias"]
    )
    expected = F.linear(expected, source[f"{name}.reduction.weight"]).flatten(1, 2)
    with torch.no_grad():
        found, size = model.backbone.stages[1].downsample(x.flatten(1, 2), (6, 8))
    assert tuple(size) == (3, 4)
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()
    fresh = type(model.backbone)(embed_dims=8, depths=(2, 2), num_heads=(1, 2), strides=(4, 2),
                                 window_size=4, out_indices=(0, 1))  # fmt: skip
    index = fresh.stages[0].blocks[0].attn.w_msa.relative_position_index
    assert torch.equal(index, relative_position_index(4))


def detector(groups=4):
    """A small checkpoint with a fusion, for the tests of the file around it."""
    layout = Layout()
    layout.fusion("neck.alignment.0", 8, 8, 8, groups)
    layout.conv("roi_head.bbox_head.fc_cls", 3, 4)
    return layout


NO_CHECK = ["--model", "faster-rcnn", "--no-check"]


class TestFile:
    @pytest.mark.parametrize("container", ["state_dict", "model", ""])
    @pytest.mark.parametrize("prefix", ["", "module.", "module.module."])
    def test_containers_and_prefixes(self, cli, tmp_path, container, prefix):
        source = detector()
        state = {f"{prefix}{name}": value for name, value in source.items()}
        file = {container: state, "optimizer": {"state": {}}} if container else state
        code, out, _ = cli(file, *NO_CHECK)
        assert code == 0
        assert (f"'{prefix}' removed" in out) == bool(prefix)
        assert ("not kept from the file: optimizer" in out) == bool(container)
        found = torch.load(tmp_path / "out.pth", weights_only=True)
        assert set(found) == {"meta", "state_dict"}
        assert list(found["state_dict"]) == list(source)
        assert all(torch.equal(found["state_dict"][name], source[name]) for name in source)

    def test_averaged_weights(self, cli, tmp_path):
        source = detector()
        state = {f"module.{name}": value for name, value in source.items()}
        state["ema_roi_head_bbox_head_fc_cls_bias"] = torch.zeros(3)
        code, out, _ = cli({"state_dict": state, "ema_state_dict": {"steps": 1}}, *NO_CHECK)
        assert code == 0
        assert "not kept from the file: ema_state_dict" in out
        assert "the plain names hold the averaged weights" in out
        assert part(tmp_path / "out.pth", "").keys() == source.keys()

    def test_meta_is_plain_data(self, cli, tmp_path):
        meta = {"CLASSES": ("a", "b"), "epoch": 12, "rng": torch.zeros(2), "env": {"gpu": None}}
        code, out, _ = cli({"state_dict": detector(), "meta": meta}, *NO_CHECK)
        assert code == 0 and "not kept from the file: meta['rng']" in out
        meta.pop("rng")
        assert torch.load(tmp_path / "out.pth", weights_only=True)["meta"] == meta

    def test_fusions_that_were_never_used(self, cli, tmp_path):
        source = detector()
        source.fusion("neck.alignment.3", 8, 8, 8)
        source.fusion("neck.alignment.4", 8, 8, 8)
        code, out, _ = cli({"state_dict": source}, *NO_CHECK)
        assert code == 0
        assert "left out, a fusion that the reference built and never used; the model has 4:" in out
        assert "neck.alignment.4.hamming_lowpass" in out
        fusions = {name.split(".")[0] for name in part(tmp_path / "out.pth", "neck.alignment.")}
        assert fusions == {"0", "3"}

    def test_never_overwrites(self, cli, tmp_path):
        (tmp_path / "out.pth").write_text("precious")
        one_sentence(cli({"state_dict": detector()}, *NO_CHECK), "out.pth exists")
        assert (tmp_path / "out.pth").read_text() == "precious"
        result = cli({"state_dict": detector()}, *NO_CHECK, destination="source.pth")
        one_sentence(result, "source.pth exists")
        result = cli({"state_dict": detector()}, *NO_CHECK, destination="nowhere/out.pth")
        one_sentence(result, "there is no folder", "nowhere")

    def test_a_failed_write_leaves_nothing(self, cli, tmp_path, monkeypatch):
        source = {"state_dict": detector()}
        save(source, tmp_path / "source.pth")

        def fail(checkpoint, file):
            file.write(b"half")
            raise OSError("No space left on device")

        monkeypatch.setattr(torch, "save", fail)
        one_sentence(cli(None, *NO_CHECK), "cannot write", "No space left")
        assert [path.name for path in tmp_path.iterdir()] == ["source.pth"]

    def test_a_file_that_appears_meanwhile_stays(self, cli, tmp_path, monkeypatch):
        save({"state_dict": detector()}, tmp_path / "source.pth")
        out = tmp_path / "out.pth"
        monkeypatch.setattr(torch, "save", lambda *_: out.write_text("of another program"))
        one_sentence(cli(None, *NO_CHECK), "out.pth exists and is not overwritten")
        assert out.read_text() == "of another program"
        assert sorted(path.name for path in tmp_path.iterdir()) == ["out.pth", "source.pth"]

    def test_permissions_are_those_of_new_files(self, cli, tmp_path):
        assert cli({"state_dict": detector()}, *NO_CHECK)[0] == 0
        (tmp_path / "new").touch()
        assert (tmp_path / "out.pth").stat().st_mode == (tmp_path / "new").stat().st_mode
        assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "out.pth", "source.pth"]

    @pytest.mark.parametrize("legacy_format", [False, True])
    @pytest.mark.parametrize("share", [0, 0.01, 0.5, 0.99])
    def test_truncated(self, cli, tmp_path, share, legacy_format):
        save(
            {"state_dict": detector()},
            tmp_path / "whole.pth",
            _use_new_zipfile_serialization=not legacy_format,
        )
        whole = (tmp_path / "whole.pth").read_bytes()
        result = cli(whole[: int(share * len(whole))], *NO_CHECK)
        one_sentence(result, "source.pth is not a checkpoint of PyTorch, or is cut short")
        assert not (tmp_path / "out.pth").exists()

    def test_debug_shows_where(self, cli):
        with pytest.raises(Exception, match="cut short") as error:
            cli(b"", *NO_CHECK, "--debug")
        assert isinstance(error.value.__cause__, EOFError)

    def test_no_file(self, cli):
        one_sentence(cli(None, *NO_CHECK), "there is no checkpoint", "source.pth")

    @pytest.mark.parametrize(
        ("file", "message"),
        [
            ({"state_dict": {}}, "checkpoint must hold tensors, got none"),
            ({"epoch": 3}, "checkpoint must hold tensors by their names, got int for 'epoch'"),
            (
                {"model": {"a": [1]}},
                "checkpoint['model'] must hold tensors by their names, got list",
            ),
        ],
    )
    def test_files_without_tensors(self, cli, file, message):
        one_sentence(cli(file, *NO_CHECK), message)

    def test_a_file_of_another_model(self, cli):
        source = {"state_dict": detector()}
        result = cli(source, "--model", "segnext", "--no-check")
        one_sentence(result, "must be of segnext", "decode_head.freqfusions.", "neck.alignment")
        result = cli(source, "--model", "mask-rcnn", "--no-check")
        one_sentence(result, "must be of mask-rcnn", "'roi_head.mask_head.'")


class Intruder:
    """Unpickling it makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


class Foreign:
    pass


class TestUnsafe:
    def test_foreign_objects_need_consent(self, cli, tmp_path):
        source = {"state_dict": detector(), "meta": {"hooks": Foreign(), "epoch": 1}}
        one_sentence(cli(source, *NO_CHECK), "Foreign", "--unsafe")
        code, out, _ = cli(source, *NO_CHECK, "--unsafe")
        assert code == 0 and "not kept from the file: meta['hooks']" in out
        assert torch.load(tmp_path / "out.pth", weights_only=True)["meta"] == {"epoch": 1}

    def test_no_program_runs_without_consent(self, cli, tmp_path):
        trace = tmp_path / "trace"
        source = {"state_dict": detector(), "meta": {"x": Intruder(trace)}}
        one_sentence(cli(source, *NO_CHECK), "getattr, which can run any program", "--unsafe")
        assert not trace.exists()
        assert cli(source, *NO_CHECK, "--unsafe")[0] == 0
        assert trace.exists()

    def test_a_library_that_is_not_here(self, cli, tmp_path, monkeypatch):
        module = type(sys)("vanished")
        module.Thing = type("Thing", (), {"__module__": "vanished"})
        monkeypatch.setitem(sys.modules, "vanished", module)
        save({"state_dict": detector(), "x": module.Thing()}, tmp_path / "source.pth")
        monkeypatch.delitem(sys.modules, "vanished")
        one_sentence(cli(None, *NO_CHECK), "vanished.Thing", "--unsafe")
        one_sentence(cli(None, *NO_CHECK, "--unsafe"), "a library that is not here", "vanished")

    def test_a_plain_pickle(self, cli):
        for data in (pickle.dumps({"a": 1}, protocol=2), b"PK is how a zip begins", b"text"):
            one_sentence(cli(data, *NO_CHECK), "is not a checkpoint of PyTorch")


@needs_mmdet
class TestComparison:
    @pytest.fixture
    def source(self):
        layout = Layout()
        for i, channels in enumerate((8, 12, 16, 20)):
            layout.conv(f"lateral_convs.{i}.conv", 32, channels, 1, 1)
        layout.conv("lateral_convs.4.conv", 32, 20, 3, 3)
        for i in range(5):
            layout.conv(f"fpn_convs.{i}.conv", 32, 32, 3, 3)
        for i in range(4):
            layout.fusion(f"alignment.{i}", 32, 32, 8)
            layout.add(f"alignment.{i}.hamming_lowpass", 1, 1, 5, 5)
            layout.add(f"alignment.{i}.hamming_highpass", 1, 1, 3, 3)
        return mmdet2_faster_rcnn(layout)

    @pytest.fixture
    def arguments(self, tmp_path):
        (tmp_path / "config.py").write_text(FASTER_RCNN)
        return ["--model", "faster-rcnn", "--config", tmp_path / "config.py"]

    def test_missing(self, cli, arguments, source, tmp_path):
        del source["neck.alignment.2.content_encoder.weight"]
        result = cli({"state_dict": source}, *arguments)
        name = "neck.alignment.2.content_encoder.weight, of shape (25, 8, 3, 3) in the model"
        one_sentence(result, "does not fit", name, "is missing")
        assert "missing: 1\n" in result[1]
        assert not (tmp_path / "out.pth").exists()

    def test_shape(self, cli, arguments, source, tmp_path):
        source["roi_head.bbox_head.fc_cls.weight"] = torch.zeros(81, 16)
        source["roi_head.bbox_head.fc_cls.bias"] = torch.zeros(81)
        result = cli({"state_dict": source}, *arguments, "--drop-unexpected")
        name = "roi_head.bbox_head.fc_cls.weight has the shape (81, 16), in the model it is (6, 16)"
        one_sentence(result, "does not fit", name, "and 1 more differ")
        assert "of another shape: 2\n" in result[1]
        assert not (tmp_path / "out.pth").exists()

    def test_unexpected(self, cli, arguments, source, tmp_path):
        source["auxiliary.weight"] = torch.zeros(2)
        result = cli({"state_dict": source}, *arguments)
        one_sentence(result, "the model has no auxiliary.weight of shape (2,)", "--drop-unexpected")
        assert not (tmp_path / "out.pth").exists()
        code, out, _ = cli({"state_dict": source}, *arguments, "--drop-unexpected")
        assert code == 0 and "unexpected: 1\n  auxiliary.weight\n" in out
        assert "auxiliary.weight" not in part(tmp_path / "out.pth", "")

    def test_config_that_cannot_be_read(self, cli, source, tmp_path):
        arguments = ["--model", "faster-rcnn", "--config", tmp_path / "none.py"]
        one_sentence(cli({"state_dict": source}, *arguments), "there is no config", "none.py")

    def test_default_config(self, cli, source):
        """A published detector has 256 channels; the comparison with it says so."""
        result = cli({"state_dict": source}, "--model", "faster-rcnn")
        one_sentence(
            result,
            "faster-rcnn_r50_fpn-carafe-freqfusion_1x_coco.py",
            "backbone.conv1.weight has the shape (4, 3, 7, 7), in the model it is (64, 3, 7, 7)",
            "--config names",
        )

    def test_every_model_has_a_default_config(self, monkeypatch):
        monkeypatch.syspath_prepend(str(TOOLS))
        tool = importlib.import_module("convert_checkpoint")
        assert set(tool.DEFAULTS) == set(tool.FAMILIES)
        for path, _ in tool.DEFAULTS.values():
            assert "FreqFusion" in (tool.CONFIGS / path).read_text()


def test_without_openmmlab(tmp_path):
    """Converts, and says that nothing was compared; run as a program."""
    save({"state_dict": detector()}, tmp_path / "source.pth")
    code = "import sys; sys.modules['mmengine'] = None; sys.path.insert(0, sys.argv.pop(1)); "
    code += "import convert_checkpoint; sys.exit(convert_checkpoint.main())"
    arguments = [str(TOOLS), "source.pth", "out.pth", "--model", "faster-rcnn"]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "not compared with a model: mmengine cannot be imported" in done.stdout
    assert part(tmp_path / "out.pth", "neck.alignment.0.")


class TestLibrary:
    def test_renames_gates_only(self):
        names = ["dysampler.scope.bias", "a.dysampler.hr_sim_direct.weight"]
        expected = ["dysampler.direct_scale.bias", "a.dysampler.hr_direct_scale.weight"]
        others = ["dysampler.microscope.b", "dysampler.scopes.b", "scope.weight"]  # DySample's own
        names, expected = names + others, expected + others
        assert list(rename_legacy_keys(dict.fromkeys(names, torch.ones(1)))) == expected

    def test_two_tensors_of_one_name(self):
        names = "dysampler.scope.bias", "dysampler.direct_scale.bias"
        state = dict.fromkeys(names, torch.ones(1))
        message = f"one tensor for {names[1]}, got {names[0]} and {names[1]}"
        with pytest.raises(ValueError, match=message):
            rename_legacy_keys(state)

    def test_unknown_model(self):
        with pytest.raises(ValueError, match="model must be one of segnext.*got 'fcos'"):
            convert({}, "fcos")

    def test_what_it_got_is_left_alone(self):
        source = mask2former_swin()
        before = {name: value.clone() for name, value in source.items()}
        convert(source, "mask2former")
        assert source.keys() == before.keys()
        assert all(torch.equal(source[name], before[name]) for name in before)

    def test_merging_layer_of_another_shape(self):
        source = mask2former_swin()
        source["backbone.layers.0.downsample.norm.bias"] = torch.zeros(30)
        with pytest.raises(ValueError, match=r"downsample\.norm\.bias must .*4 \* C.*\(30,\)"):
            convert(source, "mask2former")

    def test_converted_once_is_converted(self):
        renamed = convert(detector(), "faster-rcnn")
        assert not renamed.renamed
        twice = convert(renamed.state_dict, "faster-rcnn").state_dict
        assert compare(twice, renamed.state_dict) == ({}, {}, [])

    def test_unwrap_needs_a_dict(self):
        with pytest.raises(ValueError, match="checkpoint must be a dict, got list"):
            unwrap([torch.ones(1)])
