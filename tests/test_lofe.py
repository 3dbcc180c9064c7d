"""LoFE, LoFFA and LoFENeck: what the enhancement does to frequencies, and everything around it."""

import importlib
import importlib.util
import math
import warnings
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from freqfusion import DWT2d, FreqFusionFPN, IDWT2d, LoFE, LoFENeck, LoFFA, adaptive_instance_norm

CONFIGS = Path(__file__).parents[1] / "mm_configs" / "scenes"
VARIANTS = [
    {},
    {"levels": 1},
    {"levels": 3, "norm": "GN", "act": "ReLU"},
    {"wavelet": "conv"},
    {"learnable_highs": False},
    {"learnable_synthesis": True},
    {"wavelet": "db2"},
]
SHIFTED = [{}, {"levels": 1}, {"levels": 3}, {"wavelet": "conv"}, {"learnable_highs": False}]
SIZES = [(1, 1), (2, 1), (1, 9), (3, 3), (5, 7), (8, 12), (17, 30)]
TOLERANCES = {torch.bfloat16: 0.03, torch.float16: 0.004, torch.float64: 1e-6}
variants = pytest.mark.parametrize("options", VARIANTS, ids=str)


def lively(channels=4, **options):
    """A LoFE in which every parameter matters; statistics of its norms as after some training."""
    if options.get("wavelet") == "db2":
        pytest.importorskip("ptwt")
    layer = LoFE(channels, **options)
    for name, parameter in layer.named_parameters():
        if name.split(".")[0] in ("conv", "gains", "mask"):
            torch.nn.init.normal_(parameter, mean=float(parameter.dim() < 4), std=0.3)
    torch.nn.init.constant_(layer.beta, 0.7)
    for norm in (m for m in layer.modules() if isinstance(m, torch.nn.BatchNorm2d)):
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
    return layer.eval()


def doubling(channels=1, levels=2):
    """A LoFE that doubles the lowest band and does nothing else."""
    layer = LoFE(channels, levels, beta_init=1)
    layer.conv = torch.nn.Identity()
    torch.nn.init.zeros_(layer.mask[-2].weight)
    torch.nn.init.constant_(layer.mask[-2].bias, 100.0)  # a sigmoid of 1
    return layer


class TestEnhancement:
    @pytest.mark.parametrize("learnable_highs", [True, False])
    @pytest.mark.parametrize("wavelet", ["haar", "db2"])
    def test_by_its_equations(self, wavelet, learnable_highs):
        """Two levels, written out."""
        layer = lively(wavelet=wavelet, learnable_highs=learnable_highs).double()
        x = torch.randn(2, 4, 12, 16, dtype=torch.float64)
        split, merge = DWT2d(wavelet), IDWT2d(wavelet)
        low1, high1 = split(x)
        conv, norm, _ = layer.conv
        activated = F.gelu(norm(F.conv2d(low1, conv.weight, padding=1)))
        low2, high2 = split(activated)
        first, _, second, _ = layer.mask
        hidden = F.gelu(F.conv2d(low2, first.weight, first.bias))
        mask = torch.sigmoid(F.conv2d(hidden, second.weight, second.bias, padding=1))
        if learnable_highs:
            high1, high2 = (
                torch.cat(
                    [g[:, None, None] * band for g, band in zip(gains, bands, strict=True)], 1
                )
                for gains, bands in zip(
                    layer.gains, (high1.chunk(3, 1), high2.chunk(3, 1)), strict=True
                )
            )
        enhanced = merge(merge(low2 * (1 + mask), high2, low1.shape[2:]), high1)
        expected = (1 - 0.7) * x + 0.7 * enhanced
        torch.testing.assert_close(layer(x), expected, rtol=0, atol=1e-6)  # beta is 0.7 in float32
        assert (enhanced - x).abs().max() > 0.1

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
    @variants
    def test_without_beta_it_returns_its_input_bit_for_bit(self, options, dtype):
        layer = lively(**options).to(dtype)
        for size in SIZES:
            x = torch.randn(2, 4, *size).to(dtype)
            assert not torch.equal(layer(x), x)
            torch.nn.init.zeros_(layer.beta)
            assert torch.equal(layer(x), x)
            torch.nn.init.constant_(layer.beta, 0.7)

    def test_amplitudes_of_frequencies(self):
        """Twice the lowest of two levels: by how much each radial band of white noise grows."""
        x = torch.randn(512, 1, 64, 64)
        spectra = [
            torch.fft.fft2(y).abs().square().mean((0, 1)) for y in (x, doubling()(x).detach())
        ]
        f = torch.fft.fftfreq(64)
        radius = torch.hypot(f[:, None], f)
        # |mean over 4 pixels|**2: the share of a frequency that is kept by the lowest band
        kept = torch.exp(2j * math.pi * f[:, None] * torch.arange(4)).mean(1).abs() ** 2
        kept = torch.outer(kept, kept)
        edges = [0, 0.03, 0.0625, 0.125, 0.25, 0.5, 0.71]
        published = [2.00, 1.94, 1.71, 1.19, 1.02, 1.00]
        for start, end, factor in zip(edges, edges[1:], published, strict=False):
            inside = (start <= radius) & (radius < end)
            before, after = (spectrum[inside].mean() for spectrum in spectra)
            measured = (after / before).sqrt().item()
            assert measured == pytest.approx(factor, rel=0.02)
            assert measured == pytest.approx((1 + 3 * kept[inside].mean()).sqrt().item(), rel=0.005)

    @pytest.mark.parametrize("levels", [1, 2, 3])
    def test_doubles_what_is_constant_alone(self, levels):
        block = 2**levels
        constant = torch.randn(2, 3, 1, 1).expand(2, 3, 2 * block, block)
        checkers = (-1.0) ** (torch.arange(2 * block)[:, None] + torch.arange(block))
        out = doubling(3, levels)(constant + checkers)
        torch.testing.assert_close(out, 2 * constant + checkers)

    @pytest.mark.parametrize("levels", [1, 2, 3])
    def test_gains(self, levels):
        """What a gain of 3 in one channel of one band adds is twice that band alone."""
        for level in range(levels):
            layer = LoFE(2, levels, beta_init=1)
            layer.conv, layer.mask = torch.nn.Identity(), Zero()
            x = torch.randn(1, 2, 16, 16)
            torch.testing.assert_close(layer(x), x)
            with torch.no_grad():
                layer.gains[level][1, 0] = 3  # HL of channel 0
            low, bands = x, []
            for _ in range(level + 1):
                low, high = DWT2d()(low)
                bands.append(torch.zeros_like(high))
            bands[-1][:, 2] = 2 * high[:, 2]
            added = torch.zeros_like(low)
            for band in reversed(bands):
                added = IDWT2d()(added, band)
            assert added.abs().max() > 0.1
            torch.testing.assert_close(layer(x), x + added)

    @pytest.mark.parametrize("options", SHIFTED, ids=str)
    def test_shifts(self, options):
        """Exactly equivariant to shifts of 2**levels pixels, away from borders; not to 1 pixel."""
        layer = lively(**options).double()
        levels = options.get("levels", 2)
        x = torch.randn(1, 4, 96, 96, dtype=torch.float64)
        for shift, exact in ((2**levels, True), (3 * 2**levels, True), (1, False)):
            moved = layer(x.roll((shift, shift), (2, 3))), layer(x).roll((shift, shift), (2, 3))
            inner = [y[..., 40:-40, 40:-40] for y in moved]
            error = (inner[0] - inner[1]).norm() / inner[1].norm()
            assert error < 1e-12 if exact else error > 0.01, (shift, error)

    def test_how_far_it_is_from_shifts_by_one_pixel(self):
        layer, x = doubling(), torch.randn(1, 1, 256, 256)
        out, moved = layer(x), layer(x.roll(1, 3)).roll(-1, 3)
        error = (moved - out)[..., 8:-8].norm() / out[..., 8:-8].norm()
        assert error.item() == pytest.approx(0.2, abs=0.1)


class Zero(torch.nn.Module):
    def forward(self, x):
        return torch.zeros_like(x)


class TestLayer:
    @variants
    def test_any_size_without_a_warning(self, options, poisoned_memory):
        layer = lively(**options).train()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            warnings.filterwarnings("ignore", ".*does not have a deterministic implementation")
            for size in SIZES:
                layer.zero_grad()
                x = torch.randn(4, 4, *size, requires_grad=True)
                out = layer(x)
                out.square().sum().backward()
                assert out.shape == x.shape
                for tensor in (out, x.grad, *(p.grad for p in layer.parameters())):
                    assert tensor.isfinite().all()
            for name, parameter in layer.named_parameters():
                assert parameter.grad.abs().sum() > 0, name

    def test_padding(self):
        """Mirrored at the bottom and at the right; repeated if too small."""
        layer = lively()
        x = torch.randn(2, 4, 9, 11)
        mirrored = F.pad(x, (0, 1, 0, 3), mode="reflect")
        torch.testing.assert_close(layer(x), layer(mirrored)[..., :9, :11])
        x = torch.randn(2, 4, 2, 11)  # two rows are no more than the two that are wanted
        repeated = F.pad(x, (0, 1, 0, 2), mode="replicate")
        torch.testing.assert_close(layer(x), layer(repeated)[..., :2, :11])

    @pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
    @pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
    @variants
    def test_dtypes_and_layouts(self, options, dtype, layout):
        layer = lively(**options)
        x = torch.randn(2, 4, 9, 12).to(memory_format=layout)
        expected = layer(x)
        typed = lively(**options).to(dtype)
        typed.load_state_dict(layer.state_dict())
        x = x.to(dtype).requires_grad_()
        out = typed(x)
        out.sum().backward()
        assert (out.float() - expected).norm() / expected.norm() < TOLERANCES[dtype]
        for value in (out, x.grad):
            assert value.dtype == dtype and value.is_contiguous(memory_format=layout)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
    @variants
    def test_autocast(self, options, dtype):
        """It keeps the dtype of its input, so that beta 0 is exact in mixed precision too."""
        layer = lively(**options)
        x = torch.randn(2, 4, 9, 12).to(dtype)
        expected = layer(x.float())
        with torch.autocast("cpu", torch.bfloat16):
            out = layer(x)
            torch.nn.init.zeros_(layer.beta)
            assert torch.equal(layer(x), x)
        assert out.dtype == dtype
        assert 0 < (out - expected).norm() / expected.norm() < TOLERANCES[torch.bfloat16]

    @pytest.mark.parametrize("size", SIZES)
    def test_learnable_synthesis_begins_as_haars(self, size):
        usual = lively(levels=3)
        layer = LoFE(4, levels=3, learnable_synthesis=True).eval()
        left = layer.load_state_dict(usual.state_dict(), strict=False)
        assert left.missing_keys == [f"merge.{level}.weight" for level in range(3)]
        x = torch.randn(2, 4, *size)
        torch.testing.assert_close(layer(x), usual(x), rtol=1e-5, atol=1e-5)

    @pytest.mark.parametrize(
        "options", [{}, {"levels": 1}, {"wavelet": "conv"}, {"learnable_synthesis": True}], ids=str
    )
    def test_gradcheck(self, options):
        layer = lively(2, reduction=1, **options).double()
        x = torch.randn(1, 2, 5, 6, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(lambda *_: layer(x), (x, *layer.parameters()))

    def test_at_beta_zero_only_beta_learns(self):
        layer = LoFE(4, beta_init=0)
        x = torch.randn(2, 4, 8, 8)
        layer(x).square().sum().backward()
        learning = {name for name, p in layer.named_parameters() if p.grad.abs().sum() > 0}
        assert learning == {"beta"}
        assert LoFE(4).beta.item() == pytest.approx(0.1)

    def test_empty_batch(self):
        assert LoFE(4).eval()(torch.zeros(0, 4, 5, 6)).shape == (0, 4, 5, 6)

    def test_compiles_to_one_graph(self):
        layer = lively()
        compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
        x = torch.randn(2, 4, 9, 12, requires_grad=True)
        expected, out = layer(x), compiled(x)
        torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-4)
        grads = [torch.autograd.grad(y.square().sum(), x)[0] for y in (out, expected)]
        torch.testing.assert_close(*grads, rtol=1e-3, atol=1e-3)

    @pytest.mark.parametrize(
        "options", [{}, {"wavelet": "conv"}, {"learnable_synthesis": True}], ids=str
    )
    def test_exports(self, options):
        layer = lively(**options)
        h, w = torch.export.Dim("h", min=2, max=64), torch.export.Dim("w", min=2, max=64)
        shapes = {"x": {2: 4 * h, 3: 4 * w}}
        program = torch.export.export(layer, (torch.randn(1, 4, 16, 12),), dynamic_shapes=shapes)
        for size in ((16, 12), (24, 40)):
            x = torch.randn(1, 4, *size)
            torch.testing.assert_close(program.module()(x), layer(x))
        odd = torch.randn(1, 4, 9, 7)  # a size that is padded is exported as it is
        program = torch.export.export(layer, (odd,))
        torch.testing.assert_close(program.module()(odd), layer(odd))

    @variants
    def test_state_dict(self, options):
        layer, other = lively(**options), lively(**options)
        x = torch.randn(2, 4, 9, 12)
        assert not torch.equal(layer(x), other(x))
        other.load_state_dict(layer.state_dict(), strict=True)
        assert torch.equal(layer(x), other(x))

    def test_parameters(self):
        def shapes(**options):
            return {name: tuple(p.shape) for name, p in LoFE(8, **options).named_parameters()}

        usual = shapes()
        assert usual["gains.0"] == usual["gains.1"] == (3, 8) and usual["beta"] == ()
        assert usual["mask.0.weight"] == (2, 8, 1, 1)
        assert all((gain == 1).all() for gain in LoFE(8).gains)
        assert set(usual) - set(shapes(learnable_highs=False)) == {"gains.0", "gains.1"}
        assert set(usual) - set(shapes(levels=1)) == {"gains.1"}
        learned = {name: s for name, s in shapes(wavelet="conv").items() if name not in usual}
        assert learned == {
            **{f"split.{i}.weight": (32, 8, 2, 2) for i in range(2)},
            **{f"split.{i}.bias": (32,) for i in range(2)},
            **{f"merge.{i}.weight": (32, 8, 2, 2) for i in range(2)},
            **{f"merge.{i}.bias": (8,) for i in range(2)},
        }
        assert shapes(reduction=100)["mask.0.weight"] == (1, 8, 1, 1)

    def test_norms_and_activations(self):
        kinds = lambda **options: [type(m).__name__ for m in LoFE(48, **options).conv]  # noqa: E731
        assert kinds() == ["Conv2d", "BatchNorm2d", "GELU"]
        assert kinds(norm="GN", act="SiLU") == ["Conv2d", "GroupNorm", "SiLU"]
        assert kinds(norm="SyncBN", act="ReLU") == ["Conv2d", "SyncBatchNorm", "ReLU"]
        assert LoFE(48, norm="GN").conv[1].num_groups == 16
        acts = ("GELU", "ReLU", "SiLU")
        assert tuple(type(LoFE(48, act=act).mask[1]).__name__ for act in acts) == acts
        x = torch.randn(2, 4, 8, 8)
        layer, synchronised = lively(), lively(norm="SyncBN")
        synchronised.load_state_dict(layer.state_dict())
        torch.testing.assert_close(synchronised(x), layer(x))

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"channels": 0}, "channels must be a positive integer, got 0"),
            ({"levels": 0}, "levels must be a positive integer, got 0"),
            ({"reduction": 0.5}, "reduction must be a positive integer, got 0.5"),
            ({"norm": "LN"}, "norm must be 'BN', 'GN' or 'SyncBN', got 'LN'"),
            (
                {"learnable_synthesis": True, "wavelet": "conv"},
                "learnable_synthesis needs wavelet 'haar', got 'conv'",
            ),
            ({"act": "gelu"}, "act must be 'GELU', 'ReLU' or 'SiLU', got 'gelu'"),
        ],
    )
    def test_bad_options(self, options, message):
        with pytest.raises(ValueError, match=message):
            LoFE(**{"channels": 4} | options)

    def test_unknown_wavelet_and_argument(self):
        pytest.importorskip("ptwt")
        with pytest.raises(ValueError, match="wavelet must be 'haar' or .*, got 'harr'"):
            LoFE(4, wavelet="harr")
        with pytest.raises(TypeError, match="level"):
            LoFE(4, level=2)

    @pytest.mark.parametrize(
        ("x", "error", "message"),
        [
            (torch.zeros(2, 5, 4, 4), ValueError, "x must have 4 channels, got 5"),
            (torch.zeros(4, 4, 4), ValueError, r"x must be a map .*, got shape \(4, 4, 4\)"),
            ([torch.zeros(2, 4, 4, 4)], TypeError, "x must be a Tensor, got list"),
        ],
    )
    def test_bad_inputs(self, x, error, message):
        with pytest.raises(error, match=message):
            LoFE(4)(x)


class TestAdaIN:
    def test_by_its_formula(self):
        content, style = torch.randn(2, 3, 5, 7).double(), 2 + 3 * torch.randn(2, 3, 4, 4).double()
        out = adaptive_instance_norm(content, style, eps=0)
        for i in range(2):
            for c in range(3):
                x, y = content[i, c], style[i, c]
                expected = y.std(correction=0) * (x - x.mean()) / x.std(correction=0) + y.mean()
                torch.testing.assert_close(out[i, c], expected)

    def test_statistics(self):
        content, style = 5 + 0.3 * torch.randn(2, 8, 9, 9), torch.randn(2, 8, 6, 12)
        out = adaptive_instance_norm(content, style)
        for statistic in (torch.mean, torch.std):
            wanted, found = (statistic(y.flatten(2), 2) for y in (style, out))
            assert (found - wanted).abs().max() < 0.02
            assert (statistic(content.flatten(2), 2) - wanted).abs().min() > 0.1
        torch.testing.assert_close(adaptive_instance_norm(style, style), style)

    def test_maps_without_variance(self):
        pixel, style = torch.randn(2, 3, 1, 1), torch.randn(2, 3, 4, 4)
        out = adaptive_instance_norm(pixel, style)
        torch.testing.assert_close(out, style.mean((2, 3), keepdim=True))
        x = torch.ones(1, 1, 4, 4, requires_grad=True)
        adaptive_instance_norm(x, torch.ones(1, 1, 4, 4)).sum().backward()
        assert x.grad.isfinite().all()

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
    def test_half_precision(self, dtype):
        content, style = 200 + 50 * torch.randn(1, 2, 64, 64), torch.randn(1, 2, 64, 64)
        out = adaptive_instance_norm(content.to(dtype), style.to(dtype))
        assert out.dtype == dtype
        expected = adaptive_instance_norm(content.to(dtype).float(), style.to(dtype).float())
        torch.testing.assert_close(out, expected.to(dtype))

    def test_gradcheck(self):
        maps = [torch.randn(1, 2, *s).double().requires_grad_() for s in ((3, 4), (2, 5))]
        assert torch.autograd.gradcheck(adaptive_instance_norm, maps)

    @pytest.mark.parametrize(
        ("style", "error", "message"),
        [
            ((2, 4, 3, 3), ValueError, r"style must have .* of content, \(2, 3\), got \(2, 4\)"),
            ((1, 3, 3, 3), ValueError, r"style must have .* of content, \(2, 3\), got \(1, 3\)"),
            ((3, 3), ValueError, r"style must be a map .*, got shape \(3, 3\)"),
            (None, TypeError, "style must be a Tensor, got NoneType"),
        ],
    )
    def test_bad_inputs(self, style, error, message):
        with pytest.raises(error, match=message):
            adaptive_instance_norm(torch.zeros(2, 3, 4, 4), style and torch.zeros(style))


CHANNELS = [6, 5, 4]
ABLATIONS = [
    {},
    {"enhance": "conv"},
    {"wavelet": "conv"},
    {"levels": 1},
    {"enhance": None},
]


def stream(size=(9, 12), batch=2):
    sizes = size, [math.ceil(n / 2) for n in size], [2 * n for n in size]
    return [torch.randn(batch, c, *s) for c, s in zip(CHANNELS, sizes, strict=True)]


def aggregation(**options):
    layer = LoFFA(CHANNELS, 8, **options).eval()
    torch.nn.init.normal_(layer.logits)
    return layer


class TestLoFFA:
    @pytest.mark.parametrize("adain", [None, "target_to_source"])
    @pytest.mark.parametrize("options", ABLATIONS, ids=str)
    def test_by_its_equations(self, options, adain):
        layer = aggregation(adain=adain, **options)
        source, target = stream(), stream((7, 5))
        streams = []
        for maps in (source, target):
            reduced = [conv(x) for conv, x in zip(layer.reduce, maps, strict=True)]
            size = maps[0].shape[2:]
            streams.append([F.interpolate(x, size, mode="bilinear") for x in reduced])
        expected = [torch.zeros(2, 8, *maps[0].shape[2:]) for maps in (source, target)]
        for i in range(3):
            weight = layer.logits[i].exp() / layer.logits.exp().sum()
            s, t = streams[0][i], streams[1][i]
            t = adaptive_instance_norm(t, s) if adain else t
            s, t = layer.enhance[i](s), layer.enhance[i](t)
            t = adaptive_instance_norm(t, s) if adain else t
            expected[0] += weight * layer.refine[i](s)
            expected[1] += weight * layer.refine[i](t)
        outs = layer(source, target)
        assert isinstance(outs, tuple)
        for value, reference in zip(outs, expected, strict=True):
            torch.testing.assert_close(value, reference)

    def test_one_stream(self):
        layer = aggregation()
        source, target = stream(), stream((7, 5))
        for value, maps in zip(layer(source, target), (source, target), strict=True):
            assert torch.equal(layer(maps), value)

    def test_adain_leaves_the_source_alone(self):
        layer, plain = aggregation(adain="target_to_source"), aggregation()
        plain.load_state_dict(layer.state_dict())
        source, target = stream(), stream((7, 5))
        assert torch.equal(layer(source, target)[0], plain(source))
        assert not torch.equal(layer(source, target)[1], plain(target))

    @pytest.mark.parametrize(("adain", "same"), [(None, False), ("target_to_source", True)])
    def test_adain_takes_contrast_and_brightness_out_of_the_target(self, adain, same):
        layer = aggregation(adain=adain, eps=1e-8)
        source, target = stream(), stream()
        brighter = [1.5 * x + 2 for x in target]
        outs = [layer(source, maps)[1] for maps in (target, brighter)]
        error = (outs[0] - outs[1]).norm() / outs[0].norm()
        assert (error < 1e-3) == same, error

    def test_eps(self):
        layer = LoFFA([4], 4, adain="target_to_source", enhance=None, eps=10.0)
        source, target = torch.randn(2, 1, 4, 6, 6)
        a, b = layer.reduce[0](source), layer.reduce[0](target)
        for _ in range(2):  # before and after the enhancement
            b = adaptive_instance_norm(b, a, 10.0)
        torch.testing.assert_close(layer([source], [target])[1], layer.refine[0](b))

    def test_ablations_are_what_they_say(self):
        def kinds(**options):
            return {type(m).__name__ for m in LoFFA(CHANNELS, 8, **options).enhance.modules()}

        assert {"LoFE", "DWT2d", "IDWT2d", "BatchNorm2d"} <= kinds()
        assert not {"DWT2d", "IDWT2d"} & kinds(wavelet="conv")
        assert {"_StridedConv", "_TransposedConv"} <= kinds(wavelet="conv")
        assert kinds(enhance="conv") == {
            "ModuleList",
            "Sequential",
            "Conv2d",
            "BatchNorm2d",
            "GELU",
        }
        assert "GroupNorm" in kinds(enhance="conv", norm="GN")
        assert kinds(enhance=None) == {"ModuleList", "Identity"}
        assert [len(LoFFA(CHANNELS, 8, levels=n).enhance[0].split) for n in (1, 3)] == [1, 3]

    @pytest.mark.parametrize("options", ABLATIONS, ids=str)
    def test_everything_learns(self, options):
        layer = LoFFA(CHANNELS, 8, adain="target_to_source", **options)
        assert torch.equal(layer.weights, torch.full((3,), 1 / 3))
        sum(out.square().sum() for out in layer(stream(), stream((7, 5)))).backward()
        for name, parameter in layer.named_parameters():
            assert parameter.grad.isfinite().all() and parameter.grad.abs().sum() > 0, name

    def test_state_dict(self):
        layer, other = (aggregation(adain="target_to_source") for _ in range(2))
        maps = stream(), stream()
        assert not torch.equal(layer(*maps)[1], other(*maps)[1])
        other.load_state_dict(layer.state_dict(), strict=True)
        assert all(map(torch.equal, layer(*maps), other(*maps)))

    def test_compiles_to_one_graph(self):
        layer = aggregation(adain="target_to_source")
        compiled = torch.compile(layer, fullgraph=True, backend="eager")
        maps = stream(), stream((7, 5))
        for value, reference in zip(compiled(*maps), layer(*maps), strict=True):
            torch.testing.assert_close(value, reference, rtol=1e-4, atol=1e-4)

    @pytest.mark.parametrize(
        ("options", "error", "message"),
        [
            ({"in_channels": []}, ValueError, r"in_channels must name at least one map, got \[\]"),
            ({"in_channels": [4, 0]}, ValueError, r"in_channels\[1\] must be a positive .*, got 0"),
            ({"channels": 0}, ValueError, "channels must be a positive integer, got 0"),
            ({"adain": "both"}, ValueError, "adain must be None or 'target_to_source', got 'both'"),
            ({"enhance": "lofe"}, ValueError, "enhance must be 'LoFE', 'conv' or None, got 'lofe'"),
            ({"levels": 0}, ValueError, "levels must be a positive integer, got 0"),
            ({"enhance": "conv", "levels": 1}, TypeError, "levels"),
            ({"enhance": None, "levels": 1}, TypeError, "enhance None has no options, got levels"),
            ({"level": 1}, TypeError, "level"),
        ],
    )
    def test_bad_options(self, options, error, message):
        with pytest.raises(error, match=message):
            LoFFA(**{"in_channels": CHANNELS, "channels": 8} | options)

    def test_bad_inputs(self):
        layer = aggregation(adain="target_to_source")
        for arguments, message in (
            ((stream(),), "target must be given for adain 'target_to_source', got None"),
            ((stream()[1:], stream()), "source must be 3 maps, got 2"),
            ((stream(), stream()[:2]), "target must be 3 maps, got 2"),
            ((stream(), stream()[::-1]), r"target\[0\] must have 6 channels, got 4"),
            ((stream(), stream(batch=1)), r"style must have the batch size .*, got \(2, 8\)"),
        ):
            with pytest.raises(ValueError, match=message):
                layer(*arguments)


class TestNeck:
    FEATS = [(2, 8, 15, 21), (2, 16, 8, 11), (2, 24, 1, 1)]

    def test_every_map(self):
        neck = LoFENeck([8, 16, 24], levels=1).eval()
        feats = [torch.randn(shape) for shape in self.FEATS]
        outs = neck(feats)
        assert isinstance(outs, tuple) and [tuple(out.shape) for out in outs] == self.FEATS
        for enhance, x, out in zip(neck.enhancers, feats, outs, strict=True):
            assert enhance.levels == 1
            assert torch.equal(enhance(x), out) and not torch.equal(x, out)

    def test_some_maps(self):
        neck = LoFENeck([8, 16, 24], indices=[0, 2]).eval()
        feats = [torch.randn(shape) for shape in self.FEATS]
        outs = neck(feats)
        assert [out is x for out, x in zip(outs, feats, strict=True)] == [False, True, False]
        assert {name.split(".")[1] for name in neck.state_dict()} == {"0", "2"}

    def test_in_front_of_a_pyramid(self):
        pyramid = FreqFusionFPN([8, 16], 16, 2, compress_ratio=4)
        necks = torch.nn.Sequential(LoFENeck([8, 16], beta_init=0), pyramid)
        feats = [torch.randn(1, 8, 12, 10), torch.randn(1, 16, 6, 5)]
        assert all(map(torch.equal, necks(feats), pyramid(feats)))

    @pytest.mark.parametrize("indices", [[3], [-1], []])
    def test_bad_indices(self, indices):
        with pytest.raises(ValueError, match=f"indices must be some of 0 to 2, got \\{indices}"):
            LoFENeck([8, 16, 24], indices)

    def test_bad_arguments(self):
        with pytest.raises(TypeError, match="level"):
            LoFENeck([8], level=1)
        with pytest.raises(ValueError, match="feats must be 2 maps, got 1"):
            LoFENeck([8, 16])([torch.zeros(1, 8, 4, 4)])


def library(name, *modules):
    missing = [m for m in (name, *modules) if importlib.util.find_spec(m) is None]
    return pytest.param(name, marks=pytest.mark.skipif(bool(missing), reason=f"needs {missing}"))


MMSEG, MMDET = library("mmseg"), library("mmdet", "mmcv._ext")
BASES = {  # a config with a dict for a neck, and the channels of its backbone
    "mmseg": ("fpn-freqfusion_r18_1xb4-800_scenes-128x256", [32, 64, 128, 256]),
    "mmdet": ("faster-rcnn_r18_fpn-freqfusion_1xb2-500_scenes-128x256", [64, 128, 256, 512]),
}


class TestOpenMMLab:
    @pytest.fixture(autouse=True)
    def openmmlab(self):
        for package in ("mmengine", "mmcv"):
            pytest.importorskip(package, reason=f"{package} is not installed")
        self.integration = importlib.import_module("freqfusion.integrations.openmmlab")

    def build(self, name, neck, folder):
        """The model of a config that says nothing but its base and its neck."""
        from mmengine.config import Config
        from mmengine.registry import MODELS, DefaultScope

        path = folder / "config.py"
        base, channels = BASES[name]
        neck = neck.replace("CHANNELS", str(channels))
        path.write_text(f"_base_ = '{CONFIGS / base}.py'\nmodel = dict(neck={neck})\n")
        config = Config.fromfile(path)
        with DefaultScope.overwrite_default_scope(name):
            model = MODELS.build(config.model)
        model.init_weights()
        return model.eval()

    @pytest.mark.parametrize("name", [MMSEG, MMDET])
    def test_registered(self, name):
        from mmengine.model import BaseModule

        registry = importlib.import_module(f"{name}.registry").MODELS
        config = dict(type="LoFENeck", in_channels=[8, 16], indices=[1], levels=1)
        neck = registry.build(config)
        assert type(neck) is self.integration.LoFENeck and isinstance(neck, BaseModule)
        plain = LoFENeck([8, 16], [1], levels=1).eval()
        plain.load_state_dict(neck.state_dict(), strict=True)
        feats = [torch.randn(2, 8, 9, 9), torch.randn(2, 16, 5, 5)]
        assert all(map(torch.equal, neck.eval()(feats), plain(feats)))

    def test_initialisation(self):
        from mmengine.registry import MODELS

        neck = MODELS.build(dict(type="LoFENeck", in_channels=[8]))
        before = {key: value.clone() for key, value in neck.state_dict().items()}
        neck.init_weights()
        assert all(torch.equal(value, before[key]) for key, value in neck.state_dict().items())
        init_cfg = dict(type="Constant", layer="Conv2d", val=2.0)
        neck = MODELS.build(dict(type="LoFENeck", in_channels=[8], init_cfg=init_cfg))
        neck.init_weights()
        assert (neck.enhancers[0].conv[0].weight == 2).all()
        assert neck.enhancers[0].beta.item() == pytest.approx(0.1)

    @pytest.mark.parametrize("name", [MMSEG, MMDET])
    def test_list_of_necks_in_a_config(self, name, tmp_path):
        """A list takes the place of the base's neck, which it refers to."""
        neck = "[dict(type='LoFENeck', in_channels=CHANNELS, beta_init=0.5), _base_.model.neck]"
        model = self.build(name, neck, tmp_path)
        assert [type(part).__name__ for part in model.neck] == ["LoFENeck", "FreqFusionFPN"]
        plain = self.build(name, "dict()", tmp_path)
        assert type(plain.neck).__name__ == "FreqFusionFPN"
        state = model.state_dict()
        plain.load_state_dict(
            {key: state[key.replace("neck.", "neck.1.")] for key in plain.state_dict()}
        )
        image = torch.randn(1, 3, 64, 96)
        outs, before = model.extract_feat(image), plain.extract_feat(image)
        assert [out.shape for out in outs] == [out.shape for out in before]
        assert not any(map(torch.equal, outs, before))
        for enhancer in model.neck[0].enhancers:
            torch.nn.init.zeros_(enhancer.beta)
        assert all(map(torch.equal, model.extract_feat(image), before))

    @pytest.mark.parametrize("name", [MMSEG])
    def test_the_config_trains_the_neck(self, name):
        from mmengine.config import Config
        from mmengine.registry import MODELS, DefaultScope

        config = Config.fromfile(CONFIGS / "fpn-freqfusion-lofe_r18_1xb4-800_scenes-128x256.py")
        with DefaultScope.overwrite_default_scope(name):
            model = MODELS.build(config.model)
        sum(out.square().sum() for out in model.extract_feat(torch.randn(2, 3, 64, 64))).backward()
        for parameter in model.neck.parameters():
            assert parameter.grad is not None
        assert [len(e.split) for e in model.neck[0].enhancers] == [2, 2, 2, 2]
