"""The wavelet transform: reconstruction, order of the bands, Haar by its definition, PyWavelets."""

import copy
import itertools
import sys
import warnings

import pytest
import torch

from freqfusion import DWT2d, IDWT2d

HAAR = "haar"
PTWT = ["db2", "bior2.2"]
SIZES = [(1, 1), (2, 1), (1, 6), (5, 7), (8, 12), (33, 18), (47, 31)]
HALF = [(torch.float16, 2e-3), (torch.bfloat16, 2e-2)]


@pytest.fixture(params=[HAAR, *PTWT])
def wavelet(request):
    if request.param != HAAR:
        pytest.importorskip("ptwt", reason="wavelets other than Haar need ptwt")
    return request.param


def uniform(*shape, dtype=torch.float32):
    """Values from -1 to 1, so that errors are relative to 1."""
    return 2 * torch.rand(shape, dtype=dtype) - 1


def there_and_back(x, wavelet, levels=1):
    if levels == 0:
        return x
    low, high = DWT2d(wavelet)(x)
    return IDWT2d(wavelet)(there_and_back(low, wavelet, levels - 1), high, x.shape[2:])


@pytest.mark.parametrize("levels", [1, 2, 3])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-12)])
def test_reconstruction(wavelet, dtype, tolerance, levels):
    for size in SIZES:
        x = uniform(2, 8, *size, dtype=dtype)
        y = there_and_back(x, wavelet, levels)
        assert y.shape == x.shape and y.dtype == dtype
        assert (y - x).abs().max() <= tolerance, size


def by_definition(x):
    """Haar pixel by pixel: sums and differences over blocks of 2 x 2 pixels."""
    batch, channels, height, width = x.shape
    rows, cols = -(-height // 2), -(-width // 2)
    out = x.new_zeros(4, batch, channels, rows, cols)
    for i, j, down, right in itertools.product(range(rows), range(cols), (0, 1), (0, 1)):
        pixel = x[:, :, min(2 * i + down, height - 1), min(2 * j + right, width - 1)] / 2
        signs = 1, (-1) ** down, (-1) ** right, (-1) ** (down + right)
        for band, sign in zip(out, signs, strict=True):
            band[:, :, i, j] += sign * pixel
    return out[0], torch.cat(tuple(out[1:]), 1)


@pytest.mark.parametrize("size", SIZES[:5], ids=str)
def test_haar_by_its_definition(size):
    x = uniform(2, 3, *size, dtype=torch.float64)
    for band, expected in zip(DWT2d()(x), by_definition(x), strict=True):
        torch.testing.assert_close(band, expected, rtol=0, atol=1e-15)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_haar_is_that_of_pywavelets(size):
    pytest.importorskip("ptwt")
    x = uniform(2, 3, *size, dtype=torch.float64)
    for band, expected in zip(DWT2d()(x), DWT2d("db1")(x), strict=True):  # Haar's other name
        torch.testing.assert_close(band, expected, rtol=0, atol=1e-12)


def test_haar_is_orthonormal():
    x, y = (uniform(2, 4, 16, 10, dtype=torch.float64) for _ in range(2))
    bands, others = (torch.cat(DWT2d()(z), 1) for z in (x, y))
    torch.testing.assert_close(bands.square().sum(), x.square().sum())
    torch.testing.assert_close((bands * others).sum(), (x * y).sum())
    torch.testing.assert_close(IDWT2d()(others[:, :4], others[:, 4:]), y)  # inverse and transpose


@pytest.mark.parametrize("band", ["LL", "LH", "HL", "HH"])
def test_order_of_the_bands(wavelet, band):
    """A pattern that alternates along the height is in LH alone, along the width in HL."""
    stripes = {"H": (-1.0) ** torch.arange(32), "L": torch.ones(32)}
    width, height = (stripes[letter] for letter in band)
    x = torch.outer(height, width).expand(1, 2, 32, 32)
    low, high = DWT2d(wavelet)(x)
    energies = [low.square().sum(), *(part.square().sum() for part in high.chunk(3, 1))]
    shares = dict(zip(("LL", "LH", "HL", "HH"), torch.stack(energies) / sum(energies), strict=True))
    # a mirrored border breaks the alternation of those with longer filters
    assert shares[band] > (1 - 1e-6 if wavelet == HAAR else 0.8), shares


def test_channels_of_the_high_bands():
    x = torch.zeros(1, 3, 4, 4)
    x[:, 1, ::2] = 1  # rows of channel 1 alternate
    _, high = DWT2d()(x)
    assert high.flatten(2).abs().sum(2).nonzero()[:, 1].tolist() == [1]


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize(("dtype", "tolerance"), [*HALF, (torch.float32, 1e-6)], ids=str)
def test_dtypes_and_layouts(wavelet, dtype, tolerance, layout):
    x = uniform(2, 8, 9, 12).to(dtype, memory_format=layout).requires_grad_()
    low, high = DWT2d(wavelet)(x)
    y = IDWT2d(wavelet)(low, high, (9, 12))
    y.sum().backward()
    for value in (low, high, x.grad):
        assert value.dtype == dtype and value.is_contiguous(memory_format=layout)
    assert y.dtype == dtype and (y - x).abs().max() <= tolerance
    whole = IDWT2d(wavelet)(low, high)
    assert whole.is_contiguous(memory_format=layout) and whole.shape == (2, 8, 10, 12)
    exact = DWT2d(wavelet)(x.detach().float())
    for value, reference in zip((low, high), exact, strict=True):
        assert (value - reference).abs().max() <= 2 * tolerance


@pytest.mark.parametrize(("dtype", "tolerance"), [*HALF, (torch.float32, 1e-6)], ids=str)
def test_autocast_leaves_it_alone(wavelet, dtype, tolerance):
    x = uniform(1, 2, 9, 9).to(dtype)
    expected = DWT2d(wavelet)(x)
    with torch.autocast("cpu", torch.bfloat16):
        bands = DWT2d(wavelet)(x)
        y = IDWT2d(wavelet)(*bands, (9, 9))
    assert all(map(torch.equal, bands, expected))
    assert all(value.dtype == dtype for value in (*bands, y))
    assert (y - x).abs().max() <= tolerance


def test_bands_of_different_dtypes(wavelet):
    low, high = DWT2d(wavelet)(uniform(1, 2, 8, 8))
    y = IDWT2d(wavelet)(low.bfloat16(), high)
    assert y.dtype == torch.float32
    torch.testing.assert_close(y, IDWT2d(wavelet)(low.bfloat16().float(), high))


def test_gradients(wavelet):
    x = uniform(1, 2, 5, 4, dtype=torch.float64).requires_grad_()
    low, high = (band.detach().requires_grad_() for band in DWT2d(wavelet)(x))
    assert torch.autograd.gradcheck(DWT2d(wavelet), x)
    assert torch.autograd.gradcheck(lambda *bands: IDWT2d(wavelet)(*bands, (5, 4)), (low, high))
    assert torch.autograd.gradgradcheck(DWT2d(wavelet), x)


def test_without_a_warning(wavelet, poisoned_memory):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for size in SIZES:
            for batch in (0, 2):
                y = there_and_back(uniform(batch, 3, *size), wavelet)
                assert y.shape == (batch, 3, *size) and y.isfinite().all()


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("size", [(9, 12), (8, 6)], ids=str)
def test_haar_compiles_to_one_graph(size, layout):
    x = uniform(2, 4, *size).to(memory_format=layout).requires_grad_()
    compiled = torch.compile(there_and_back, fullgraph=True, backend="aot_eager", dynamic=False)
    y = compiled(x, HAAR, 2)
    torch.testing.assert_close(y, x)
    (grad,) = torch.autograd.grad(y.square().sum(), x)
    torch.testing.assert_close(grad, 2 * x.detach())


def test_haar_exports_with_dynamic_sizes():
    class Both(torch.nn.Module):
        def forward(self, x):
            return there_and_back(x, HAAR, 2)

    h, w = torch.export.Dim("h", min=2, max=64), torch.export.Dim("w", min=2, max=64)
    shapes = {"x": {2: 4 * h, 3: 4 * w}}
    program = torch.export.export(Both(), (uniform(1, 2, 16, 12),), dynamic_shapes=shapes)
    for size in ((16, 12), (24, 40)):
        x = uniform(1, 2, *size)
        torch.testing.assert_close(program.module()(x), x)


def test_copies(wavelet):
    x = uniform(1, 2, 6, 5)
    module = DWT2d(wavelet)
    again = copy.deepcopy(module)
    assert not module.state_dict() and repr(module) == f"DWT2d('{wavelet}')"
    assert all(map(torch.equal, again(x), module(x)))


@pytest.mark.parametrize("transform", [DWT2d, IDWT2d])
class TestNames:
    @pytest.mark.parametrize("name", ["db99", "morl", "", None])  # "morl" is no discrete wavelet
    def test_unknown_wavelet(self, transform, name):
        pytest.importorskip("ptwt")
        with pytest.raises(ValueError, match=f"wavelet must be 'haar' or .*, got {name!r}"):
            transform(name)

    def test_without_ptwt(self, transform, monkeypatch):
        monkeypatch.setitem(sys.modules, "ptwt", None)
        message = r"wavelet 'db2' needs .*ptwt.*pip install \"freqfusion\[wavelets\]\""
        with pytest.raises(ImportError, match=message):
            transform("db2")
        assert transform().wavelet == HAAR


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (torch.zeros(3, 4, 4), ValueError, r"x must be a map .*, got shape \(3, 4, 4\)"),
        (torch.zeros(1, 3, 0, 4), ValueError, r"x must have rows .*, got shape \(1, 3, 0, 4\)"),
        (torch.zeros(1, 3, 4, 4).long(), TypeError, "x must have a floating .*, got torch.int64"),
        (None, TypeError, "x must be a Tensor, got NoneType"),
    ],
)
def test_bad_maps(x, error, message):
    with pytest.raises(error, match=message):
        DWT2d()(x)


@pytest.mark.parametrize(
    ("high", "size", "message"),
    [
        ((2, 8, 4, 4), None, r"high must have shape \(2, 9, 4, 4\) .*, got \(2, 8, 4, 4\)"),
        ((2, 9, 4, 5), None, r"high must have shape \(2, 9, 4, 4\) .*, got \(2, 9, 4, 5\)"),
        ((2, 9, 4, 4), (6, 8), r"size must be \(8, 8\) or less by 1, got \(6, 8\)"),
        ((2, 9, 4, 4), (8, 9), r"size must be \(8, 8\) or less by 1, got \(8, 9\)"),
    ],
)
def test_bad_bands(high, size, message):
    with pytest.raises(ValueError, match=message):
        IDWT2d()(torch.zeros(2, 3, 4, 4), torch.zeros(high), size)
