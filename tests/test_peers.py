"""The methods that FreqFusion is compared with, against slow and plain versions of each."""

import itertools
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from freqfusion.layers import CARAFE, FADE, SAPA, Bilinear, DySample, Nearest
from freqfusion.layers.interpolation import UpsampleAdd
from freqfusion.layers.sapa import neighbour_scores

CHANNELS = 8
SMALL = {  # a few channels and a few groups
    Nearest: {},
    Bilinear: {},
    CARAFE: {"compressed_channels": 6},
    DySample: {"groups": 2},
    SAPA: {"embedding_channels": 6, "norm_groups": 4},
    FADE: {"compressed_channels": 6},
}
METHODS = [
    (Nearest, {}),
    (Bilinear, {}),
    (Bilinear, {"align_corners": True}),
    (CARAFE, {}),
    (CARAFE, {"kernel_size": 3, "encoder_kernel": 1}),
    *(
        (DySample, {"style": style, "dynamic_scope": scope})
        for style, scope in itertools.product(("lp", "pl"), (False, True))
    ),
    (SAPA, {}),
    (SAPA, {"kernel_size": 3}),
    (FADE, {}),
    (FADE, {"kernel_size": 3, "encoder_kernel": 5}),
]
EACH = [(method, {}) for method in SMALL]
SIZES = [  # fine, coarse
    ((8, 12), (4, 6)),
    ((9, 7), (5, 4)),
    ((8, 9), (3, 9)),
    ((5, 5), (5, 5)),
    ((12, 8), (3, 2)),
    ((7, 1), (3, 1)),
    ((1, 1), (1, 1)),
]
TOLERANCES = {torch.bfloat16: 0.05, torch.float16: 0.006}
every_method = pytest.mark.parametrize(("method", "options"), METHODS, ids=str)
each_method = pytest.mark.parametrize(("method", "options"), EACH, ids=str)


def small(method, **options):
    """A fusion of few channels, with weights that make sharp kernels and large offsets."""
    fusion = method(CHANNELS, **(SMALL[method] | options))
    for name, parameter in fusion.named_parameters():
        torch.nn.init.normal_(parameter, mean=float("norm" in name), std=0.3)
    return fusion


def inputs(fine=(12, 16), coarse=(6, 8), batch=2, dtype=torch.float32, layout=None):
    layout = layout or torch.contiguous_format
    maps = (torch.randn(batch, CHANNELS, *size, dtype=dtype) for size in (fine, coarse))
    return [x.to(memory_format=layout).requires_grad_() for x in maps]


# Each method by its definition; differentiated by autograd.


def sources(target, source):
    return torch.arange(target) * source // target


def enlarge(x, size):
    rows, cols = (sources(t, s) for t, s in zip(size, x.shape[2:], strict=True))
    return x[:, :, rows][:, :, :, cols]


def neighbourhoods(x, kernel_size, size):
    """(B, C, k*k, H, W): what lies around the coarse pixel of every fine one; zeros outside."""
    unfolded = F.unfold(x, kernel_size, padding=kernel_size // 2)
    unfolded = unfolded.reshape(x.shape[0], -1, *x.shape[2:])
    return enlarge(unfolded, size).unflatten(1, (x.shape[1], kernel_size**2))


def filtered(x, logits, kernel_size):
    weights = logits.exp() / logits.exp().sum(1, keepdim=True)
    return (neighbourhoods(x, kernel_size, logits.shape[2:]) * weights[:, None]).sum(2)


def conv(module, x):
    return F.conv2d(x, module.weight, module.bias, padding=module.kernel_size[0] // 2)


def nearest(fusion, y, x):
    return y + enlarge(x, y.shape[2:])


def bilinear(fusion, y, x):
    matrices = []
    for target, source in zip(y.shape[2:], x.shape[2:], strict=True):
        if fusion.align_corners:
            step = (source - 1) / (target - 1) if target > 1 else 0
            positions = torch.arange(target, dtype=x.dtype) * step
        else:
            positions = (torch.arange(target, dtype=x.dtype) + 0.5) * source / target - 0.5
        matrices.append(hat(positions.clamp(0, source - 1), source))
    return y + torch.einsum("ip,jq,bcpq->bcij", *matrices, x)


def hat(positions, size):
    """Weight of every pixel of a row for linear interpolation at `positions`."""
    return (1 - (positions[..., None] - torch.arange(size)).abs()).clamp(min=0)


def carafe(fusion, y, x):
    logits = conv(fusion.content_encoder, conv(fusion.channel_compressor, x))
    logits = enlarge(F.pixel_shuffle(logits, 2), y.shape[2:])
    return y + filtered(x, logits, fusion.kernel_size)


def dysample(fusion, y, x):
    (height, width), (h, w), groups = y.shape[2:], x.shape[2:], fusion.groups
    seen = F.pixel_shuffle(x, 2) if fusion.style == "pl" else x
    offset = 0.25 * conv(fusion.offset, seen)
    if fusion.dynamic_scope:
        offset = 2 * offset * conv(fusion.scope, seen).sigmoid()
    if fusion.style == "pl":
        offset = F.pixel_unshuffle(offset, 2)
    offset = offset.unflatten(1, (2, groups, 2, 2))  # x or y, group, row, column of the sub-pixel
    out = []
    for group, part in enumerate(x.chunk(groups, 1)):
        pixels = []
        for i, j in itertools.product(range(height), range(width)):
            (row, below), (col, right) = (
                divmod(i * 2 * h // height, 2),
                divmod(j * 2 * w // width, 2),
            )
            move = offset[:, :, group, below, right, row, col]
            at_x = ((j + 0.5) * w / width - 0.5 + move[:, 0]).clamp(0, w - 1)
            at_y = ((i + 0.5) * h / height - 0.5 + move[:, 1]).clamp(0, h - 1)
            pixels.append(torch.einsum("bp,bq,bcpq->bc", hat(at_y, h), hat(at_x, w), part))
        out.append(torch.stack(pixels, 2).unflatten(2, (height, width)))
    return y + torch.cat(out, 1)


def group_norm(norm, x):
    grouped = x.unflatten(1, (norm.num_groups, -1)).flatten(2)
    grouped = grouped - grouped.mean(2, keepdim=True)
    scaled = grouped / (grouped.square().mean(2, keepdim=True) + norm.eps).sqrt()
    return scaled.view_as(x) * norm.weight[:, None, None] + norm.bias[:, None, None]


def sapa(fusion, y, x):
    query = conv(fusion.query, group_norm(fusion.norm_hr, y))
    key = conv(fusion.key, group_norm(fusion.norm_lr, x))
    return y + filtered(x, scores(query, key, fusion.kernel_size), fusion.kernel_size)


def scores(query, key, kernel_size):
    """One product after the other; taps outside of the image score 0."""
    (height, width), (h, w), reach = query.shape[2:], key.shape[2:], kernel_size // 2
    rows = []
    for down, right in itertools.product(range(-reach, reach + 1), repeat=2):
        for i, j in itertools.product(range(height), range(width)):
            row, col = i * h // height + down, j * w // width + right
            inside = 0 <= row < h and 0 <= col < w
            there = key[:, :, row, col] if inside else torch.zeros_like(key[:, :, 0, 0])
            rows.append((query[:, :, i, j] * there).sum(1))
    return torch.stack(rows, 1).unflatten(1, (kernel_size**2, height, width))


def fade(fusion, y, x):
    size = y.shape[2:]
    fine = conv(fusion.content_encoder, conv(fusion.hr_channel_compressor, y))
    coarse = conv(fusion.content_encoder, conv(fusion.lr_channel_compressor, x))
    upsampled = filtered(x, fine + enlarge(coarse, size), fusion.kernel_size)
    gate = enlarge(conv(fusion.gate, x), size).sigmoid()
    return gate * y + (1 - gate) * upsampled


ORACLES = {
    Nearest: nearest,
    Bilinear: bilinear,
    CARAFE: carafe,
    DySample: dysample,
    SAPA: sapa,
    FADE: fade,
}


@pytest.mark.parametrize(("fine", "coarse"), SIZES, ids=str)
@every_method
def test_against_oracle(method, options, fine, coarse):
    fusion = small(method, **options).double()
    maps = inputs(fine, coarse, dtype=torch.float64)
    out, expected = fusion(*maps), ORACLES[method](fusion, *maps)
    assert out.shape == (2, CHANNELS, *fine)
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-10)
    cotangent, leaves = torch.randn_like(out), [*maps, *fusion.parameters()]
    grads = [torch.autograd.grad((o * cotangent).sum(), leaves) for o in (out, expected)]
    for value, reference in zip(*grads, strict=True):
        torch.testing.assert_close(value, reference, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("fine", "coarse"), [*SIZES, ((64, 48), (16, 12))], ids=str)
@every_method
def test_any_size_without_a_warning(method, options, fine, coarse, poisoned_memory):
    fusion = small(method, **options)
    hr, lr = inputs(fine, coarse)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", ".*does not have a deterministic implementation")
        out = fusion(hr, lr)
        out.square().sum().backward()
    assert out.shape == (2, CHANNELS, *fine)
    for tensor in (out, hr.grad, lr.grad, *(p.grad for p in fusion.parameters())):
        assert tensor.isfinite().all()
    if fine == (64, 48):
        assert all(p.grad.abs().sum() > 0 for p in fusion.parameters())


@pytest.mark.parametrize("batch", [0, 1, 3])
@every_method
def test_batch_sizes(method, options, batch):
    fusion = small(method, **options)
    hr, lr = inputs(batch=batch)
    out = fusion(hr, lr)
    assert out.shape == hr.shape
    out.sum().backward()
    assert lr.grad.shape == lr.shape
    alone = [fusion(hr[i : i + 1], lr[i : i + 1]) for i in range(batch)]
    torch.testing.assert_close(out, torch.cat([out[:0], *alone]))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
@every_method
def test_dtypes_and_layouts(method, options, dtype, layout):
    fusion = small(method, **options)
    hr, lr = inputs(layout=layout)
    expected = fusion(hr, lr)
    assert expected.is_contiguous(memory_format=layout)
    with torch.autocast("cpu", dtype):
        cast = fusion(hr, lr)
    cast.float().sum().backward()
    assert all(p.grad.dtype == torch.float32 for p in fusion.parameters())
    assert hr.grad.dtype == lr.grad.dtype == torch.float32
    maps = [x.detach().to(dtype).requires_grad_() for x in (hr, lr)]
    out = fusion.to(dtype)(*maps)
    out.sum().backward()
    assert all(x.grad.dtype == dtype and x.grad.isfinite().all() for x in maps)
    for value in (cast, out):
        assert value.dtype == dtype
        assert value.is_contiguous(memory_format=layout)
        error = (value.float() - expected).norm() / expected.norm()
        assert error < TOLERANCES[dtype], error


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize(("fine", "coarse"), [((13, 15), (7, 8)), ((8, 9), (3, 9))])
@each_method
def test_layouts_at_odd_sizes(method, options, fine, coarse, layout):
    fusion, maps = small(method), inputs(fine, coarse)
    strided = [x.detach().to(memory_format=layout) for x in maps]
    out = fusion(*strided)
    assert out.is_contiguous(memory_format=layout)
    torch.testing.assert_close(out, fusion(*maps))


@every_method
def test_gradcheck(method, options):
    fusion = small(method, **options).double()
    hr, lr = inputs((5, 4), (3, 2), 1, torch.float64)
    biases = [p for name, p in fusion.named_parameters() if name.endswith("bias")]
    assert torch.autograd.gradcheck(lambda *_: fusion(hr, lr), (hr, lr, *biases))


@every_method
def test_compiles_to_one_graph(method, options):
    fusion = small(method, **options)
    torch.compiler.reset()  # the methods share their forward, and PyTorch counts its graphs
    compiled = torch.compile(fusion, fullgraph=True, backend="aot_eager")
    maps = inputs()
    leaves = [*maps, *fusion.parameters()]
    out, expected = compiled(*maps), fusion(*maps)
    torch.testing.assert_close(out, expected)
    grads = [torch.autograd.grad(o.square().sum(), leaves) for o in (out, expected)]
    for value, reference in zip(*grads, strict=True):
        torch.testing.assert_close(value, reference, rtol=1e-4, atol=1e-4)


@every_method
def test_exports_with_dynamic_sizes(method, options):
    fusion = small(method, **options).eval()
    h, w = torch.export.Dim("h", min=2, max=64), torch.export.Dim("w", min=2, max=64)
    maps = tuple(x.detach() for x in inputs())
    shapes = {2: 2 * h, 3: 2 * w}, {2: h, 3: w}
    program = torch.export.export(fusion, maps, dynamic_shapes=shapes)
    for fine, coarse in (((12, 16), (6, 8)), ((20, 8), (10, 4))):
        maps = [x.detach() for x in inputs(fine, coarse)]
        torch.testing.assert_close(program.module()(*maps), fusion(*maps))


@pytest.mark.parametrize(
    ("method", "options", "parameters"),
    [
        (Nearest, {}, 0),
        (Bilinear, {}, 0),
        (CARAFE, {}, 74_148),
        (DySample, {}, 8_224),
        (DySample, {"dynamic_scope": True}, 16_416),
        (DySample, {"style": "pl"}, 520),
        (DySample, {"style": "pl", "dynamic_scope": True}, 1_032),
        (SAPA, {}, 17_472),
        (FADE, {}, 47_514),
    ],
)
def test_parameter_counts(method, options, parameters):
    assert sum(p.numel() for p in method(256, **options).parameters()) == parameters


XAVIER, NONE = "Xavier", 0
STARTS = [  # standard deviation, or rule, of each weight at the start
    (CARAFE, {}, {"channel_compressor": XAVIER, "content_encoder": 0.001}),
    (DySample, {}, {"offset": 0.001}),
    (DySample, {"style": "pl", "dynamic_scope": True}, {"offset": 0.001, "scope": NONE}),
    (SAPA, {}, {"query": 0.02, "key": 0.02}),
    (
        FADE,
        {},
        dict.fromkeys(
            ("hr_channel_compressor", "lr_channel_compressor", "content_encoder", "gate"), XAVIER
        ),
    ),
]


@pytest.mark.parametrize("again", [False, True], ids=["constructor", "reset_parameters"])
@pytest.mark.parametrize(("method", "options", "starts"), STARTS, ids=str)
def test_initialisation(method, options, starts, again):
    fusion = method(256, **options)
    if again:
        for parameter in fusion.parameters():
            torch.nn.init.constant_(parameter, 7.0)
        fusion.reset_parameters()
    convs = {n: m for n, m in fusion.named_modules() if isinstance(m, torch.nn.Conv2d)}
    assert set(convs) == set(starts)
    for name, module in convs.items():
        weight, start = module.weight, starts[name]
        if start == XAVIER:
            taps = module.kernel_size[0] ** 2
            bound = (6 / (taps * (module.in_channels + module.out_channels))) ** 0.5
            assert 0.95 * bound < weight.abs().max() <= bound
            assert weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.1)
        elif start == NONE:
            assert not weight.any()
        else:
            assert weight.std().item() == pytest.approx(start, rel=0.1)
        assert module.bias is None or not module.bias.any()
    for norm in (m for m in fusion.modules() if isinstance(m, torch.nn.GroupNorm)):
        assert (norm.num_groups, norm.eps) == (32, 1e-5)
        assert (norm.weight == 1).all() and not norm.bias.any()


def test_biases_are_where_the_published_layers_have_them():
    biased = lambda m: {n for n, c in m.named_children() if getattr(c, "bias", None) is not None}  # noqa: E731
    assert biased(FADE(256)) == {"hr_channel_compressor", "content_encoder", "gate"}
    assert biased(DySample(256, dynamic_scope=True)) == {"offset"}


def test_after_a_meta_device():
    for method, options in EACH:
        with torch.device("meta"):
            fusion = method(CHANNELS, **(SMALL[method] | options))
        fusion.to_empty(device="cpu")
        with torch.no_grad():
            for parameter in fusion.parameters():
                parameter.fill_(torch.nan)
        fusion.reset_parameters()
        assert fusion(*inputs()).isfinite().all()
        assert not list(fusion.buffers())


class TestWhatEachMethodIs:
    """Facts that follow from the papers and need no oracle."""

    @staticmethod
    def ramp(fine=(12, 16), coarse=(6, 8)):
        ramp = torch.arange(float(coarse[1])).expand(1, CHANNELS, *coarse)
        return torch.zeros(1, CHANNELS, *fine), ramp.clone()

    @pytest.mark.parametrize("dynamic_scope", [False, True])
    @pytest.mark.parametrize("style", ["lp", "pl"])
    def test_dysample_starts_as_bilinear(self, style, dynamic_scope):
        fusion = DySample(CHANNELS, style, 2, dynamic_scope)
        torch.nn.init.zeros_(fusion.offset.weight)
        for fine, coarse in (((12, 16), (6, 8)), ((9, 7), (5, 4))):
            maps = inputs(fine, coarse)
            torch.testing.assert_close(fusion(*maps), Bilinear(CHANNELS)(*maps))

    def test_dynamic_scope_starts_at_the_static_one(self):
        plain, plus = DySample(CHANNELS), DySample(CHANNELS, dynamic_scope=True)
        torch.nn.init.normal_(plain.offset.weight)
        plus.load_state_dict(plain.state_dict(), strict=False)
        maps = inputs()
        torch.testing.assert_close(plus(*maps), plain(*maps))

    def test_dysample_moves_in_coarse_pixels(self):
        fusion = DySample(CHANNELS, groups=2)
        torch.nn.init.zeros_(fusion.offset.weight)
        with torch.no_grad():  # x of group 1, all four sub-pixels: 0.25 * 8 = 2 coarse pixels
            fusion.offset.bias[4:8] = 8
        still, moved = fusion(*self.ramp())[0, [0, -1], 5]
        centres = torch.arange(16) / 2 - 0.25
        torch.testing.assert_close(still, centres.clamp(0, 7))
        torch.testing.assert_close(moved, (centres + 2).clamp(0, 7))

    def test_uniform_kernels_are_a_box_blur(self):
        hr, lr = inputs()
        carafe, sapa = small(CARAFE), small(SAPA)
        for module in (carafe.content_encoder, sapa.query):
            torch.nn.init.zeros_(module.weight)
            torch.nn.init.zeros_(module.bias)
        blurred = enlarge(F.avg_pool2d(lr, 5, 1, 2), hr.shape[2:])  # divides by 25 at borders too
        for fusion in (carafe, sapa):
            torch.testing.assert_close(fusion(hr, lr), hr + blurred)

    @pytest.mark.parametrize(("logit", "kept"), [(50.0, 0), (-50.0, 1)])
    def test_fade_gates(self, logit, kept):
        fusion = small(FADE)
        torch.nn.init.zeros_(fusion.gate.weight)
        torch.nn.init.constant_(fusion.gate.bias, logit)
        hr, lr = inputs()
        expected = (hr, fusion.upsample(hr, lr))[kept]
        torch.testing.assert_close(fusion(hr, lr), expected)

    def test_sapa_taps_outside_of_the_image_take_part_with_score_zero(self):
        query, key = torch.ones(1, 4, 3, 3), torch.ones(1, 4, 2, 2)
        found = neighbour_scores(query, key, 3)[0, :, 0, 0]
        assert found.tolist() == [0, 0, 0, 0, 4, 4, 0, 4, 4]

    def test_only_guided_methods_read_the_fine_map(self):
        hr, lr = inputs()
        for method, options in EACH:
            fusion = small(method, **options)
            same = torch.equal(fusion.upsample(hr, lr), fusion.upsample(hr.detach() * 2 + 1, lr))
            assert same != (method in (SAPA, FADE)), method


class TestNeighbourScores:
    def test_sums_of_half_precision_maps_are_float32(self):
        query, key = (torch.randn(1, 64, 4, 4).half() for _ in range(2))
        found = neighbour_scores(query, key, 3)
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, scores(query.float(), key.float(), 3))

    def test_only_the_wanted_gradients(self):
        for wanted in itertools.product([False, True], repeat=2):
            query, key = (torch.randn(1, 4, 4, 4, requires_grad=w) for w in wanted)
            if any(wanted):
                neighbour_scores(query, key, 3).sum().backward()
            assert (query.grad is not None, key.grad is not None) == wanted

    def test_saves_nothing_but_its_inputs(self):
        query, key = (torch.randn(1, 4, n, n, requires_grad=True) for n in (8, 4))
        saved = []
        with torch.autograd.graph.saved_tensors_hooks(lambda x: saved.append(x) or x, lambda x: x):
            neighbour_scores(query, key, 5)
        assert [x.data_ptr() for x in saved] == [query.data_ptr(), key.data_ptr()]

    def test_counts_flops(self):
        query, key = (torch.randn(2, 4, n, n, requires_grad=True) for n in (8, 4))
        one = 2 * 25 * 2 * 4 * 8 * 8
        with FlopCounterMode(display=False) as counter:
            out = neighbour_scores(query, key, 5)
            assert counter.get_total_flops() == one
            out.sum().backward()
        assert counter.get_total_flops() == 3 * one


@pytest.mark.parametrize(
    ("method", "coarse", "fine"),  # multiply-adds for every coarse and fine pixel
    [
        (Nearest, 0, 0),
        (Bilinear, 0, 0),
        (CARAFE, 32 * 64 + 64 * 9 * 100, 25 * 32),
        (DySample, 32 * 32, 0),
        (SAPA, 32 * 32, 32 * 32 + 25 * 32 + 25 * 32),
        (FADE, 32 * 64 + 64 * 9 * 25 + 32, 32 * 64 + 64 * 9 * 25 + 25 * 32),
    ],
)
def test_counts_flops(method, coarse, fine):
    with FlopCounterMode(display=False) as counter:
        method(32)(torch.randn(1, 32, 16, 16), torch.randn(1, 32, 8, 8))
    assert counter.get_total_flops() == 2 * (64 * coarse + 256 * fine)


@pytest.mark.parametrize("name", ["scale_factor", "compresed_channels"])
@each_method
def test_unknown_arguments_are_named(method, options, name):
    with pytest.raises(TypeError, match=name):
        method(CHANNELS, **{name: 1})


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        *(
            (method, {"channels": 0}, "channels must be a positive integer, got 0")
            for method in SMALL
        ),
        *(
            (method, {name: value}, f"{name} must be {rule}, got {value}")
            for method in (CARAFE, FADE)
            for name, value, rule in (
                ("compressed_channels", 0, "a positive integer"),
                ("kernel_size", 4, "an odd positive integer"),
                ("encoder_kernel", 2, "an odd positive integer"),
            )
        ),
        (DySample, {"style": "pp"}, "style must be 'lp' or 'pl', got 'pp'"),
        (DySample, {"groups": 0}, "groups must be a positive integer, got 0"),
        (DySample, {"groups": 3}, "groups must divide channels = 8, got 3"),
        (
            DySample,
            {"channels": 6, "groups": 2, "style": "pl"},
            "channels must be divisible by 4 for style 'pl', got 6",
        ),
        (SAPA, {"norm_groups": 0}, "norm_groups must be a positive integer, got 0"),
        (SAPA, {}, "norm_groups must divide channels = 8, got 32"),
        (SAPA, {"embedding_channels": 0}, "embedding_channels must be a positive integer, got 0"),
        (SAPA, {"kernel_size": 0}, "kernel_size must be an odd positive integer, got 0"),
    ],
)
def test_bad_options(method, options, message):
    with pytest.raises(ValueError, match=message):
        method(**{"channels": CHANNELS} | options)


@pytest.mark.parametrize(
    ("hr", "lr", "error", "message"),
    [
        ((2, 8, 4, 4), (2, 8, 8, 8), ValueError, r"hr_feat must have .* \(8, 8\), got \(4, 4\)"),
        ((2, 8, 8, 8), (2, 8, 4, 9), ValueError, r"hr_feat must have .* \(4, 9\), got \(8, 8\)"),
        ((2, 9, 8, 8), (2, 8, 4, 4), ValueError, "hr_feat must have 8 channels, got 9"),
        ((2, 8, 8, 8), (2, 9, 4, 4), ValueError, "lr_feat must have 8 channels, got 9"),
        ((2, 8, 8, 8), (1, 8, 4, 4), ValueError, "lr_feat must have the batch size .* 2, got 1"),
        ((8, 8, 8), (2, 8, 4, 4), ValueError, r"hr_feat must be a map .* shape \(8, 8, 8\)"),
        ((2, 8, 8, 8), None, TypeError, "lr_feat must be a Tensor, got NoneType"),
    ],
)
@each_method
def test_bad_inputs(method, options, hr, lr, error, message):
    with pytest.raises(error, match=message):
        small(method)(torch.zeros(hr), lr and torch.zeros(lr))


def test_mixed_devices():
    hr, lr = inputs()
    with pytest.raises(ValueError, match="lr_feat must be on the device of hr_feat, cpu, got meta"):
        Nearest(CHANNELS)(hr, lr.to("meta"))


def test_the_base_says_what_is_missing():
    with pytest.raises(NotImplementedError, match="UpsampleAdd must say how it upsamples"):
        UpsampleAdd(CHANNELS)(*inputs())
