import importlib

import pytest
import torch
from torch import nn

from freqfusion import FreqFusionCARAFEFPN, FreqFusionConcat, FreqFusionFPN, layers
from freqfusion.necks.concat import concat_groups

CHANNELS = [8, 16, 24, 32]
FPN_SETTINGS = [
    {"num_outs": 4},
    {"num_outs": 5},
    {"num_outs": 6},
    *(
        {"num_outs": 6, "add_extra_convs": how}
        for how in (True, "on_input", "on_lateral", "on_output")
    ),
    {"num_outs": 5, "start_level": 1, "add_extra_convs": "on_input"},  # RetinaNet
    {
        "num_outs": 5,
        "start_level": 1,
        "add_extra_convs": "on_output",
        "relu_before_extra_convs": True,
    },
    {"num_outs": 3, "end_level": 2},
    {"num_outs": 2, "start_level": 1, "end_level": 2},
    {"num_outs": 1, "start_level": 3},
    {"num_outs": 3, "start_level": 3, "add_extra_convs": "on_lateral"},
    {"num_outs": 4, "norm_layer": nn.BatchNorm2d, "act_layer": nn.ReLU},
    {"num_outs": 4, "norm_layer": nn.BatchNorm2d, "no_norm_on_lateral": True},
    {"num_outs": 4, "feature_resample": False, "use_high_pass": False},
]
CARAFE_SETTINGS = [
    {"num_outs": 4},
    {"num_outs": 5},
    {"num_outs": 6},
    {"num_outs": 5, "start_level": 1},
    {"num_outs": 2, "start_level": 1, "end_level": 2},
    {"num_outs": 5, "norm_layer": nn.BatchNorm2d, "act_layer": nn.ReLU, "no_norm_on_lateral": True},
]


def pyramid(channels=CHANNELS, size=(37, 45), batch=2):
    """Maps whose sizes halve, rounded up, as those of a backbone do."""
    feats = []
    for channel in channels:
        feats.append(torch.randn(batch, channel, *size, requires_grad=True))
        size = tuple(-(-n // 2) for n in size)
    return feats


def check_pyramid(neck, settings):
    """Sizes and channels of the outputs, and a gradient for every parameter."""
    feats = pyramid()
    outs = neck(feats)
    size = feats[settings.get("start_level", 0)].shape[2:]
    assert len(outs) == settings["num_outs"]
    for out in outs:
        assert out.shape == (2, 16, *size)
        size = tuple(-(-n // 2) for n in size)
    sum(out.square().sum() for out in outs).backward()
    for name, parameter in neck.named_parameters():
        assert parameter.grad is not None, f"{name} is not used"
        assert parameter.grad.isfinite().all(), name


@pytest.mark.parametrize("settings", FPN_SETTINGS, ids=str)
def test_fpn(settings):
    check_pyramid(FreqFusionFPN(CHANNELS, 16, compress_ratio=4, **settings), settings)


@pytest.mark.parametrize("settings", CARAFE_SETTINGS, ids=str)
def test_carafe_fpn(settings):
    check_pyramid(FreqFusionCARAFEFPN(CHANNELS, 16, compress_ratio=4, **settings), settings)


def test_fpn_names_its_parts_as_a_plain_fpn_does():
    neck = FreqFusionFPN(CHANNELS, 16, 6, add_extra_convs="on_input", compress_ratio=4)
    shapes = {k: tuple(v.shape) for k, v in neck.state_dict().items() if "alignment" not in k}
    expected = {}
    for i, channels in enumerate(CHANNELS):
        expected[f"lateral_convs.{i}.conv.weight"] = (16, channels, 1, 1)
        expected[f"lateral_convs.{i}.conv.bias"] = (16,)
    for i, channels in enumerate([16, 16, 16, 16, 32, 16]):
        expected[f"fpn_convs.{i}.conv.weight"] = (16, channels, 3, 3)
        expected[f"fpn_convs.{i}.conv.bias"] = (16,)
    assert shapes == expected
    assert {k.split(".")[1] for k in neck.state_dict() if "alignment" in k} == {"0", "1", "2"}


def test_fpn_fuses_from_the_top_down():
    neck = FreqFusionFPN(CHANNELS, 16, 4, compress_ratio=4)
    feats = pyramid(batch=1)
    laterals = [conv(feat) for conv, feat in zip(neck.lateral_convs, feats, strict=True)]
    for level in (2, 1, 0):
        _, fine, coarse = neck.alignment[level](laterals[level], laterals[level + 1])
        laterals[level] = fine + coarse
    for out, conv, lateral in zip(neck(feats), neck.fpn_convs, laterals, strict=True):
        assert torch.equal(out, conv(lateral))


@pytest.mark.parametrize(
    ("how", "first"), [("on_input", "feats"), ("on_lateral", "laterals"), ("on_output", "outs")]
)
def test_extra_convs_read_their_source(how, first):
    neck = FreqFusionFPN(
        CHANNELS, 16, 6, add_extra_convs=how, relu_before_extra_convs=True, compress_ratio=4
    )
    feats = pyramid()
    outs = neck(feats)
    source = {"feats": feats[-1], "laterals": neck.lateral_convs[3](feats[3]), "outs": outs[3]}
    assert torch.equal(outs[4], neck.fpn_convs[4](source[first]))
    assert torch.equal(outs[5], neck.fpn_convs[5](outs[4].relu()))


def test_pooled_extra_levels():
    outs = FreqFusionFPN(CHANNELS, 16, 5, compress_ratio=4)(pyramid())
    assert torch.equal(outs[4], outs[3][:, :, ::2, ::2])


@pytest.mark.golden("neck_carafe_fpn*", "concat_cascade*")
def test_agrees_with_the_authors_implementation(golden, golden_path):
    build = FreqFusionCARAFEFPN if "carafe" in golden_path.stem else FreqFusionConcat
    neck = build(**golden.meta).double()
    neck.load_state_dict(golden.state, strict=True)
    feats = {name: golden.inputs[name].requires_grad_() for name in sorted(golden.inputs)}
    outs = neck(list(feats.values()))
    outs = (
        dict(zip(map(str, range(5)), outs, strict=True))
        if build is FreqFusionCARAFEFPN
        else {"": outs}
    )
    assert set(outs) == set(golden.outputs) == set(golden.cotangents)
    sum((outs[name] * golden.cotangents[name]).sum() for name in outs).backward()
    pairs = [(outs[name], expected) for name, expected in golden.outputs.items()]
    pairs += [(feats[name].grad, expected) for name, expected in golden.gradients.items()]
    assert len(pairs) == len(golden.outputs) + len(feats)
    for value, expected in pairs:
        assert value.shape == expected.shape
        assert (value - expected).abs().max() <= 1e-9 * expected.abs().max()


class TestConcat:
    def test_sizes_channels_and_gradients(self):
        neck = FreqFusionConcat(CHANNELS)
        out = neck(pyramid())
        assert neck.out_channels == 80
        assert out.shape == (2, 80, 37, 45)
        out.square().sum().backward()
        assert all(p.grad is not None for p in neck.parameters())

    def test_published_segnext_tiny(self):
        neck = FreqFusionConcat([64, 160, 256])
        shapes = [fusion.lr_channel_compressor.weight.shape[:2] for fusion in neck.freqfusions]
        assert [tuple(shape) for shape in shapes] == [(104, 256), (120, 416)]

    def test_groups_take_turns(self):
        a, b = torch.arange(4.0).view(1, 4, 1, 1), torch.arange(10.0, 12).view(1, 2, 1, 1)
        assert concat_groups(a, b, 2).flatten().tolist() == [0, 1, 10, 2, 3, 11]
        assert concat_groups(a, b, 1).flatten().tolist() == [0, 1, 2, 3, 10, 11]

    def test_errors(self):
        with pytest.raises(ValueError, match=r"in_channels must name at least two maps, got \[8\]"):
            FreqFusionConcat([8])
        with pytest.raises(
            ValueError, match=r"feature_resample_group must divide .*\[8, 6\], got 4"
        ):
            FreqFusionConcat([8, 6])
        with pytest.raises(ValueError, match="feature_resample_group must be a positive.*got 0"):
            FreqFusionConcat([8, 8], feature_resample_group=0)
        with pytest.raises(ValueError, match="feats must be 2 maps, got 3"):
            FreqFusionConcat([16, 16])(pyramid()[:3])
        with pytest.raises(TypeError, match="use_low_pass"):
            FreqFusionConcat([8, 16], use_low_pass=True)


@pytest.mark.parametrize("neck", [FreqFusionFPN, FreqFusionCARAFEFPN])
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_outs": 3}, "num_outs must be at least 4, got 3"),
        ({"num_outs": 4, "end_level": 1}, "num_outs must be exactly.*2, got 4"),
        ({"num_outs": 4, "start_level": 4}, "start_level and end_level .* got 4 and -1"),
        ({"num_outs": 4, "end_level": 4}, "start_level and end_level .* got 0 and 4"),
        ({"num_outs": 4, "compress_ratio": 0}, "compress_ratio must be a positive integer, got 0"),
    ],
)
def test_bad_levels(neck, settings, message):
    with pytest.raises(ValueError, match=message):
        neck(CHANNELS, 16, **settings)


def test_norms_and_activations_are_where_fpn_has_them():
    for no_norm_on_lateral in (False, True):
        neck = FreqFusionFPN(
            CHANNELS,
            16,
            4,
            no_norm_on_lateral=no_norm_on_lateral,
            norm_layer=nn.BatchNorm2d,
            act_layer=nn.ReLU,
            compress_ratio=4,
        )
        usual = [nn.Conv2d, nn.BatchNorm2d, nn.ReLU]
        lateral = [nn.Conv2d, nn.ReLU] if no_norm_on_lateral else usual
        assert [[type(m) for m in conv] for conv in neck.lateral_convs] == [lateral] * 4
        assert [[type(m) for m in conv] for conv in neck.fpn_convs] == [usual] * 4


@pytest.mark.parametrize("ratio", [1, 2, 4])
def test_compress_ratio(ratio):
    for neck in (FreqFusionFPN, FreqFusionCARAFEFPN):
        fusion = neck(CHANNELS, 16, 4, compress_ratio=ratio).alignment[0]
        assert fusion.hr_channel_compressor.out_channels == 32 // ratio


def test_channels_last_stays():
    feats = [x.detach().to(memory_format=torch.channels_last) for x in pyramid()]
    for out in FreqFusionFPN(CHANNELS, 16, 5, compress_ratio=4)(feats):
        assert out.is_contiguous(memory_format=torch.channels_last)
    out = FreqFusionConcat(CHANNELS)(feats)
    assert out.is_contiguous(memory_format=torch.channels_last)


def test_bad_arguments():
    with pytest.raises(TypeError, match="use_low_pass"):
        FreqFusionFPN(CHANNELS, 16, 1, start_level=3, use_low_pass=True)
    with pytest.raises(
        ValueError, match=r"got 4; compressed_channels is 2 \* out_channels // comp"
    ):
        FreqFusionFPN(CHANNELS, 16, 4)
    with pytest.raises(ValueError, match="add_extra_convs must be .*, got 'on_top'"):
        FreqFusionFPN(CHANNELS, 16, 5, add_extra_convs="on_top")
    with pytest.raises(TypeError, match="scale_factor"):
        FreqFusionFPN(CHANNELS, 16, 4, scale_factor=2)
    with pytest.raises(ValueError, match="feats must be 4 maps, got 3"):
        FreqFusionFPN(CHANNELS, 16, 4, compress_ratio=4)(pyramid()[:3])


FUSIONS = [
    {"type": "FreqFusion", "compress_ratio": 4},
    {"type": "Nearest"},
    {"type": "Bilinear", "align_corners": True},
    {"type": "CARAFE", "compressed_channels": 8},
    {"type": "DySample", "style": "pl", "dynamic_scope": True},
    {"type": "SAPA", "norm_groups": 4},
    {"type": "FADE", "kernel_size": 3},
]
NECKS = [FreqFusionFPN, FreqFusionCARAFEFPN]


class TestFusion:
    """The argument that chooses between FreqFusion and the methods it is compared with."""

    @pytest.mark.parametrize("fusion", FUSIONS, ids=lambda fusion: fusion["type"])
    @pytest.mark.parametrize("neck", NECKS)
    def test_every_type(self, neck, fusion):
        kept = dict(fusion)
        built = neck(CHANNELS, 16, 5, fusion=fusion)
        assert fusion == kept
        expected = getattr(layers, fusion["type"])
        levels = 3 if neck is FreqFusionFPN else 4
        assert [type(m) for m in built.alignment] == [expected] * levels
        check_pyramid(built, {"num_outs": 5})

    @pytest.mark.parametrize("fusion", FUSIONS[1:], ids=lambda fusion: fusion["type"])
    def test_what_a_fusion_returns_is_passed_on(self, fusion):
        neck = FreqFusionFPN(CHANNELS, 16, 4, fusion=fusion)
        feats = pyramid(batch=1)
        laterals = [conv(feat) for conv, feat in zip(neck.lateral_convs, feats, strict=True)]
        for level in (2, 1, 0):
            laterals[level] = neck.alignment[level](laterals[level], laterals[level + 1])
        for out, conv, lateral in zip(neck(feats), neck.fpn_convs, laterals, strict=True):
            assert torch.equal(out, conv(lateral))

    @pytest.mark.parametrize("neck", NECKS)
    def test_default_is_freqfusion(self, neck):
        options = {"compress_ratio": 4, "feature_resample": False, "hamming_window": False}
        states = []
        for arguments in (
            options,
            {"fusion": {"type": "FreqFusion"}, **options},
            {"fusion": {"type": "FreqFusion", **options}},
        ):
            torch.manual_seed(0)
            states.append(neck(CHANNELS, 16, 4, **arguments).state_dict())
        first, *others = states
        assert not any("dysampler" in name for name in first)
        for state in others:
            assert list(state) == list(first)
            assert all(map(torch.equal, state.values(), first.values()))
        resampling = neck(CHANNELS, 16, 4, fusion={"type": "FreqFusion", "compress_ratio": 4})
        assert any("dysampler" in name for name in resampling.state_dict())

    @pytest.mark.parametrize("inside", [True, False])
    def test_options_in_or_out_of_the_dict(self, inside):
        options = {"kernel_size": 3, "compressed_channels": 4}
        arguments = {"fusion": {"type": "CARAFE"}} | ({} if inside else options)
        arguments["fusion"] |= options if inside else {}
        fusion = FreqFusionFPN(CHANNELS, 16, 4, **arguments).alignment[0]
        assert fusion.content_encoder.weight.shape == (36, 4, 3, 3)

    @pytest.mark.parametrize("kind", ["Nearest", "Bilinear"])
    def test_without_parameters_it_is_a_plain_fpn(self, kind):
        neck = FreqFusionFPN(CHANNELS, 16, 4, fusion={"type": kind})
        assert not any(name.startswith("alignment") for name in neck.state_dict())
        fused = FreqFusionFPN(CHANNELS, 16, 4, compress_ratio=4)
        plain = {k: v for k, v in fused.state_dict().items() if not k.startswith("alignment")}
        neck.load_state_dict(plain, strict=True)

    @pytest.mark.parametrize("without", [True, False])
    def test_no_norm_on_any_lateral(self, without):
        options = dict(no_norm_on_lateral=without, norm_layer=nn.BatchNorm2d)
        neck = FreqFusionCARAFEFPN([64, 64], 64, num_outs=3, **options)
        assert [hasattr(conv, "norm") for conv in neck.lateral_convs] == [not without] * 3

    @pytest.mark.parametrize("levels", [1, 4])
    @pytest.mark.parametrize(
        ("arguments", "error", "message"),
        [
            (
                {"fusion": {"type": "Carafe"}},
                ValueError,
                r"fusion\['type'\] must be 'FreqFusion', 'Nearest', .* or 'FADE', got 'Carafe'",
            ),
            ({"fusion": {"groups": 4}}, ValueError, r"fusion\['type'\] must be .*, got None"),
            ({"fusion": "CARAFE"}, TypeError, "fusion must be a dict with a type, got 'CARAFE'"),
            ({"fusion": {"type": "CARAFE", "group": 1}}, TypeError, "'group'"),
            ({"fusion": {"type": "CARAFE"}, "compress_ratio": 4}, TypeError, "compress_ratio"),
            ({"fusion": {"type": "Nearest"}, "feature_resample": True}, TypeError, "resample"),
            ({"fusion": {"type": "FreqFusion", "use_low_pass": True}}, TypeError, "use_low_pass"),
            ({"fusion": {"type": "DySample", "groups": 4}, "groups": 4}, TypeError, "groups"),
            ({"compressed_channels": 8}, TypeError, "compressed_channels .* use compress_ratio"),
        ],
        ids=str,
    )
    def test_errors(self, arguments, error, message, levels):
        with pytest.raises(error, match=message):
            FreqFusionFPN(CHANNELS, 16, levels, start_level=4 - levels, **arguments)

    def test_options_of_a_peer_are_checked(self):
        with pytest.raises(ValueError, match="norm_groups must divide channels = 16, got 32"):
            FreqFusionFPN(CHANNELS, 16, 4, fusion={"type": "SAPA"})


class TestFusionInOpenMMLab:
    """The same in the registered neck; `TestEquivalenceToFPN` has FPN's other settings."""

    @staticmethod
    def build(library, **settings):
        pytest.importorskip("mmcv._ext" if library == "mmdet" else "mmcv")
        pytest.importorskip(library)
        import freqfusion.integrations.openmmlab  # noqa: F401

        importlib.import_module(f"{library}.models")
        registry = importlib.import_module(f"{library}.registry").MODELS
        return registry.build(dict(in_channels=CHANNELS, out_channels=16, **settings))

    @pytest.mark.parametrize("size", [(64, 96), (37, 45)])
    @pytest.mark.parametrize(
        "settings",
        [
            {"num_outs": 4},
            {"num_outs": 5, "start_level": 1, "add_extra_convs": "on_input"},
            {"num_outs": 5, "norm_cfg": {"type": "BN"}, "act_cfg": {"type": "ReLU"}},
        ],
        ids=str,
    )
    @pytest.mark.parametrize("library", ["mmseg", "mmdet"])
    def test_nearest_is_the_librarys_fpn(self, library, settings, size):
        plain = self.build(library, type="FPN", **settings)
        ours = self.build(library, type="FreqFusionFPN", fusion=dict(type="Nearest"), **settings)
        ours.load_state_dict(plain.state_dict(), strict=True)
        plain.load_state_dict(ours.state_dict(), strict=True)
        feats = [x.detach() for x in pyramid(size=size)]
        outs, expected = ours(feats), plain(feats)
        assert len(outs) == len(expected) == settings["num_outs"]
        assert all(map(torch.equal, outs, expected))

    @pytest.mark.parametrize("fusion", FUSIONS, ids=lambda fusion: fusion["type"])
    @pytest.mark.parametrize("neck", ["FreqFusionFPN", "FreqFusionCARAFEFPN"])
    def test_every_type(self, neck, fusion):
        built = self.build("mmseg", type=neck, num_outs=5, fusion=fusion)
        assert type(built.alignment[0]) is getattr(layers, fusion["type"])
        for parameter in built.parameters():
            nn.init.constant_(parameter, 7.0)
        built.init_weights()  # the fusions keep their own initialisation
        assert not any((parameter == 7).any() for parameter in built.parameters())
        if fusion["type"] == "CARAFE":
            assert 0 < built.alignment[0].content_encoder.weight.std() < 0.002
        check_pyramid(built, {"num_outs": 5})

    def test_unknown_option(self):
        with pytest.raises(TypeError, match="kernel"):
            self.build(
                "mmseg", type="FreqFusionFPN", num_outs=4, fusion=dict(type="FADE", kernel=3)
            )
