import itertools
import warnings

import oracle
import pytest
import torch
import torch.nn.functional as F
from torch._dynamo.testing import CompileCounterWithBackend
from torch.utils.flop_counter import FlopCounterMode

from freqfusion import FreqFusion, FreqFusionFPN, FreqFusionOutput
from freqfusion.layers.filters import hamming2d, nearest_resize
from freqfusion.layers.offsets import OffsetGenerator, sample, sub_pixel_centres

LAYER_FILES = ["default*", "resample*", "no_*", "plain*", "reflect*", "kernels*"]
SIZES = [  # fine, coarse
    ((12, 16), (6, 8)),
    ((27, 33), (14, 17)),
    ((13, 13), (13, 13)),
    ((64, 64), (16, 16)),
    ((1, 1), (1, 1)),
    ((2, 1), (1, 1)),
    ((20, 7), (13, 3)),
]

# Errors relative to the norm, for weights that make sharp masks and large offsets.
TOLERANCES = {torch.bfloat16: 0.08, torch.float16: 0.01, torch.float64: 1e-5}


def inputs(
    fine=(12, 16), coarse=(6, 8), batch=2, dtype=torch.float32, layout=None, channels=(8, 16)
):
    shapes = (batch, channels[0], *fine), (batch, channels[1], *coarse)
    layout = layout or torch.contiguous_format
    maps = (torch.randn(shape, dtype=dtype).to(memory_format=layout) for shape in shapes)
    return [x.requires_grad_() for x in maps]


def lively(layer):
    """Larger weights than the initial ones, so that masks and offsets are far from uniform."""
    for name, parameter in layer.named_parameters():
        if "norm" not in name:
            torch.nn.init.normal_(parameter, std=0.3)
    return layer


def small(**options):
    options = {"compressed_channels": 8, "feature_resample": True} | options
    return lively(FreqFusion(8, 16, **options))


@pytest.mark.golden(*LAYER_FILES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-4)])
def test_agrees_with_the_authors_implementation(golden, dtype, tolerance):
    layer = FreqFusion(**golden.meta).to(dtype)
    layer.load_state_dict(golden.state, strict=True)
    feats = {name: golden.inputs[name].to(dtype).requires_grad_() for name in ("hr", "lr")}
    out = layer(feats["hr"], feats["lr"])
    actual = {"mask_lr": out.mask_lr, "hr": out.hr_feat, "lr": out.lr_feat}
    loss = sum((actual[name] * cotangent).sum() for name, cotangent in golden.cotangents.items())
    loss.backward()
    parameters = dict(layer.named_parameters())
    assert set(golden.parameter_gradients) == set(parameters)
    pairs = [(actual[name], expected) for name, expected in golden.outputs.items()]
    pairs += [(feats[name].grad, expected) for name, expected in golden.gradients.items()]
    pairs += [(parameters[k].grad, expected) for k, expected in golden.parameter_gradients.items()]
    for value, expected in pairs:
        assert value.shape == expected.shape
        assert (value.double() - expected).abs().max() <= tolerance * expected.abs().max()


@pytest.mark.parametrize("padding_mode", ["zeros", "reflect"])
@pytest.mark.parametrize("offset_mode", ["sim_concat", "sim"])
@pytest.mark.parametrize(
    ("fine", "coarse"), [((8, 12), (4, 6)), ((9, 7), (5, 4)), ((8, 9), (3, 9))]
)
def test_against_oracle(fine, coarse, offset_mode, padding_mode):
    layer = small(offset_mode=offset_mode, padding_mode=padding_mode, up_group=2).double()
    maps = inputs(fine, coarse, dtype=torch.float64)
    _, *actual = layer(*maps)
    expected = oracle.freq_fusion(layer, *maps)
    for value, reference in zip(actual, expected, strict=True):
        torch.testing.assert_close(value, reference, rtol=0, atol=1e-10)
    grads = [
        torch.autograd.grad(sum(x.square().sum() for x in y), maps) for y in (actual, expected)
    ]
    for value, reference in zip(*grads, strict=True):
        torch.testing.assert_close(value, reference, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("fine", "coarse"), SIZES, ids=str)
@pytest.mark.parametrize(
    "options", [{}, {"comp_feat_upsample": False}, {"semi_conv": False}], ids=str
)
def test_any_size_without_a_warning(fine, coarse, options, poisoned_memory):
    layer = small(**options)
    hr, lr = inputs(fine, coarse)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", ".*does not have a deterministic implementation")
        out = layer(hr, lr)
        sum(x.square().sum() for x in out).backward()
    assert isinstance(out, FreqFusionOutput)
    assert [tuple(x.shape) for x in out] == [(2, 25, *fine), (2, 8, *fine), (2, 16, *fine)]
    torch.testing.assert_close(out.mask_lr.sum(1), torch.ones(2, *fine))
    for tensor in (*out, hr.grad, lr.grad, *(p.grad for p in layer.parameters())):
        assert tensor.isfinite().all()
    for name, parameter in layer.named_parameters():
        if fine != (1, 1):  # the similarity of a single pixel is zero, and so are some gradients
            assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64], ids=str)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_dtypes_and_layouts(dtype, layout):
    layer = small()
    hr, lr = inputs(layout=layout)
    expected = layer(hr, lr)
    typed = small(compressed_channels=8).to(dtype)
    typed.load_state_dict(layer.state_dict())
    maps = [x.detach().to(dtype).requires_grad_() for x in (hr, lr)]
    out = typed(*maps)
    sum(x.sum() for x in out).backward()
    for value, reference in zip(out, expected, strict=True):
        assert value.dtype == dtype
        error = (value.float() - reference).norm() / reference.norm()
        assert error < TOLERANCES[dtype], error
    assert all(x.is_contiguous(memory_format=layout) for x in out[1:])
    assert all(x.grad.dtype == dtype and x.grad.isfinite().all() for x in maps)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast(dtype):
    layer = small()
    hr, lr = inputs()
    expected = layer(hr, lr)
    with torch.autocast("cpu", dtype):
        out = layer(hr, lr)
    sum(x.float().sum() for x in out).backward()
    for value, reference in zip(out, expected, strict=True):
        assert value.dtype == dtype
        assert (value.float() - reference).norm() / reference.norm() < TOLERANCES[dtype]
    assert all(p.grad.dtype == torch.float32 for p in layer.parameters())
    assert hr.grad.dtype == lr.grad.dtype == torch.float32


def test_empty_batch():
    layer = small()
    hr, lr = inputs(batch=0)
    out = layer(hr, lr)
    sum(x.sum() for x in out).backward()
    assert [x.shape[0] for x in out] == [0, 0, 0]
    assert hr.grad.shape == hr.shape


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("offset_mode", ["sim_concat", "sim"])
def test_gradcheck(groups, offset_mode):
    layer = FreqFusion(
        2,
        4,
        compressed_channels=8,
        up_group=groups,
        feature_resample=True,
        feature_resample_group=2,
        offset_mode=offset_mode,
    )
    layer = lively(layer).double()
    hr, lr = inputs((4, 5), (2, 3), 1, torch.float64, channels=(2, 4))
    parameters = [p for name, p in layer.named_parameters() if name.endswith("bias")]
    assert torch.autograd.gradcheck(lambda *_: tuple(layer(hr, lr)), (hr, lr, *parameters))


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compiles_to_one_graph(backend):
    layer = small()
    compiled = torch.compile(layer, fullgraph=True, backend=backend)
    hr, lr = inputs()
    expected, out = layer(hr, lr), compiled(hr, lr)
    for value, reference in zip(out, expected, strict=True):
        torch.testing.assert_close(value, reference, rtol=1e-4, atol=1e-4)
    grads = [torch.autograd.grad(sum(x.sum() for x in y), (hr, lr)) for y in (out, expected)]
    for value, reference in zip(*grads, strict=True):
        torch.testing.assert_close(value, reference, rtol=1e-3, atol=1e-3)


def test_exports_with_dynamic_sizes():
    layer = small().eval()
    h, w = torch.export.Dim("h", min=2, max=64), torch.export.Dim("w", min=2, max=64)
    shapes = {2: 2 * h, 3: 2 * w}, {2: h, 3: w}
    maps = [x.detach() for x in inputs()]
    program = torch.export.export(layer, tuple(maps), dynamic_shapes=shapes)
    for fine, coarse in (((12, 16), (6, 8)), ((20, 8), (10, 4))):
        maps = [x.detach() for x in inputs(fine, coarse)]
        for value, reference in zip(program.module()(*maps), layer(*maps), strict=True):
            torch.testing.assert_close(value, reference)


def test_necks_do_not_recompile_for_every_size():
    counter = CompileCounterWithBackend("aot_eager")
    neck = FreqFusionFPN([8, 16], 16, 2, compress_ratio=4)
    compiled = torch.compile(neck, backend=counter, dynamic=True, fullgraph=True)
    for size in (20, 22, 26, 21, 23, 27, 33):
        maps = [torch.randn(1, 8, size, size + 4), torch.randn(1, 16, -(-size // 2), size // 2 + 2)]
        for value, reference in zip(compiled(maps), neck(maps), strict=True):
            torch.testing.assert_close(value, reference, rtol=1e-4, atol=1e-4)
    assert counter.frame_count <= 2  # twice as large, and other ratios


def test_convolutions_can_be_hooked_and_parametrised():
    layer = small()
    expected = layer(*inputs_of(layer))
    called = []
    convs = [m for m in layer.modules() if isinstance(m, torch.nn.Conv2d)]
    for conv in convs:
        conv.register_forward_hook(lambda module, *_: called.append(module))
    for value, reference in zip(layer(*inputs_of(layer)), expected, strict=True):
        torch.testing.assert_close(value, reference, rtol=1e-4, atol=1e-4)
    assert set(called) == set(convs)
    torch.nn.utils.parametrizations.weight_norm(layer.content_encoder2)
    sum(x.sum() for x in layer(*inputs_of(layer))).backward()
    parameters = dict(layer.content_encoder2.named_parameters())
    assert all(p.grad is not None for p in parameters.values()) and len(parameters) == 3


@pytest.mark.parametrize("hook", ["full_backward_pre_hook", "full_backward_hook"])
def test_convolutions_can_be_watched_in_backward(hook):
    layer = small()
    convs = [m for m in layer.modules() if isinstance(m, torch.nn.Conv2d)]
    called = []
    for conv in convs:
        getattr(conv, f"register_{hook}")(lambda module, *_: called.append(module))
    sum(x.sum() for x in layer(*inputs_of(layer))).backward()
    assert set(called) == set(convs)


def test_convolutions_can_be_of_another_class_and_replaced():
    class Higher(torch.nn.Conv2d):
        def forward(self, x):
            return super().forward(x) + 3

    layer = small()
    before = layer(*inputs_of(layer))[2]
    layer.dysampler.offset.__class__ = Higher
    assert not torch.allclose(layer(*inputs_of(layer))[2], before)
    layer.dysampler.offset.__class__ = torch.nn.Conv2d
    layer.dysampler.offset.forward = lambda x: x.new_ones(x.shape[0], 32, *x.shape[2:])
    assert not torch.allclose(layer(*inputs_of(layer))[2], before)


@pytest.mark.parametrize(
    "make", [lambda: FreqFusion(16, 16), lambda: FreqFusionFPN([16] * 2, 32, 2)]
)
def test_shapes_on_the_meta_device(make):
    maps = [torch.randn(2, 16, 8, 9), torch.randn(2, 16, 4, 5)]
    module = make()
    expected = module(*maps) if isinstance(module, FreqFusion) else module(maps)
    module, maps = module.to("meta"), [x.to("meta") for x in maps]
    outs = module(*maps) if isinstance(module, FreqFusion) else module(maps)
    assert [out.shape for out in outs] == [out.shape for out in expected]
    assert all(out.is_meta for out in outs)


def inputs_of(layer):
    torch.manual_seed(1)
    return inputs(channels=(layer.hr_channels, layer.lr_channels))


def test_initialisation_after_a_meta_device():
    with torch.device("meta"):
        layer = FreqFusion(8, 16, compressed_channels=8, feature_resample=True)
    layer.to_empty(device="cpu")
    with torch.no_grad():
        for value in (*layer.parameters(), *layer.buffers()):
            value.fill_(torch.nan)
    layer.reset_parameters()
    usual = FreqFusion(8, 16, compressed_channels=8, feature_resample=True)
    for (name, buffer), expected in zip(layer.named_buffers(), usual.buffers(), strict=True):
        assert torch.equal(buffer, expected), name
    assert all(x.isfinite().all() for x in layer(*inputs()))


@pytest.mark.parametrize("where", ["call", "constructor"])
def test_activation_checkpointing_changes_nothing_but_memory(where):
    layer = small()
    hr, lr = inputs()
    kept, saved = [], []
    for tensors, use_checkpoint in ((kept, False), (saved, True)):
        if where == "constructor":
            other = small(use_checkpoint=use_checkpoint)
            other.load_state_dict(layer.state_dict())
            layer, use_checkpoint = other, False
        with torch.autograd.graph.saved_tensors_hooks(
            lambda x, t=tensors: t.append(x) or x, lambda x: x
        ):
            out = layer(hr, lr, use_checkpoint=use_checkpoint)
        grads = torch.autograd.grad(sum(x.sum() for x in out), (hr, lr))
        tensors[:] = [*out, *grads, torch.tensor(len(tensors))]
    assert all(map(torch.equal, kept[:-1], saved[:-1]))
    assert saved[-1] < kept[-1] / 2


@pytest.mark.parametrize(
    ("options", "parameters"),
    [
        ({}, 52_514),
        ({"feature_resample": True}, 104_690),
        ({"feature_resample": True, "feature_resample_norm": False}, 104_434),
        ({"feature_resample": True, "feature_resample_group": 8}, 156_610),
        ({"feature_resample": True, "offset_mode": "sim"}, 78_770),
    ],
)
def test_parameter_counts(options, parameters):
    layer = FreqFusion(256, 256, **options)
    assert sum(p.numel() for p in layer.parameters()) == parameters


def test_initialisation():
    layer = FreqFusion(64, 64, feature_resample=True)
    assert layer.content_encoder.weight.std().item() == pytest.approx(0.001, rel=0.05)
    assert layer.content_encoder2.weight.std().item() == pytest.approx(0.001, rel=0.05)
    assert layer.hr_channel_compressor.weight.abs().max() <= (6 / 128) ** 0.5
    assert all(
        p.abs().sum() == 0 for n, p in layer.named_parameters() if "norm" not in n and "bias" in n
    )
    hr, lr = torch.randn(1, 64, 32, 32), torch.randn(1, 64, 16, 16)
    offsets = layer.dysampler.predict(
        layer.hr_channel_compressor(hr), layer.lr_channel_compressor(lr)
    )
    assert 0.3 < offsets.abs().mean() < 1.2  # the published start, about 0.65 coarse pixels


@pytest.mark.parametrize(("fine", "coarse"), SIZES, ids=str)
def test_zero_offsets_are_the_identity(fine, coarse):
    maps = inputs(fine, coarse)
    still = FreqFusion(8, 16, compressed_channels=8, feature_resample=True, zero_init_offset=True)
    without = FreqFusion(8, 16, compressed_channels=8)
    without.load_state_dict(still.state_dict(), strict=False)
    torch.testing.assert_close(still(*maps).lr_feat, without(*maps).lr_feat, rtol=0, atol=1e-5)


def test_offsets_move_samples_in_coarse_pixels():
    feature = torch.arange(8.0).expand(1, 2, 8, 8).clone()
    offset = torch.zeros(1, 4, 8, 8)
    offset[:, 1] = 1  # x of group 1: one coarse pixel, two fine ones
    moved = sample(feature, offset, (4, 4))
    torch.testing.assert_close(moved[0, 0], feature[0, 0])
    torch.testing.assert_close(moved[0, 1, 0], torch.tensor([2.0, 3, 4, 5, 6, 7, 7, 7]))


def test_coordinates_are_float32():
    """A bfloat16 coordinate is off by pixels in a large map."""
    feature = torch.arange(512.0).expand(1, 1, 2, 512).to(torch.bfloat16)
    still = sample(feature, torch.zeros(1, 2, 2, 512, dtype=torch.bfloat16), (1, 256))
    assert torch.equal(still, feature)


@pytest.mark.parametrize(("fine", "coarse"), [((16, 16), (8, 8)), ((16, 12), (4, 6))])
def test_offsets_are_measured_in_coarse_pixels_at_every_ratio(fine, coarse):
    generator = OffsetGenerator(8, groups=1, zero_init=True)
    with torch.no_grad():  # x moves by 1 coarse pixel, y by 0.5: the gate is sigmoid(0) = 0.5
        generator.hr_offset.bias.copy_(torch.tensor([2.0, 1.0]))
        torch.nn.init.zeros_(generator.direct_scale.weight)
        torch.nn.init.zeros_(generator.hr_direct_scale.weight)
    rows = torch.arange(float(fine[0]))[:, None].expand(fine)
    cols = torch.arange(float(fine[1])).expand(fine)
    feature = torch.stack((cols, rows))[None]
    hr, lr = torch.randn(1, 8, *fine), torch.randn(1, 8, *coarse)
    moved = generator(hr, lr, feature) - feature
    step = fine[1] / coarse[1], 0.5 * fine[0] / coarse[0]
    torch.testing.assert_close(moved[0, 0, 0, 0], torch.tensor(step[0]))
    torch.testing.assert_close(moved[0, 1, 0, 0], torch.tensor(step[1]))


def test_initial_positions_are_centres_of_sub_pixels():
    x, y = sub_pixel_centres(2).reshape(2, 2, 2, 2)
    assert torch.equal(x[0], torch.tensor([[-0.25, 0.25], [-0.25, 0.25]]))
    assert torch.equal(y[1], torch.tensor([[-0.25, -0.25], [0.25, 0.25]]))


@pytest.mark.parametrize(("size", "target"), [*itertools.product([3, 7, 49], [3, 13, 49, 98, 97])])
def test_nearest_resize_is_exact(size, target):
    if target >= size:
        x = torch.arange(float(size)).expand(1, 1, size, size)
        expected = [i * size // target for i in range(target)]
        assert nearest_resize(x, (target, target))[0, 0, 0].tolist() == expected


@pytest.mark.parametrize("mode", ["nearest", "bilinear", "bicubic"])
def test_upsample_modes(mode):
    layer = small(semi_conv=False, upsample_mode=mode)
    assert layer(*inputs((13, 15), (7, 8))).lr_feat.shape == (2, 16, 13, 15)


@pytest.mark.parametrize("align_corners", [False, True])
def test_align_corners(align_corners):
    layer = small(
        semi_conv=False,
        upsample_mode="bilinear",
        align_corners=align_corners,
        feature_resample=False,
    )
    torch.nn.init.zeros_(layer.content_encoder.weight)
    torch.nn.init.zeros_(layer.content_encoder.bias)
    layer.hamming_lowpass.zero_()[..., 2, 2] = 1  # the filter is the identity
    hr, lr = inputs((13, 15), (7, 8))
    expected = F.interpolate(lr, (13, 15), mode="bilinear", align_corners=align_corners)
    torch.testing.assert_close(layer(hr, lr).lr_feat, expected)


def test_every_combination_of_switches():
    names = ["comp_feat_upsample", "use_high_pass", "hr_residual", "semi_conv", "hamming_window"]
    for values in itertools.product([False, True], repeat=len(names)):
        layer = small(**dict(zip(names, values, strict=True)))
        out = layer(*inputs())
        sum(x.square().sum() for x in out).backward()
        unused = [name for name, p in layer.named_parameters() if p.grad is None]
        assert not unused, (values, unused)


def test_without_high_pass_the_fine_map_is_untouched():
    hr, lr = inputs()
    assert small(use_high_pass=False)(hr, lr).hr_feat is hr


def test_counts_flops():
    layer = FreqFusion(32, 32, compressed_channels=16)
    with FlopCounterMode(display=False) as counter:
        layer(torch.randn(1, 32, 16, 16), torch.randn(1, 32, 8, 8))
    reassembled = 2 * 256 * (25 * (25 + 9 + 32) + 9 * (16 + 32))
    fine_convs = 2 * 256 * (32 * 16 + 16 * 9 * (25 + 9))
    coarse_convs = 2 * 64 * (32 * 16 + 16 * 9 * (25 + 9))
    assert counter.get_total_flops() == reassembled + fine_convs + coarse_convs


@pytest.mark.parametrize("name", ["scale_factor", "use_low_pass", "compresed_channels"])
def test_unknown_arguments_are_named(name):
    with pytest.raises(TypeError, match=name):
        FreqFusion(8, 8, **{name: 1})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lowpass_kernel": 4}, "lowpass_kernel must be an odd positive integer, got 4"),
        ({"highpass_kernel": 2}, "highpass_kernel must be an odd positive integer, got 2"),
        ({"encoder_kernel": 0}, "encoder_kernel must be an odd positive integer, got 0"),
        ({"padding_mode": "circular"}, "padding_mode must be .*, got 'circular'"),
        ({"upsample_mode": "area"}, "upsample_mode must be .*, got 'area'"),
        ({"up_group": 3}, "up_group must divide hr_channels = 8, got 3"),
        (
            {"compressed_channels": 10, "up_group": 4},
            "up_group must divide compressed_channels = 10, got 4",
        ),
        ({"lr_channels": 12, "up_group": 8}, "up_group must divide lr_channels = 12, got 8"),
        (
            {"feature_resample": True, "feature_resample_group": 3},
            "feature_resample_group must divide lr_channels = 16, got 3",
        ),
        (
            {"feature_resample": True, "compressed_channels": 26},
            "compressed_channels must be at least 8 and divisible by .* got 26",
        ),
        (
            {"feature_resample": True, "compressed_channels": 4},
            "compressed_channels must be at least 8 and divisible by .* got 4",
        ),
        ({"feature_resample": True, "offset_mode": "s"}, "offset_mode must be .*, got 's'"),
        ({"offset_mode": "s"}, "offset_mode must be .*, got 's'"),
        ({"hr_channels": 0}, "hr_channels must be a positive integer, got 0"),
        ({"compressed_channels": 0}, "compressed_channels must be a positive integer, got 0"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        FreqFusion(**{"hr_channels": 8, "lr_channels": 16} | options)


@pytest.mark.parametrize(
    ("hr", "lr", "message"),
    [
        ((2, 8, 4, 4), (2, 16, 8, 8), r"hr_feat must have at least .* \(8, 8\), got \(4, 4\)"),
        ((2, 8, 8, 8), (2, 16, 4, 9), r"hr_feat must have at least .* \(4, 9\), got \(8, 8\)"),
        ((2, 9, 8, 8), (2, 16, 4, 4), "hr_feat must have 8 channels, got 9"),
        ((2, 8, 8, 8), (2, 8, 4, 4), "lr_feat must have 16 channels, got 8"),
        ((2, 8, 8, 8), (1, 16, 4, 4), "lr_feat must have the batch size of hr_feat, 2, got 1"),
        ((8, 8, 8), (2, 16, 4, 4), r"hr_feat must be a map \(B, C, H, W\), got shape \(8, 8, 8\)"),
    ],
)
def test_bad_inputs(hr, lr, message):
    with pytest.raises(ValueError, match=message):
        small()(torch.zeros(hr), torch.zeros(lr))


def test_mixed_devices():
    hr, lr = inputs()
    with pytest.raises(
        ValueError, match="hr_feat must be on the device of the layer, cpu, got meta"
    ):
        small()(hr.to("meta"), lr)
    with pytest.raises(
        ValueError, match="lr_feat must be on the device of the layer, cpu, got meta"
    ):
        small()(hr, lr.to("meta"))


def test_offset_generator_alone():
    generator = OffsetGenerator(16, groups=2)
    hr, lr = torch.randn(1, 16, 9, 11), torch.randn(1, 16, 5, 6)
    assert generator.predict(hr, lr).shape == (1, 4, 9, 11)
    assert generator(hr, lr, torch.randn(1, 6, 9, 11)).shape == (1, 6, 9, 11)


@pytest.mark.parametrize("size", [1, 3, 5])
def test_hamming_window_is_symmetric(size):
    window = hamming2d(size)
    torch.testing.assert_close(window, window.flip(2, 3))
    assert window.amax() == 1
