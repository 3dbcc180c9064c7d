"""Frequency bands: exact sums, what is in which band, precision, gradients, tracing, errors."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode

from freqfusion import band_energy, frequency_split
from freqfusion.ops import bands
from freqfusion.ops.bands import MASKS

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
SIZES = [(1, 1), (1, 6), (7, 1), (2, 2), (5, 8), (16, 24), (33, 17)]


def wave(rows, columns, size):
    """A plane wave with so many periods over the height and the width."""
    y, x = torch.meshgrid(*(torch.arange(s, dtype=torch.float64) / s for s in size), indexing="ij")
    return torch.cos(2 * math.pi * (rows * y + columns * x) + 0.3)[None, None]


def maps(kind, size, dtype):
    x = torch.randn(3, 4, *size, dtype=torch.float64)
    x = {"white": x, "offset": x + 5, "tiny": x * 1e-3, "sparse": x.relu()}[kind]
    return x.to(dtype)


class TestSum:
    @pytest.mark.parametrize("mask", MASKS)
    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    def test_sum_is_exact_where_it_can_be(self, dtype, mask):
        exact = total = 0
        for kind in ("white", "offset", "tiny", "sparse"):
            for size in SIZES:
                for cutoff in (0.1, 0.2, 0.7):
                    x = maps(kind, size, dtype)
                    low, high = frequency_split(x, cutoff, mask)
                    assert torch.equal(high, x - low)
                    is_same = low + high == x
                    smaller = torch.minimum(low.abs(), high.abs())
                    assert is_same[smaller <= x.abs()].all()
                    error = (low.double() + high.double() - x.double()).abs()
                    eps, tiny = torch.finfo(dtype).eps, torch.finfo(dtype).tiny
                    assert (error <= eps / 2 * smaller.double() + eps * tiny).all()
                    exact, total = exact + int(is_same.sum()), total + x.numel()
        assert 0.9 * total < exact < total  # or one of the assertions above would be idle

    @pytest.mark.parametrize("mask", MASKS)
    @pytest.mark.parametrize("size", SIZES, ids=str)
    def test_images_of_8_bits_are_whole(self, size, mask):
        x = torch.randint(256, (4, 3, *size)).float()
        low, high = frequency_split(x, 0.2, mask)
        assert torch.equal(low + high, x)

    def test_no_other_numbers_would_do_where_both_bands_cancel(self):
        x = torch.ones(1, 1, 8, 8)
        x[..., 3, 3] = 1e-10
        low, high = (band[..., 3, 3] for band in frequency_split(x, 0.2))
        assert low > 0.5 and high < -0.5
        # numbers of that size are multiples of 2**-24, and so are their sums
        assert low * 2**24 == (low * 2**24).round() and high * 2**24 == (high * 2**24).round()
        assert low + high == 0

    def test_band_is_what_it_was_before_the_correction(self):
        x = torch.randn(2, 4, 24, 16)
        spectrum = torch.fft.rfft2(x, norm="ortho")
        weight = bands.low_weight(spectrum, 16, 0.3, "radial", 0.0)
        expected = torch.fft.irfft2(spectrum * weight, s=(24, 16), norm="ortho")
        torch.testing.assert_close(frequency_split(x, 0.3)[0], expected, rtol=0, atol=1e-6)


class TestBands:
    @pytest.mark.parametrize("mask", ["radial", "square"])
    @pytest.mark.parametrize(
        "rows, columns, size",
        [(1, 0, (32, 48)), (0, 4, (32, 48)), (2, 2, (32, 48)), (3, 0, (45, 33)), (0, 0, (9, 9))],
    )
    def test_low_wave_is_low(self, mask, rows, columns, size):
        x = wave(rows, columns, size).float()
        low, high = frequency_split(x, 0.2, mask)
        torch.testing.assert_close(low, x, rtol=0, atol=1e-5)
        assert high.abs().max() < 1e-5

    @pytest.mark.parametrize("mask", ["radial", "square"])
    @pytest.mark.parametrize(
        "rows, columns, size",
        [
            (4, 0, (32, 48)),
            (0, 5, (32, 48)),
            (16, 24, (32, 48)),
            (0, 4, (45, 33)),
            (-5, 7, (33, 41)),
        ],
    )
    def test_high_wave_is_high(self, mask, rows, columns, size):
        x = wave(rows, columns, size).float()
        low, high = frequency_split(x, 0.2, mask)
        torch.testing.assert_close(high, x, rtol=0, atol=1e-5)
        assert low.abs().max() < 1e-5

    def test_diagonal_wave_tells_the_masks_apart(self):
        x = wave(3, 3, (32, 32)).float()  # 0.19 of Nyquist in each direction, 0.27 in length
        assert frequency_split(x, 0.2, "radial")[0].abs().max() < 1e-5
        assert frequency_split(x, 0.2, "square")[1].abs().max() < 1e-5

    @pytest.mark.parametrize("size", [10, 20, 30, 70, 90, 110])
    def test_a_wave_at_the_cutoff_is_low(self, size):
        x = wave(0, size // 10, (4, size)).float()  # 0.1 cycles per pixel, however it is rounded
        assert frequency_split(x, 0.2)[1].abs().max() < 1e-5

    def test_nothing_but_the_mean_at_0_and_a_disc_at_1(self):
        x = torch.randn(2, 3, 12, 10)
        mean = x.mean((2, 3), keepdim=True).expand_as(x)
        torch.testing.assert_close(frequency_split(x, 0.0)[0], mean)
        torch.testing.assert_close(frequency_split(x, 1, "square")[0], x)
        assert frequency_split(wave(6, 5, (12, 10)), 1)[0].abs().max() < 1e-5

    @pytest.mark.parametrize("mask", ["radial", "square"])
    def test_soft_transition(self, mask):
        size, soft, cutoff = 80, 0.2, 0.5
        for periods in range(41):
            x = wave(0, periods, (4, size))
            low, _ = frequency_split(x, cutoff, mask, soft)
            place = max(-0.5, min(0.5, (periods / 40 - cutoff) / soft))
            torch.testing.assert_close(low, x * (0.5 - 0.5 * math.sin(math.pi * place)))
        half = wave(0, 20, (4, size))
        torch.testing.assert_close(frequency_split(half, cutoff, mask, soft)[0], half / 2)

    def test_noises_do_not_resemble_each_other(self):
        _, first = frequency_split(torch.randn(4, 16, 32, 32), 0.2)
        _, second = frequency_split(torch.randn(4, 16, 32, 32), 0.2)
        similarity = F.cosine_similarity(first.flatten(1), second.flatten(1))
        assert similarity.abs().max() < 0.03  # 4 standard deviations

    def test_split_again(self):
        low, high = frequency_split(torch.randn(2, 3, 16, 16, dtype=torch.float64), 0.3)
        torch.testing.assert_close(frequency_split(low, 0.3)[0], low)
        torch.testing.assert_close(frequency_split(high, 0.3)[1], high)


class TestMagnitudeQuantile:
    @pytest.mark.parametrize("share", [0.0, 0.01, 0.2, 1.0])
    def test_largest_coefficients_of_each_image(self, share):
        spectrum = torch.fft.rfft2(
            torch.randn(3, 4, 9, 12) * torch.tensor([1, 9, 99])[:, None, None, None]
        )
        weight = bands.low_weight(spectrum, 12, share, "magnitude_quantile", 0.0)
        for image, chosen in zip(spectrum.abs(), weight.bool(), strict=True):
            assert 0 <= chosen.sum() - round(share * image.numel()) <= 1  # a pair may be equal
            if 0 < share < 1:
                assert image[chosen].min() > image[~chosen].max()

    def test_more_values_than_quantile_takes(self):
        values = torch.arange(4097 * 4096.0, dtype=torch.float64).view(1, 1, 4097, 4096)
        with pytest.raises(RuntimeError, match="too large"):
            torch.quantile(values.flatten(1), 0.5)
        assert bands._largest(values, 0.25).sum() == values.numel() // 4


class TestEnergy:
    @pytest.mark.parametrize("mask", ["radial", "square"])
    @pytest.mark.parametrize("size", [(1, 1), (2, 3), (8, 8), (9, 14), (15, 7)], ids=str)
    def test_mean_over_the_full_spectrum(self, size, mask):
        x = torch.randn(3, 2, *size, dtype=torch.float64)
        magnitude = torch.fft.fft2(x, norm="ortho").abs()
        frequencies = [torch.fft.fftfreq(s, dtype=torch.float64).abs() for s in size]
        rows, columns = torch.meshgrid(*frequencies, indexing="ij")
        length = torch.hypot(rows, columns) if mask == "radial" else torch.maximum(rows, columns)
        low = (length <= 0.4 * 0.5 + 1e-9).expand_as(magnitude)
        for found, chosen in zip(band_energy(x, 0.4, mask), (low, ~low), strict=True):
            count = chosen.sum((1, 2, 3)).clamp_min(1)
            torch.testing.assert_close(found, (magnitude * chosen).sum((1, 2, 3)) / count)

    def test_size_does_not_matter(self):
        for size in ((32, 32), (64, 128)):
            low, high = band_energy(torch.randn(2, 32, *size), 0.5)
            expected = torch.full((2,), math.sqrt(math.pi) / 2)  # of a complex normal number
            torch.testing.assert_close(low, expected, rtol=0.03, atol=0)
            torch.testing.assert_close(high, expected, rtol=0.03, atol=0)

    def test_quantile_mask(self):
        low, high = band_energy(torch.randn(2, 4, 8, 8), 0.2, "magnitude_quantile")
        assert (low > 2 * high).all()


class TestPrecision:
    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
    def test_half_precision_is_transformed_in_float32(self, dtype):
        x = (100 * torch.randn(2, 64, 24, 24)).to(dtype)  # sums of squares overflow in half
        low, high = frequency_split(x, 0.2)
        assert low.dtype == high.dtype == dtype
        tolerance = 2 * torch.finfo(dtype).eps * float(x.abs().max())
        expected = frequency_split(x.float(), 0.2)
        torch.testing.assert_close(low.float(), expected[0], rtol=0, atol=tolerance)
        torch.testing.assert_close(high.float(), expected[1], rtol=0, atol=tolerance)
        energy = band_energy(x, 0.2)
        assert energy[0].dtype == torch.float32
        torch.testing.assert_close(energy, band_energy(x.float(), 0.2))

    def test_autocast_changes_nothing(self):
        x = torch.randn(2, 4, 16, 16, requires_grad=True)
        with torch.autocast("cpu", torch.bfloat16):
            under = frequency_split(x, 0.2), band_energy(x, 0.2)
        torch.testing.assert_close(
            under, (frequency_split(x, 0.2), band_energy(x, 0.2)), rtol=0, atol=0
        )

    def test_memory_format_does_not_matter(self):
        x = torch.randn(2, 4, 12, 10)
        last = x.to(memory_format=torch.channels_last)
        torch.testing.assert_close(frequency_split(last, 0.2), frequency_split(x, 0.2))


class TestGradients:
    @pytest.mark.parametrize("size", [(4, 6), (5, 3), (1, 4)], ids=str)
    @pytest.mark.parametrize("mask", MASKS)
    def test_gradcheck(self, mask, size):
        x = torch.randn(2, 2, *size, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(lambda x: frequency_split(x, 0.4, mask), x)
        assert torch.autograd.gradcheck(lambda x: band_energy(x, 0.4, mask), x)

    def test_gradcheck_of_a_soft_transition(self):
        x = torch.randn(1, 2, 5, 6, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(lambda x: frequency_split(x, 0.4, soft=0.4), x)

    def test_gradient_of_a_band_is_in_that_band(self):
        x = torch.randn(2, 3, 16, 16, dtype=torch.float64, requires_grad=True)
        cotangent = torch.randn_like(x)
        for i in (0, 1):
            (gradient,) = torch.autograd.grad(frequency_split(x, 0.3)[i], x, cotangent)
            torch.testing.assert_close(gradient, frequency_split(cotangent, 0.3)[i])

    def test_first_asked_for_under_inference_mode(self):
        bands._window.cache_clear()
        with torch.inference_mode():
            frequency_split(torch.randn(1, 1, 6, 6), 0.2)
        x = torch.randn(1, 1, 6, 6, requires_grad=True)
        frequency_split(x, 0.2)[0].square().sum().backward()
        assert bands._window.cache_info().hits == 1 and x.grad.abs().sum() > 0


class TestTracing:
    @pytest.mark.parametrize("mask", ["radial", "magnitude_quantile"])
    def test_compiles_as_one_graph(self, mask):
        torch._dynamo.reset()
        compiled = torch.compile(
            lambda x: (*frequency_split(x, 0.3, mask), *band_energy(x, 0.3, mask)),
            fullgraph=True,
            backend="aot_eager",
        )
        for size in ((12, 17), (14, 20), *((16 + i, 24 + 2 * i) for i in range(8))):
            x = torch.randn(2, 3, *size, requires_grad=True)
            expected = (*frequency_split(x, 0.3, mask), *band_energy(x, 0.3, mask))
            outputs = compiled(x)
            torch.testing.assert_close(outputs, expected)
            gradients = [
                torch.autograd.grad(sum(o.square().sum() for o in each), x)
                for each in (outputs, expected)
            ]
            torch.testing.assert_close(*gradients)

    def test_masks_are_kept_and_no_traced_ones(self):
        bands._window.cache_clear()
        x = torch.randn(1, 2, 8, 8)
        for _ in range(3):
            frequency_split(x, 0.25)
        frequency_split(x.double(), 0.25)
        frequency_split(x, 0.25, "square")
        with FakeTensorMode():
            assert frequency_split(torch.randn(1, 2, 9, 9), 0.25)[0].shape == (1, 2, 9, 9)
        info = bands._window.cache_info()
        assert (info.hits, info.currsize) == (2, 3)
        assert info.maxsize < 1000


def test_empty_batch():
    x = torch.randn(0, 3, 8, 9, requires_grad=True)
    low, high = frequency_split(x, 0.2)
    assert low.shape == high.shape == x.shape
    assert [energy.shape for energy in band_energy(x, 0.2)] == [(0,), (0,)]
    low.sum().backward()
    assert x.grad.shape == x.shape


class TestErrors:
    @pytest.mark.parametrize("function", [frequency_split, band_energy])
    @pytest.mark.parametrize(
        "arguments, message",
        [
            (dict(cutoff=1.5), "cutoff must be a number from 0 to 1, got 1.5"),
            (dict(cutoff=-0.1), "cutoff must be a number from 0 to 1, got -0.1"),
            (dict(cutoff=float("nan")), "cutoff must be .* got nan"),
            (dict(cutoff="low"), "cutoff must be .* got 'low'"),
            (dict(cutoff=0.2, soft=-1), "soft must be a number from 0 to 1, got -1"),
            (dict(cutoff=0.2, mask="round"), "mask must be 'radial', .* got 'round'"),
            (
                dict(cutoff=0.2, mask="magnitude_quantile", soft=0.1),
                "soft must be 0 for mask 'magnitude_quantile', got 0.1",
            ),
        ],
        ids=str,
    )
    def test_arguments(self, function, arguments, message):
        with pytest.raises(ValueError, match=message):
            function(torch.zeros(1, 1, 4, 4), **arguments)

    @pytest.mark.parametrize("function", [frequency_split, band_energy])
    def test_maps(self, function):
        with pytest.raises(ValueError, match=r"x must be a map .* got shape \(4, 4\)"):
            function(torch.zeros(4, 4), 0.2)
        with pytest.raises(TypeError, match="x must have a floating point dtype, got torch.int64"):
            function(torch.zeros(1, 1, 4, 4, dtype=torch.long), 0.2)
