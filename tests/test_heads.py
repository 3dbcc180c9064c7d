"""Decode heads and pixel decoder in mmseg and mmdet: wiring, keys, checkpoints, numbers."""

import copy
import importlib
import importlib.util
import math
import os
import subprocess
import sys
from importlib.metadata import distributions
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

for package in ("mmengine", "mmcv"):
    pytest.importorskip(package, reason=f"{package} is not installed")

from mmengine.config import Config, ConfigDict  # noqa: E402
from mmengine.registry import MODELS, DefaultScope  # noqa: E402
from mmengine.structures import InstanceData  # noqa: E402

import freqfusion.integrations.openmmlab as integration  # noqa: E402
from freqfusion.integrations.openmmlab.lazy import HEADS  # noqa: E402

ROOT = Path(__file__).parents[1]


def _needs(*modules):
    missing = [m for m in modules if importlib.util.find_spec(m) is None]
    return pytest.mark.skipif(bool(missing), reason=f"{' and '.join(missing)} not installed")


needs_mmseg = _needs("mmseg")
needs_mmdet = _needs("mmdet", "mmcv._ext")

GN = dict(type="GN", num_groups=4)
SEGMENTATION = dict(channels=32, num_classes=5, norm_cfg=GN, dropout_ratio=0)
THREE = dict(in_channels=[16, 32, 48], in_index=[1, 2, 3], **SEGMENTATION)
FOUR = dict(in_channels=[8, 16, 32, 48], in_index=[0, 1, 2, 3], **SEGMENTATION)
HAM = dict(type="LightHamHead", ham_channels=32, ham_kwargs=dict(MD_R=8), **THREE)
PLAIN = {  # configs of the library's own heads
    "FreqFusionHamHead": HAM,
    "FreqFusionSegformerHead": dict(type="SegformerHead", **FOUR),
    "FreqFusionUPerHead": dict(type="UPerHead", **FOUR),
}
FUSIONS = {
    "FreqFusionHamHead": ["freqfusions.0", "freqfusions.1"],
    "FreqFusionSegformerHead": ["freqfusions.0", "freqfusions.1", "freqfusions.2"],
    "FreqFusionUPerHead": ["alignment.0", "alignment.1", "alignment.2"],
    "FreqFusionPixelDecoder": ["freqfusions.0", "freqfusions.1", "freqfusions.2"],
}
SEGMENTATION_HEADS = [pytest.param(name, marks=needs_mmseg) for name in PLAIN]
ALL_HEADS = [*SEGMENTATION_HEADS, pytest.param("FreqFusionPixelDecoder", marks=needs_mmdet)]

PIXEL_DECODER = dict(
    type="MSDeformAttnPixelDecoder",
    in_channels=[8, 16, 32, 48],
    feat_channels=32,
    out_channels=16,
    num_outs=3,
    norm_cfg=GN,
    encoder=dict(
        num_layers=1,
        layer_cfg=dict(
            self_attn_cfg=dict(
                embed_dims=32, num_heads=4, num_levels=3, dropout=0.0, batch_first=True
            ),
            ffn_cfg=dict(embed_dims=32, feedforward_channels=32),
        ),
    ),
    positional_encoding=dict(num_feats=16, normalize=True),
)


def build(name, **settings):
    """Our head from a config through the registry of the library it is for."""
    if name == "FreqFusionPixelDecoder":
        return registry("mmdet").build(ConfigDict({**PIXEL_DECODER, "type": name, **settings}))
    return registry("mmseg").build({**PLAIN[name], "type": name, **settings})


def build_plain(name, **settings):
    """The library's own head with the same settings."""
    if name == "FreqFusionPixelDecoder":
        return registry("mmdet").build(ConfigDict({**PIXEL_DECODER, **settings}))
    return registry("mmseg").build({**PLAIN[name], **settings})


def registry(library):
    return importlib.import_module(f"{library}.registry").MODELS


def fusions(head):
    return head.alignment if hasattr(head, "alignment") else head.freqfusions


def pyramid(height=37, width=50, dtype=torch.float32):
    """Four maps, of which the heads with three levels take the last three."""
    return [
        torch.randn(2, c, math.ceil(height / 2**i), math.ceil(width / 2**i), dtype=dtype)
        for i, c in enumerate([8, 16, 32, 48])
    ]


def total(output):
    """Some scalar that depends on every part of a head's output."""
    if isinstance(output, torch.Tensor):
        return output.float().square().mean()
    return sum(total(part) for part in output)


def python(code):
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )


class TestLazyImport:
    def test_importing_the_package_imports_no_library(self):
        done = python(
            "import sys, freqfusion.integrations.openmmlab\n"
            "from mmengine.registry import MODELS\n"
            f"assert set({list(HEADS)}) <= set(MODELS.module_dict)\n"
            "assert not {'mmseg', 'mmdet', 'mmcv.ops'} & set(sys.modules)\n"
        )
        assert done.returncode == 0, done.stderr

    @pytest.mark.parametrize("name", HEADS)
    def test_missing_library(self, name):
        done = python(
            "import sys\n"
            "for name in ('mmseg', 'mmdet'): sys.modules[name] = None\n"
            "import freqfusion.integrations.openmmlab as integration\n"
            "from mmengine.registry import MODELS\n"
            f"for attempt in (lambda: MODELS.build(dict(type='{name}', channels=8)),\n"
            f"                lambda: integration.{name}):\n"
            "    try: attempt()\n"
            "    except ImportError as error: print(error)\n"
        )
        assert done.returncode == 0, done.stderr
        first, second = done.stdout.splitlines()
        assert first == second
        assert first.startswith(f"{name} needs {HEADS[name][1]}, which cannot be imported (")
        assert 'pip install --no-build-isolation "freqfusion[mm]"' in first

    @needs_mmseg
    def test_segmentation_without_compiled_operators(self):
        if "mmsegmentation" in {each.metadata["Name"] for each in distributions()}:
            pytest.skip("the original mmsegmentation needs compiled operators itself")
        done = python(
            "import sys\n"
            "for name in ('mmdet', 'mmcv._ext'): sys.modules[name] = None\n"
            "import freqfusion.integrations.openmmlab\n"
            "from mmseg.registry import MODELS\n"
            "MODELS.build(dict(type='FreqFusionSegformerHead', in_channels=[8, 8], channels=32,\n"
            "                  in_index=[0, 1], num_classes=5))\n"
        )
        assert done.returncode == 0, done.stderr

    @pytest.mark.parametrize("name", ALL_HEADS)
    def test_class_takes_its_place_in_the_registry(self, name):
        head = getattr(integration, name)
        assert head.__name__ == name
        assert MODELS.get(name) is head
        assert type(build(name)) is head

    def test_unknown_attribute(self):
        with pytest.raises(AttributeError, match="has no attribute 'FreqFusionHead'"):
            _ = integration.FreqFusionHead


@pytest.mark.parametrize("name", ALL_HEADS)
class TestEveryHead:
    def test_keys(self, name):
        head, plain = build(name), build_plain(name)
        ours, theirs = head.state_dict(), plain.state_dict()
        new = {".".join(key.split(".")[:2]) for key in ours.keys() - theirs.keys()}
        assert sorted(new) == FUSIONS[name]
        assert {k: v.shape for k, v in ours.items() if k in theirs} == {
            k: v.shape for k, v in theirs.items()
        }
        for prefix in FUSIONS[name]:
            assert f"{prefix}.hr_channel_compressor.weight" in ours
            assert f"{prefix}.dysampler.direct_scale.weight" in ours

    def test_plain_checkpoint_loads(self, name):
        missing, unexpected = build(name).load_state_dict(
            build_plain(name).state_dict(), strict=False
        )
        assert not unexpected and missing
        assert {".".join(key.split(".")[:2]) for key in missing} == set(FUSIONS[name])

    @pytest.mark.parametrize("size", [(64, 96), (37, 50), (9, 1)], ids=str)
    def test_every_parameter_gets_a_gradient(self, name, size):
        head = build(name)
        feats = [x.requires_grad_() for x in pyramid(*size)]
        output = head(feats)
        total(output).backward()
        for key, parameter in head.named_parameters():
            assert parameter.grad is not None, f"{key} is not used"
            assert parameter.grad.isfinite().all(), key
        used = feats[1:] if name == "FreqFusionHamHead" else feats
        assert all(x.grad.isfinite().all() and x.grad.any() for x in used)

    def test_bfloat16(self, name):
        head = build(name).eval()
        feats = pyramid()
        with torch.no_grad():
            expected = head(feats)
        with torch.autocast("cpu", torch.bfloat16):
            found = head(feats)
        total(found).backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in head.parameters())
        if name == "FreqFusionPixelDecoder":
            (found, more), (expected, more_expected) = found, expected
            assert len(more) == len(more_expected) == 3
        assert found.dtype == torch.bfloat16
        assert (found - expected).abs().mean() < 0.05 * expected.abs().mean()

    def test_double(self, name):
        head = build(name).eval()
        feats = pyramid()
        with torch.no_grad():
            single = head(feats)
            double = head.double()([x.double() for x in feats])
        torch.testing.assert_close(single, double, rtol=1e-3, atol=1e-4, check_dtype=False)

    @pytest.mark.parametrize(
        "settings", [dict(fusion_config={}), dict(fusion_cfg=dict(use_low_pass=True))], ids=str
    )
    def test_unknown_argument(self, name, settings):
        (wrong,) = settings.get("fusion_cfg") or settings
        with pytest.raises(TypeError, match=wrong):
            build(name, **settings)

    def test_fusion_options(self, name):
        options = dict(feature_resample=False, compressed_channels=24, up_group=2)
        if name != "FreqFusionPixelDecoder":
            del options["compressed_channels"]
            options["compress_ratio"] = 2
        head = build(name, fusion_cfg=options)
        assert not any("dysampler" in key for key in head.state_dict())
        assert all(fusion.up_group == 2 for fusion in fusions(head))
        compressed = {fusion.hr_channel_compressor.out_channels for fusion in fusions(head)}
        assert (
            compressed
            == {
                "FreqFusionHamHead": {40, 48},
                "FreqFusionSegformerHead": {32, 48, 64},
                "FreqFusionUPerHead": {32},
                "FreqFusionPixelDecoder": {24},
            }[name]
        )
        total(head(pyramid())).backward()

    def test_option_that_the_head_sets(self, name):
        option = (
            dict(lr_channels=8) if name == "FreqFusionPixelDecoder" else dict(compressed_channels=8)
        )
        with pytest.raises(TypeError, match=f"multiple values .*{next(iter(option))}"):
            build(name, fusion_cfg=option)

    def test_maps_in_the_wrong_order(self, name):
        feats = pyramid()
        feats[1:] = [
            F.interpolate(x, y.shape[2:]) for x, y in zip(feats[1:], feats[:0:-1], strict=True)
        ]
        with pytest.raises(
            ValueError, match="hr_feat must have at least the height and width of lr_feat"
        ):
            build(name)(feats)

    def test_survives_init_weights(self, name):
        head = build(name)
        for parameter in head.parameters():
            torch.nn.init.constant_(parameter, 7.0)
        if name != "FreqFusionPixelDecoder":
            head.init_cfg = [
                dict(type="Constant", layer="Conv2d", val=2.0),
                dict(type="Normal", std=0.01, override=dict(name="conv_seg")),
            ]
        head.init_weights()
        for fusion in fusions(head):
            weight = fusion.hr_channel_compressor.weight
            assert 0 < fusion.content_encoder.weight.std() < 0.002
            assert 0.8 < weight.abs().max() / math.sqrt(6 / sum(weight.shape[:2])) <= 1.0001
            assert not fusion.dysampler.offset.bias.any()
            assert 0 < fusion.dysampler.offset.weight.std() < 0.5
        others = dict(head.named_parameters())
        if name == "FreqFusionPixelDecoder":
            assert 0 < others["lateral_convs.0.conv.weight"].std() < 1
        else:
            assert 0.005 < others["conv_seg.weight"].std() < 0.02
            assert all((value != 7).all() for key, value in others.items() if "conv.weight" in key)

    def test_copies_are_independent(self, name):
        head = build(name).eval()
        twin = copy.deepcopy(head)
        feats = pyramid()
        torch.testing.assert_close(head(feats), twin(feats), rtol=0, atol=0)
        before = total(head(feats))
        for parameter in fusions(twin).parameters():
            torch.nn.init.zeros_(parameter)
        assert total(head(feats)) == before
        assert total(twin(feats)) != before


@pytest.mark.parametrize("name", SEGMENTATION_HEADS)
class TestSegmentation:
    def test_loss_and_prediction(self, name):
        from mmengine.structures import PixelData
        from mmseg.structures import SegDataSample

        head = build(name)
        labels = torch.randint(0, 5, (1, 75, 99))
        samples = [SegDataSample(gt_sem_seg=PixelData(data=labels)) for _ in range(2)]
        losses = head.loss(pyramid(), samples, {})
        losses["loss_ce"].backward()
        assert all(p.grad is not None for p in head.parameters())
        with torch.no_grad():
            logits = head.eval().predict(pyramid(), [dict(img_shape=(75, 99))] * 2, {})
        assert logits.shape == (2, 5, 75, 99)

    def test_finest_level_gives_the_size(self, name):
        level = PLAIN[name]["in_index"][0]
        assert build(name)(pyramid()).shape == (2, 5, *pyramid()[level].shape[2:])

    def test_type_is_the_only_change_to_a_config(self, name):
        base = {
            "FreqFusionHamHead": "segnext/segnext_mscan-t_1xb16-adamw-160k_ade20k-512x512",
            "FreqFusionSegformerHead": "segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512",
            "FreqFusionUPerHead": "upernet/upernet_r18_4xb4-80k_ade20k-512x512",
        }[name]
        model = shipped_config("mmseg", base).model
        model.decode_head.type = name
        with DefaultScope.overwrite_default_scope("mmseg"):
            model = MODELS.build(model).eval()
        assert type(model.decode_head).__name__ == name
        key = f"decode_head.{FUSIONS[name][0]}.lr_channel_compressor.weight"
        assert (
            model.state_dict()[key].shape[:2]
            == {
                "FreqFusionHamHead": (104, 256),
                "FreqFusionSegformerHead": (128, 256),
                "FreqFusionUPerHead": (128, 512),
            }[name]
        )
        with torch.no_grad():
            assert model(torch.randn(1, 3, 66, 94)).shape[:2] == (1, 150)


def shipped_config(library, name):
    """One of the configs that come with mmseg and mmdet, without pretrained weights or SyncBN."""
    place = Path(importlib.import_module(library).__file__).parent / ".mim" / "configs"
    config = Config.fromfile(place / f"{name}.py")
    config.model.pop("pretrained", None)
    config.model.backbone.pop("init_cfg", None)
    return Config.fromstring(config.pretty_text.replace("SyncBN", "BN"), ".py")


class PlainFusion(torch.nn.Module):
    """What a library's head does in the place of FreqFusion."""

    def __init__(self, mode, align_corners=False):
        super().__init__()
        self.mode, self.align_corners = mode, align_corners

    def forward(self, fine, coarse):
        if self.mode is None:
            return None, fine, torch.zeros_like(fine)
        options = {} if self.mode == "nearest" else dict(align_corners=self.align_corners)
        return None, fine, F.interpolate(coarse, fine.shape[2:], mode=self.mode, **options)


def with_plain_fusions(name, modes, **settings):
    """A head of the library and ours, with the same weights and PlainFusion for FreqFusion."""
    plain, head = build_plain(name, **settings), build(name, **settings)
    head.load_state_dict(plain.state_dict(), strict=False)
    for i, mode in enumerate(modes):
        fusions(head)[i] = PlainFusion(mode, bool(settings.get("align_corners")))
    return plain.double(), head.double()


class TestEquivalenceToPlainHeads:
    """With a plain upsampling in the place of FreqFusion, the heads are the libraries' own."""

    @needs_mmseg
    @pytest.mark.parametrize("training", [True, False])
    def test_ham(self, training):
        settings = dict(in_channels=[16, 32], in_index=[1, 2])
        plain, head = with_plain_fusions("FreqFusionHamHead", ["bilinear"], **settings)
        plain.float().train(training), head.float().train(training)
        head.freqfusions.groups = 1
        if not training:
            plain.hamburger.ham.rand_init = False
            plain.hamburger.ham.register_buffer("bases", head.hamburger.ham.first_bases)
        outputs = []
        for model in (plain, head):
            torch.manual_seed(1)  # the bases are random in training
            feats = pyramid()
            outputs.append(model(feats))
        torch.testing.assert_close(*outputs)

    @needs_mmseg
    def test_segformer(self):
        name = "FreqFusionSegformerHead"
        settings = dict(interpolate_mode="nearest", align_corners=None)
        plain, head = with_plain_fusions(name, ["nearest"] * 3, **settings)
        assert head.freqfusions.groups == 4
        feats = pyramid(32, 48, torch.float64)
        torch.testing.assert_close(head(feats), plain(feats))

    @needs_mmseg
    @pytest.mark.parametrize("align_corners", [False, True])
    def test_uper(self, align_corners):
        settings = dict(align_corners=align_corners)
        plain, head = with_plain_fusions("FreqFusionUPerHead", ["bilinear"] * 3, **settings)
        feats = pyramid(dtype=torch.float64)
        torch.testing.assert_close(head(feats), plain(feats))

    @needs_mmdet
    @pytest.mark.parametrize("size", [(64, 96), (37, 50)], ids=str)
    @pytest.mark.parametrize("num_outs", [1, 3, 4])
    def test_pixel_decoder(self, size, num_outs):
        name = "FreqFusionPixelDecoder"
        plain, head = with_plain_fusions(name, [None, None, "bilinear"], num_outs=num_outs)
        feats = pyramid(*size, torch.float64)
        (masks, outs), (plain_masks, plain_outs) = head(feats), plain(feats)
        assert len(outs) == len(plain_outs) == num_outs
        torch.testing.assert_close(masks, plain_masks)
        torch.testing.assert_close(outs, plain_outs)


def fused_maps(head, feats):
    """What every fusion of a head reads and returns: lists of (fine, coarse, sum of the two)."""
    seen = {}

    def record(index):
        def hook(module, inputs, output):
            seen[index] = (*inputs, output.hr_feat + output.lr_feat)

        return hook

    hooks = [f.register_forward_hook(record(i)) for i, f in enumerate(fusions(head))]
    head(feats)
    for hook in hooks:
        hook.remove()
    return [seen[i] for i in range(len(seen))]


class TestWhereTheFusionsAct:
    @needs_mmseg
    def test_uper(self):
        head, feats = build("FreqFusionUPerHead").double(), pyramid(dtype=torch.float64)
        seen = fused_maps(head, feats)
        above = head.psp_forward(feats)
        for i in (2, 1, 0):
            fine, coarse, fused = seen[i]
            torch.testing.assert_close(fine, head.lateral_convs[i](feats[i]))
            torch.testing.assert_close(coarse, above)
            above = fused

    @needs_mmdet
    def test_pixel_decoder(self):
        head, feats = build("FreqFusionPixelDecoder").double(), pyramid(dtype=torch.float64)
        seen = fused_maps(head, feats)
        above = head.input_convs[0](feats[3])
        for i, level in ((0, 2), (1, 1)):
            fine, coarse, fused = seen[i]
            torch.testing.assert_close(fine, head.input_convs[i + 1](feats[level]))
            torch.testing.assert_close(coarse, above)
            above = fused
        fine, coarse, fused = seen[2]
        masks, (_, _, finest_encoded) = head(feats)
        torch.testing.assert_close(fine, head.lateral_convs[0](feats[0]))
        torch.testing.assert_close(coarse, finest_encoded)
        torch.testing.assert_close(masks, head.mask_feature(head.output_convs[0](fused)))

    @needs_mmseg
    def test_segformer(self):
        """Its fusions by hand, without taking turns: the fusion has one resampling group."""
        settings = dict(fusion_cfg=dict(feature_resample_group=1))
        head = build("FreqFusionSegformerHead", **settings).double().eval()
        feats = pyramid(dtype=torch.float64)
        *finer, fused = (conv(x) for conv, x in zip(head.convs, feats, strict=True))
        for fusion, fine in zip(head.freqfusions, reversed(finer), strict=True):
            _, fine, coarse = fusion(fine, fused)
            fused = torch.cat((fine, coarse), dim=1)
        expected = head.conv_seg(head.fusion_conv(fused))
        torch.testing.assert_close(head(feats), expected, rtol=0, atol=1e-12)


@needs_mmseg
class TestHam:
    @pytest.mark.golden("concat_cascade*.npz")
    def test_fusion_agrees_with_the_authors(self, golden):
        options = dict(golden.meta)
        channels = options.pop("in_channels")
        head = build(
            "FreqFusionHamHead",
            in_channels=channels,
            in_index=list(range(len(channels))),
            fusion_cfg=options,
        ).double()
        missing, unexpected = head.load_state_dict(golden.state, strict=False)
        assert not unexpected
        assert not any(key.startswith("freqfusions.") for key in missing)
        squeezed = []
        head.squeeze.register_forward_pre_hook(lambda module, inputs: squeezed.extend(inputs))
        head([golden.inputs[name] for name in sorted(golden.inputs)])
        (found,), (expected,) = squeezed, golden.outputs.values()
        assert found.shape == expected.shape
        error = (found - expected).abs().max() / expected.abs().max()
        assert error <= 1e-9

    @pytest.mark.parametrize("rand_init", [True, False])
    def test_evaluation_is_deterministic(self, rand_init):
        settings = dict(ham_kwargs=dict(MD_R=8, rand_init=rand_init))
        torch.manual_seed(3)
        head = build("FreqFusionHamHead", **settings).eval()
        feats = pyramid()
        state = torch.get_rng_state()
        first = head(feats)
        assert torch.equal(torch.get_rng_state(), state)
        torch.rand(5)
        torch.testing.assert_close(head(feats), first, rtol=0, atol=0)
        other = build("FreqFusionHamHead", **settings).eval()
        other.load_state_dict(head.state_dict())
        torch.testing.assert_close(other(feats), first, rtol=0, atol=0)
        head.train()
        assert torch.equal(head(feats), head(feats)) is not rand_init

    def test_building_draws_no_random_numbers_for_the_bases(self):
        from freqfusion.integrations.openmmlab.ham_head import FixedStartNMF2D

        state = torch.get_rng_state()
        FixedStartNMF2D({}, 16)
        assert torch.equal(torch.get_rng_state(), state)

    def test_an_image_alone_is_as_in_a_batch(self):
        head = build("FreqFusionHamHead").double().eval()
        feats = pyramid(dtype=torch.float64)
        alone = torch.cat([head([x[i : i + 1] for x in feats]) for i in range(2)])
        torch.testing.assert_close(head(feats), alone)

    @pytest.mark.parametrize("channels_last", [False, True])
    def test_several_spatial_groups(self, channels_last):
        head = build("FreqFusionHamHead", ham_kwargs=dict(MD_S=2, MD_R=8)).eval()
        feats = pyramid()
        expected = head(feats)
        if channels_last:
            feats = [x.to(memory_format=torch.channels_last) for x in feats]
        torch.testing.assert_close(head(feats), expected)

    def test_decomposition_does_not_overflow_in_float16(self):
        from freqfusion.integrations.openmmlab.ham_head import FixedStartNMF2D

        ham = FixedStartNMF2D(dict(MD_R=4), 8)
        x = 20 * torch.rand(1, 8, 64, 64)
        expected = ham.eval()(x)
        with torch.autocast("cpu", torch.bfloat16):
            torch.testing.assert_close(ham(x.half()), expected, rtol=1e-2, atol=1e-2)


def mask2former(library):
    """A small Mask2Former from a library's config with the type of the pixel decoder changed."""
    name = {
        "mmseg": "mask2former/mask2former_r50_8xb2-160k_ade20k-512x512",
        "mmdet": "mask2former/mask2former_r50_8xb2-lsj-50e_coco-panoptic",
    }[library]
    model = shipped_config(library, name).model
    model.backbone.depth = 18
    head = model.decode_head if library == "mmseg" else model.panoptic_head
    head.pixel_decoder.type = "FreqFusionPixelDecoder"
    head.pixel_decoder.encoder.num_layers = head.transformer_decoder.num_layers = 1
    head.in_channels = [64, 128, 256, 512]
    head.num_queries = 12
    (head if library == "mmseg" else model).train_cfg.num_points = 64
    return model, head


def build_mask2former(library):
    with DefaultScope.overwrite_default_scope(library):
        model = MODELS.build(mask2former(library)[0])
    model.init_weights()
    return model


@needs_mmdet
class TestMask2Former:
    @pytest.mark.parametrize(
        "extra",
        [
            dict(type="FreqFusionPixelDecoder"),
            dict(type="mmengine.FreqFusionPixelDecoder"),
            dict(type="FreqFusionPixelDecoder", _scope_="mmdet"),
            pytest.param(dict(type="FreqFusionPixelDecoder", _scope_="mmseg"), marks=needs_mmseg),
        ],
        ids=str,
    )
    @pytest.mark.parametrize("library", [pytest.param("mmseg", marks=needs_mmseg), "mmdet"])
    def test_scopes(self, library, extra):
        config = ConfigDict({**PIXEL_DECODER, **extra})
        assert type(registry(library).build(config)) is integration.FreqFusionPixelDecoder

    def test_published_fusions(self):
        head = build("FreqFusionPixelDecoder")
        for fusion in head.freqfusions:
            shapes = {key: tuple(value.shape) for key, value in fusion.state_dict().items()}
            assert shapes["hamming_lowpass"] == (1,)
            assert shapes["dysampler.offset.weight"] == (32, 72, 3, 3)
            assert shapes["dysampler.hr_direct_scale.weight"] == (8, 72, 3, 3)
            assert not any("norm" in key for key in shapes)

    @needs_mmseg
    def test_mmseg(self):
        from mmengine.structures import PixelData
        from mmseg.structures import SegDataSample

        model = build_mask2former("mmseg")
        labels = torch.zeros(1, 66, 94, dtype=torch.int64)
        labels[:, 20:], labels[:, :, 40:] = 1, 2
        sample = SegDataSample(gt_sem_seg=PixelData(data=labels), metainfo=dict(img_shape=(66, 94)))
        losses = model.loss(torch.randn(1, 3, 66, 94), [sample])
        self.check_gradients(model, model.decode_head, losses)
        with torch.no_grad():
            logits = model.eval().encode_decode(
                torch.randn(1, 3, 66, 94), [dict(img_shape=(66, 94))]
            )
        assert logits.shape == (1, 150, 66, 94)

    def test_mmdet(self):
        from mmdet.structures import DetDataSample
        from mmdet.structures.mask import BitmapMasks
        from mmengine.structures import PixelData

        model = build_mask2former("mmdet")
        shape = dict(img_shape=(66, 94), ori_shape=(66, 94), batch_input_shape=(66, 94))
        sample = DetDataSample(metainfo=shape)
        mask = torch.zeros(1, 66, 94, dtype=torch.uint8)
        mask[:, 20:] = 1
        sample.gt_instances = InstanceData(
            labels=torch.tensor([3]), masks=BitmapMasks(mask.numpy(), 66, 94)
        )
        sample.gt_sem_seg = PixelData(sem_seg=torch.where(mask == 1, 3, 90).long())
        losses = model.loss(torch.randn(1, 3, 66, 94), [sample])
        self.check_gradients(model, model.panoptic_head, losses)
        with torch.no_grad():
            (found,) = model.eval().predict(torch.randn(1, 3, 66, 94), [sample], rescale=True)
        assert found.pred_panoptic_seg.sem_seg.shape == (1, 66, 94)

    @staticmethod
    def check_gradients(model, head, losses):
        loss, _ = model.parse_losses(losses)
        assert loss.isfinite()
        loss.backward()
        decoder = head.pixel_decoder
        assert type(decoder) is integration.FreqFusionPixelDecoder
        for key, parameter in decoder.named_parameters():
            assert parameter.grad is not None, f"{key} is not used"
            assert parameter.grad.isfinite().all(), key
