"""The Triton kernels: on a GPU, or on the CPU in Triton's interpreter.

    TRITON_INTERPRET=1 python -m pytest tests/test_kernels.py

in a process of its own, because Triton reads the variable when it is imported. bfloat16 products
are wrong in the interpreter, so they are tested on GPUs alone.
"""

import contextlib
import os

import pytest
import torch

triton = pytest.importorskip("triton")
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
if not torch.cuda.is_available() and not INTERPRETED:
    pytest.skip("no GPU, and TRITON_INTERPRET is not 1", allow_module_level=True)

from freqfusion.kernels import launch, tuning  # noqa: E402
from freqfusion.kernels.launch import Filter  # noqa: E402
from torch.utils.flop_counter import FlopCounterMode  # noqa: E402

from freqfusion import FreqFusion  # noqa: E402
from freqfusion.ops import (  # noqa: E402
    accelerated,
    adaptive_filter,
    adaptive_high_pass,
    local_similarity,
    reassemble,
    reference,
)
from freqfusion.ops._geometry import memory_format_of  # noqa: E402

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
LAYOUTS = {"nchw": torch.contiguous_format, "channels_last": torch.channels_last}
HALVES = [torch.float16] if INTERPRETED else [torch.float16, torch.bfloat16]
on_gpu = pytest.mark.skipif(DEVICE == "cpu", reason="needs a GPU")
both_layouts = pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)

CASES = [  # (h, w), (H, W), kernel_size, groups, padding_mode
    ((6, 8), (12, 16), 5, 1, "zeros"),
    ((5, 7), (10, 14), 5, 2, "reflect"),
    ((7, 9), (13, 17), 5, 1, "zeros"),  # one less than twice as large
    ((9, 10), (9, 10), 3, 2, "zeros"),
    ((5, 6), (5, 6), 5, 1, "reflect"),
    ((5, 4), (11, 4), 3, 1, "zeros"),  # ratios that are not whole, and differ
    ((7, 5), (10, 9), 5, 2, "reflect"),
    ((3, 4), (12, 16), 3, 1, "reflect"),
    ((2, 3), (18, 27), 3, 1, "zeros"),
    ((4, 7), (8, 14), 7, 1, "zeros"),
    ((6, 5), (6, 5), 7, 1, "reflect"),
    ((5, 5), (5, 5), 9, 1, "zeros"),
    ((3, 4), (6, 8), 15, 1, "zeros"),
    ((4, 3), (8, 6), 1, 2, "zeros"),
    ((1, 1), (1, 1), 3, 1, "zeros"),
    ((1, 1), (2, 2), 5, 1, "reflect"),
    ((1, 2), (2, 3), 5, 2, "zeros"),
]


@pytest.fixture(autouse=True)
def triton_backend(monkeypatch):
    monkeypatch.setenv("FREQFUSION_BACKEND", "triton")


@pytest.fixture
def long_programs(monkeypatch):
    """Few programs, so that each works through several blocks of channels."""
    monkeypatch.setattr(tuning, "PROGRAMS", 1)


def randn(*shape, dtype=torch.float32, layout=torch.contiguous_format):
    return torch.randn(shape, dtype=dtype, device=DEVICE).to(memory_format=layout)


def maps(size, target, kernel_size, groups, channels=6, **options):
    """Input, weights and cotangent."""
    shapes = (channels, *size), (groups * kernel_size**2, *target), (channels, *target)
    return [randn(2, *shape, **options) for shape in shapes]


def close(actual, expected, tolerance=1e-5):
    """Alike relative to the largest element, at least 1."""
    for a, e in zip(actual, expected, strict=True):
        assert a.shape == e.shape
        error = (a.double() - e.double()).abs().max() / e.double().abs().max().clamp(min=1)
        assert error <= tolerance, f"error {error:.1e}"


def gradients(operator, inputs, cotangent):
    """Output and gradients of `operator(*inputs)`."""
    leaves = [x.detach().requires_grad_() for x in inputs]
    out = operator(*leaves)
    return [out, *torch.autograd.grad(out, leaves, cotangent.to(out.dtype))]


def against_reference(monkeypatch, operator, inputs, cotangent, tolerance=1e-5):
    """Checks output and gradients against PyTorch in float64; returns the former."""
    actual = gradients(operator, inputs, cotangent)
    monkeypatch.setenv("FREQFUSION_BACKEND", "torch")
    wide = [x.double() for x in inputs]
    close(actual, gradients(operator, wide, cotangent.double()), tolerance)
    monkeypatch.setenv("FREQFUSION_BACKEND", "triton")
    return actual


@both_layouts
@pytest.mark.parametrize(("size", "target", "kernel_size", "groups", "padding_mode"), CASES)
class TestAgainstReference:
    def test_reassemble(
        self, size, target, kernel_size, groups, padding_mode, layout, monkeypatch, poisoned_memory
    ):
        *inputs, cotangent = maps(size, target, kernel_size, groups, layout=layout)

        def operator(x, weight):
            return reassemble(x, weight, kernel_size, None, groups, padding_mode)

        out, *_ = against_reference(monkeypatch, operator, inputs, cotangent)
        assert memory_format_of(out) == memory_format_of(inputs[0])

    def test_adaptive_filter(
        self, size, target, kernel_size, groups, padding_mode, layout, monkeypatch, poisoned_memory
    ):
        *inputs, cotangent = maps(size, target, kernel_size, groups, layout=layout)
        window = torch.rand(kernel_size, kernel_size, device=DEVICE)

        def operator(x, logits):
            return adaptive_filter(x, logits, kernel_size, None, groups, window, padding_mode)

        against_reference(monkeypatch, operator, inputs, cotangent)


@both_layouts
@pytest.mark.parametrize("padding_mode", ["zeros", "reflect"])
@pytest.mark.parametrize("residual", [False, True])
def test_high_pass(residual, padding_mode, layout, monkeypatch, poisoned_memory):
    *inputs, cotangent = maps((9, 11), (9, 11), 3, 2, layout=layout)
    window = torch.rand(3, 3, device=DEVICE)

    def operator(x, logits):
        return adaptive_high_pass(x, logits, 3, 2, window, padding_mode, residual)

    against_reference(monkeypatch, operator, inputs, cotangent)


@both_layouts
@pytest.mark.parametrize("channels", [40, 150, 300])
def test_several_blocks_of_channels(channels, layout, monkeypatch, poisoned_memory, long_programs):
    for groups in (1, 2):
        *inputs, cotangent = maps((4, 5), (8, 10), 3, groups, channels, layout=layout)
        against_reference(
            monkeypatch, lambda x, w, g=groups: adaptive_filter(x, w, 3, 2, g), inputs, cotangent
        )


def test_channels_in_several_programs(monkeypatch, poisoned_memory):
    """Where tiles are few, each block of channels is a program of its own."""
    *inputs, cotangent = maps((3, 4), (6, 8), 5, 2, 100)
    against_reference(monkeypatch, lambda x, w: adaptive_filter(x, w, 5, 2, 2), inputs, cotangent)


@both_layouts
@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("target", [(12, 14), (6, 7), (9, 10)])
@pytest.mark.parametrize("padding_mode", ["zeros", "reflect"])
def test_half_precision(dtype, target, layout, padding_mode, monkeypatch, poisoned_memory):
    *inputs, cotangent = maps((6, 7), target, 5, 1, 36, dtype=dtype, layout=layout)
    tolerance = 4 * torch.finfo(dtype).eps
    for operator in (reassemble, adaptive_filter):

        def function(x, weight, operator=operator):
            return operator(x, weight, 5, padding_mode=padding_mode)

        against_reference(monkeypatch, function, inputs, cotangent, tolerance)


def test_gradients_of_a_reflected_border_are_summed_in_float32():
    """At one pixel 25 taps meet; in float16, 2048 + 1 is 2048."""
    x = torch.ones(1, 16, 1, 1, dtype=torch.float16, device=DEVICE, requires_grad=True)
    weight = torch.ones(1, 25, 1, 1, dtype=torch.float16, device=DEVICE)
    weight[:, 0] = 2048
    reassemble(x, weight, 5, padding_mode="reflect").sum().backward()
    assert (x.grad == 2048 + 24).all()


@pytest.mark.parametrize("dtypes", [(torch.float16, torch.float32), (torch.float32, torch.float16)])
def test_mixed_dtypes(dtypes, monkeypatch):
    x, logits, cotangent = maps((6, 7), (12, 14), 3, 1)
    inputs = x.to(dtypes[0]), logits.to(dtypes[1])
    results = against_reference(
        monkeypatch, lambda x, w: adaptive_filter(x, w, 3), inputs, cotangent, 4e-3
    )
    assert [r.dtype for r in results] == [dtypes[0], *dtypes]


def test_sums_of_half_precision_are_float32():
    """In float16, 2048 + 1 is 2048: added one by one, the small terms would be lost."""
    x = torch.ones(1, 65, 8, 8, dtype=torch.float16, device=DEVICE)
    weight = torch.ones(1, 25, 16, 16, dtype=torch.float16, device=DEVICE)
    weight[:, 0] = 2048
    assert reassemble(x, weight, 5)[0, 0, 8, 8] == 2048 + 24
    x[:, 0] = 2048
    weight.requires_grad_()
    reassemble(x, weight, 5).sum().backward()
    assert weight.grad[0, 12, 8, 8] == 2048 + 64


def test_any_strides():
    """Slices, transposed maps and expanded gradients give what contiguous copies give."""
    base, weight = randn(2, 6, 8, 20), randn(2, 9, 20, 16)
    base.requires_grad_(), weight.requires_grad_()
    x = base.transpose(2, 3)[:, ::2, ::2]
    wide = torch.cat((weight, weight), 3)[:, :, :, ::2]
    out = adaptive_filter(x, wide, 3)
    grads = torch.autograd.grad(out.sum(), (base, weight))  # the gradient of sum is expanded
    copy = x.detach().contiguous().requires_grad_()
    expected = adaptive_filter(copy, wide.contiguous(), 3)
    ones = torch.ones_like(expected).contiguous()
    expected_grads = torch.autograd.grad(expected, (copy, weight), ones)
    close([out], [expected])
    close([grads[0].transpose(2, 3)[:, ::2, ::2], grads[1]], expected_grads)


@pytest.mark.parametrize("needed", [(True, False), (False, True)])
def test_one_gradient_alone(needed):
    *inputs, cotangent = maps((6, 5), (12, 10), 3, 1)
    _, *both = gradients(lambda x, w: adaptive_filter(x, w, 3), inputs, cotangent)
    leaves = [t.requires_grad_(need) for t, need in zip(inputs, needed, strict=True)]
    out = adaptive_filter(*leaves, 3)
    (alone,) = torch.autograd.grad(out, leaves[not needed[0]], cotangent)
    assert torch.equal(alone, both[not needed[0]])


def test_deterministic():
    *inputs, cotangent = maps((9, 7), (18, 14), 5, 1, 40)
    runs = [gradients(lambda x, w: adaptive_filter(x, w, 5), inputs, cotangent) for _ in range(2)]
    assert all(map(torch.equal, *runs))


@pytest.mark.parametrize(("batch", "channels"), [(0, 6), (2, 0)])
def test_empty(batch, channels):
    x = randn(batch, channels, 4, 5).requires_grad_()
    logits = randn(batch, 9, 8, 10).requires_grad_()
    out = adaptive_filter(x, logits, 3)
    out.sum().backward()
    assert out.shape == (batch, channels, 8, 10)
    assert (x.grad.shape, logits.grad.shape) == (x.shape, logits.shape)
    assert not logits.grad.any()
    assert local_similarity(x[:0]).shape == (0, 8, 4, 5)


def test_extreme_logits_and_zeros_in_the_window(monkeypatch):
    x, logits, cotangent = maps((5, 6), (10, 12), 3, 1)
    logits *= 1e3
    window = torch.ones(3, 3, device=DEVICE)
    window[1] = 0  # among them the largest logits of some pixels

    def operator(x, logits):
        return adaptive_filter(x, logits, 3, window=window)

    # float32 holds a log-sum-exp of 1e3 to 6e-5, and with it the weights of backward
    out, _, grad = against_reference(monkeypatch, operator, (x, logits), cotangent, 1e-4)
    assert out.isfinite().all()
    assert (grad[:, 3:6] == 0).all()


def test_windows_of_any_strides_and_dtype(monkeypatch):
    *inputs, cotangent = maps((5, 6), (5, 6), 3, 1)
    windows = torch.rand(3, 3).T, torch.rand(3, 6).half()[:, ::2], torch.full((1,), 0.5).expand(9)
    for window in windows:
        window = window.to(DEVICE)
        assert window.stride() != (3, 1)
        against_reference(
            monkeypatch,
            lambda x, w, v=window: adaptive_filter(x, w, 3, window=v),
            inputs,
            cotangent,
        )


@both_layouts
@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("size", [(7, 9), (3, 2), (1, 1)])
@pytest.mark.parametrize("channels", [5, 40])
def test_similarity(channels, size, dilation, layout, monkeypatch, poisoned_memory):
    x, cotangent = randn(2, channels, *size, layout=layout), randn(2, 8, *size)
    x[:, :, 0, 0] = 0
    operator = lambda x: local_similarity(x, dilation)  # noqa: E731
    out, grad = against_reference(monkeypatch, operator, [x], cotangent)
    assert (grad[:, :, 0, 0] == 0).all()
    assert grad.is_contiguous(memory_format=layout)


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_similarity_in_half_precision(dtype, monkeypatch, poisoned_memory):
    x = (randn(1, 4, 6, 6).clamp(-3, 3) * 2e4).to(dtype)  # squares overflow float16
    cotangent = randn(1, 8, 6, 6, layout=torch.channels_last)
    out, grad = against_reference(monkeypatch, local_similarity, [x], cotangent, 1e-4)
    assert (out.dtype, grad.dtype) == (torch.float32, dtype)


def test_nan_stays_nan():
    x = randn(1, 4, 5, 5)
    x[0, 0, 2, 2] = torch.nan
    leaf = x.clone().requires_grad_()
    local_similarity(leaf).sum().backward()
    assert leaf.grad[0, :, 2, 2].isnan().all()
    window = torch.tensor([1.0, torch.nan, 1.0] * 3, device=DEVICE)
    assert adaptive_filter(x, randn(1, 9, 5, 5), 3, window=window).isnan().all()


def test_runs_on_the_device_of_its_tensors(monkeypatch):
    entered = []

    class Module:
        @staticmethod
        def device(device):
            entered.append(device)
            return contextlib.nullcontext()

    class Kernel:
        def __getitem__(self, grid):
            return lambda **arguments: entered.append(grid)

    monkeypatch.setattr(torch, "get_device_module", lambda device: Module)
    tensor = torch.empty(1, device="meta")
    launch.Launch(Kernel(), (3, 1), {"x_ptr": tensor}, tuning.Blocks(4, 4, 16))()
    assert entered == [tensor.device, (3, 1)]


class TestWide:
    """64-bit offsets, for maps with more than 2**31 elements between two of an image."""

    def test_where_they_are_needed(self):
        near = torch.empty(3, 4, 5, 5, device="meta")
        assert not launch.is_wide(near, near)
        assert not launch.is_wide(near.as_strided(near.shape, (2**40, 25, 5, 1)))
        for dim in (1, 2, 3):
            strides = [100, 25, 5, 1]
            strides[dim] = 2**29  # times 4 or, for channels, 3
            assert launch.is_wide(near, near.as_strided(near.shape, strides)) == (dim > 1)

    @pytest.mark.parametrize("operator", [reassemble, adaptive_filter, adaptive_high_pass])
    def test_all_offsets_forced(self, operator, monkeypatch, poisoned_memory):
        monkeypatch.setattr(launch, "is_wide", lambda *tensors: True)
        target = (7, 9) if operator is adaptive_high_pass else (11, 18)
        *inputs, cotangent = maps((7, 9), target, 3, 1)
        against_reference(monkeypatch, lambda x, w: operator(x, w, 3), inputs, cotangent)
        x = randn(2, 5, 7, 9)
        against_reference(monkeypatch, local_similarity, [x], randn(2, 8, 7, 9))

    def test_images_far_apart(self):
        """More than 2**31 elements between two images, few inside of one."""
        x, weight, grad_out = maps((3, 4), (6, 8), 3, 1, 4, dtype=torch.float16)
        memory = torch.empty(2**31 + 100, dtype=torch.float16).to(DEVICE)
        far = memory.as_strided(x.shape, (2**31 + 1, 12, 4, 1)).copy_(x)
        assert not launch.is_wide(far)
        out = torch.full_like(grad_out, torch.nan)
        launch.run(launch.forward(Filter(3), far, weight, out))
        close([out], [reference.reassemble_forward(x, weight, 3, 1, "zeros")], 4e-3)

    @pytest.mark.parametrize("far", ["x", "weight", "out", "grad_out", "grad_x", "grad_weight"])
    def test_offsets_beyond_32_bits(self, far):
        """The last row of one of the tensors lies 2**31 elements behind its first."""
        x, weight, grad_out = maps((3, 4), (6, 8), 3, 1, 4, dtype=torch.float16)
        f = Filter(3)
        expected = reference.reassemble_forward(x, weight, 3, 1, "zeros")
        gradients = reference.reassemble_backward(grad_out, x, weight, 3, 1, "zeros")
        tensors = {"x": x, "weight": weight, "out": expected, "grad_out": grad_out}
        tensors |= dict(zip(("grad_x", "grad_weight"), gradients, strict=True))
        written = {"out", "grad_x", "grad_weight"}
        placed = {
            n: torch.full_like(t, torch.nan) if n in written else t for n, t in tensors.items()
        }
        placed[far] = self.stretch(placed[far])
        x, weight, out, grad_out, grad_x, grad_weight = placed.values()
        launch.run(launch.forward(f, x, weight, out))
        launch.run(launch.backward_weight(f, grad_out, x, weight, grad_weight))
        launch.run(launch.backward_x(f, grad_out, weight, grad_x))
        for name in written:
            close([placed[name]], [tensors[name]], 4e-3)

    @staticmethod
    def stretch(tensor):
        batch, channels, height, width = tensor.shape
        row = -(-(2**31) // (height - 1))
        strides = channels * width, width, row, 1
        memory = torch.empty(row * (height - 1) + batch * channels * width, dtype=tensor.dtype)
        far = memory.to(DEVICE).as_strided(tensor.shape, strides)
        assert launch.is_wide(far)
        return far.copy_(tensor)


@both_layouts
@pytest.mark.parametrize("kernel_size", [3, 5])
@pytest.mark.parametrize("target", [(6, 8), (12, 16), (9, 12)])
def test_every_candidate_computes_the_same(target, kernel_size, layout):
    x, weight, grad_out = maps((6, 8), target, kernel_size, 1, 40, layout=layout)
    f = Filter(kernel_size)
    out, grad_x, grad_weight = grad_out.clone(), x.clone(), weight.clone()
    for launches, result in (
        (launch.forward(f, x, weight, out), out),
        (launch.backward_weight(f, grad_out, x, weight, grad_weight), grad_weight),
        (launch.backward_x(f, grad_out, weight, grad_x), grad_x),
        (launch.similarity_forward(x, similarity := randn(2, 8, 6, 8), 2), similarity),
        (launch.similarity_backward(randn(2, 8, 6, 8), x, grad_x, 2), grad_x),
    ):
        results = []
        for candidate in launches:
            result.fill_(torch.nan)
            candidate()
            results.append(result.clone())
        assert len(results) > 1
        close(results[1:], results[:1] * (len(results) - 1))


@pytest.mark.parametrize("operator", ["reassemble", "adaptive_filter", "local_similarity"])
def test_opcheck(operator):
    x, weight, grad = maps((4, 5), (8, 10), 3, 2)
    x.requires_grad_(), weight.requires_grad_()
    registered = getattr(torch.ops.freqfusion, operator).default
    backward = getattr(torch.ops.freqfusion, f"{operator}_backward").default
    if operator == "local_similarity":
        torch.library.opcheck(registered, (x, 2))
        torch.library.opcheck(backward, (randn(2, 8, 4, 5), x.detach(), 2))
        return
    softmax = operator == "adaptive_filter"
    options = (torch.rand(3, 3, device=DEVICE), 3, 2, "zeros", 0) if softmax else (3, 2, "zeros")
    torch.library.opcheck(registered, (x, weight, *options))
    with torch.no_grad():
        lse = [registered(x, weight, *options)[1]] if softmax else []
    saved = (x.detach(), weight.detach(), *options[: len(lse)], *lse, *options[len(lse) :])
    torch.library.opcheck(backward, (grad, *saved, True, True))


def test_compiles_to_one_graph():
    *inputs, cotangent = maps((4, 5), (8, 10), 3, 1)
    operator = lambda x, w: adaptive_filter(x, w, 3)  # noqa: E731
    compiled = torch.compile(operator, fullgraph=True, backend="aot_eager")
    close(gradients(compiled, inputs, cotangent), gradients(operator, inputs, cotangent), 0)


def test_flops_are_counted():
    x, weight, _ = maps((4, 5), (8, 10), 5, 1)
    with FlopCounterMode(display=False) as counter:
        out = adaptive_filter(x, weight, 5)
    assert counter.get_total_flops() == 2 * 25 * out.numel()


@both_layouts
def test_layer(layout, monkeypatch):
    layer = FreqFusion(24, 16, compressed_channels=16, feature_resample=True).to(DEVICE)
    inputs = [randn(1, 24, 9, 12, layout=layout), randn(1, 16, 5, 6, layout=layout)]
    parameters = list(layer.parameters())

    def run():
        leaves = [x.clone().requires_grad_() for x in inputs]
        mask, fine, coarse = layer(*leaves)
        loss = (fine**2).mean() + (coarse**2).mean()
        return [mask, fine, coarse, *torch.autograd.grad(loss, [*leaves, *parameters])]

    actual = run()
    monkeypatch.setenv("FREQFUSION_BACKEND", "torch")
    close(actual, run())


def test_the_kernels_are_what_runs(monkeypatch):
    """None of these tests compares the reference with itself."""
    calls = []
    run = launch.run
    monkeypatch.setattr(launch, "run", lambda *args: calls.append(args) or run(*args))
    *inputs, cotangent = maps((3, 4), (6, 8), 3, 1)
    gradients(lambda x, w: reassemble(x, w, 3), inputs, cotangent)
    gradients(lambda x, w: adaptive_filter(x, w, 3), inputs, cotangent)
    gradients(local_similarity, inputs[:1], randn(2, 8, 3, 4))
    assert len(calls) == 3 + 3 + 2
    assert accelerated.launch is launch


@on_gpu
def test_cuda_graph():
    x, logits, cotangent = maps((20, 24), (40, 48), 5, 1, 64)
    operator = lambda x, w: adaptive_filter(x, w, 5)  # noqa: E731
    expected = gradients(operator, (x, logits), cotangent)  # compiles
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = gradients(operator, (x, logits), cotangent)
    graph.replay()
    assert all(map(torch.equal, captured, expected))


@on_gpu
def test_autotuning(monkeypatch):
    *inputs, cotangent = maps((20, 24), (40, 48), 5, 1, 64)
    operator = lambda x, w: adaptive_filter(x, w, 5)  # noqa: E731
    expected = gradients(operator, inputs, cotangent)
    monkeypatch.setenv("FREQFUSION_AUTOTUNE", "1")
    monkeypatch.setattr(tuning, "_fastest", {})
    close(gradients(operator, inputs, cotangent), expected)
    assert len(tuning._fastest) == 3


@on_gpu
@both_layouts
def test_large_maps(layout, monkeypatch):
    """Sizes of an FPN, with more programs than a GPU runs at a time."""
    *inputs, cotangent = maps((100, 167), (200, 333), 5, 1, 256, layout=layout)
    against_reference(monkeypatch, lambda x, w: adaptive_filter(x, w, 5), inputs, cotangent)
