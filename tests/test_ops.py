import itertools

import oracle
import pytest
import torch
from torch.autograd import gradcheck
from torch.utils.flop_counter import FlopCounterMode

from freqfusion.ops import (
    adaptive_filter,
    adaptive_high_pass,
    carafe,
    local_similarity,
    reassemble,
)
from freqfusion.ops._geometry import pad
from freqfusion.ops._tile import Tiling

SIZES = [  # (h, w), (H, W)
    ((6, 8), (12, 16)),
    ((14, 17), (27, 33)),
    ((13, 13), (13, 13)),
    ((16, 16), (64, 64)),
    ((5, 4), (11, 4)),
    ((4, 7), (6, 20)),
    ((1, 1), (1, 1)),
    ((1, 2), (2, 3)),
]
LAYOUTS = [torch.contiguous_format, torch.channels_last]
CHOICES = list(itertools.product([1, 3, 5, 7], [1, 2], ["zeros", "reflect"]))


def maps(size, target, kernel_size, groups, dtype=torch.float64, layout=LAYOUTS[0], batch=2):
    """An input and kernels of random numbers, both with gradients."""
    shapes = (batch, 6, *size), (batch, groups * kernel_size**2, *target)
    tensors = (torch.randn(shape, dtype=dtype).to(memory_format=layout) for shape in shapes)
    return [tensor.requires_grad_() for tensor in tensors]


def close(actual, expected, inputs, tolerance=1e-12):
    """Outputs and gradients agree, relative to the largest element (at least 1: some vanish)."""
    cotangent = torch.randn_like(expected)
    actuals = actual, *torch.autograd.grad(actual, inputs, cotangent.to(actual.dtype))
    expecteds = expected, *torch.autograd.grad(expected, inputs, cotangent)
    for a, e in zip(actuals, expecteds, strict=True):
        assert a.shape == e.shape
        error = (a.double() - e.double()).abs().max() / e.double().abs().max().clamp(min=1)
        assert error <= tolerance, f"error {error:.2e}"


@pytest.mark.parametrize("layout", LAYOUTS, ids=["nchw", "channels_last"])
@pytest.mark.parametrize(("kernel_size", "groups", "padding_mode"), CHOICES)
@pytest.mark.parametrize(("size", "target"), SIZES)
class TestAgainstOracle:
    def test_reassemble(
        self, size, target, kernel_size, groups, padding_mode, layout, poisoned_memory
    ):
        x, weight = maps(size, target, kernel_size, groups, layout=layout)
        out = reassemble(x, weight, kernel_size, groups=groups, padding_mode=padding_mode)
        expected = oracle.reassemble(x, weight, kernel_size, groups, padding_mode)
        close(out, expected, (x, weight))

    def test_adaptive_filter(
        self, size, target, kernel_size, groups, padding_mode, layout, poisoned_memory
    ):
        x, logits = maps(size, target, kernel_size, groups, layout=layout)
        window = torch.rand(kernel_size, kernel_size, dtype=x.dtype)
        args = kernel_size, groups, window, padding_mode
        out = adaptive_filter(x, logits, kernel_size, None, *args[1:])
        close(out, oracle.adaptive_filter(x, logits, *args), (x, logits))


OPERATORS = [reassemble, adaptive_filter]
BOTH = pytest.mark.parametrize("operator", OPERATORS, ids=lambda f: f.__name__)


@BOTH
@pytest.mark.parametrize("target", [(10, 8), (20, 16), (13, 9)])
class TestEveryRatio:
    @pytest.mark.parametrize("layout", LAYOUTS, ids=["nchw", "channels_last"])
    @pytest.mark.parametrize(
        ("dtype", "tolerance"),
        [(torch.float32, 1e-5), (torch.bfloat16, 1e-2), (torch.float16, 2e-3)],
        ids=str,
    )
    def test_dtypes(self, operator, target, dtype, tolerance, layout):
        x, weight = maps((10, 8), target, 5, 2, dtype, layout)
        out = operator(x, weight, 5, groups=2)
        assert out.dtype == dtype
        assert out.is_contiguous(memory_format=layout)
        wide = [t.detach().double().requires_grad_() for t in (x, weight)]
        expected = getattr(oracle, operator.__name__)(*wide, 5, 2)
        cotangent = torch.randn_like(expected).to(dtype)
        grads = torch.autograd.grad(out, (x, weight), cotangent)
        expected_grads = torch.autograd.grad(expected, wide, cotangent.double())
        for a, e in zip((out, *grads), (expected, *expected_grads), strict=True):
            assert a.dtype == dtype
            assert (a.double() - e).abs().max() <= tolerance * e.abs().max()

    def test_mixed_dtypes(self, operator, target):
        x, weight = maps((10, 8), target, 3, 1, torch.bfloat16)
        weight = weight.detach().float().requires_grad_()
        out = operator(x, weight, 3)
        grad_x, grad_weight = torch.autograd.grad(out.sum(), (x, weight))
        assert (out.dtype, grad_x.dtype) == (torch.bfloat16, torch.bfloat16)
        assert grad_weight.dtype == torch.float32

    def test_gradcheck(self, operator, target):
        x, weight = maps((5, 4), tuple(n // 2 for n in target), 3, 2, batch=1)
        for padding_mode in ("zeros", "reflect"):
            assert gradcheck(
                lambda *args, mode=padding_mode: operator(*args, 3, groups=2, padding_mode=mode),
                (x, weight),
            )

    @pytest.mark.parametrize("needed", [(True, False), (False, True)])
    def test_one_gradient_alone(self, operator, target, needed):
        x, weight = maps((10, 8), target, 3, 1)
        both = torch.autograd.grad(operator(x, weight, 3).sum(), (x, weight))
        for tensor, need in zip((x, weight), needed, strict=True):
            tensor.requires_grad_(need)
        alone = torch.autograd.grad(
            operator(x, weight, 3).sum(), x if needed[0] else weight, materialize_grads=True
        )
        assert torch.equal(alone[0], both[needed.index(True)])

    def test_empty_batch(self, operator, target):
        x, weight = maps((10, 8), target, 3, 1, batch=0)
        out = operator(x, weight, 3)
        out.sum().backward()
        assert out.shape == (0, 6, *target)
        assert (x.grad.shape, weight.grad.shape) == (x.shape, weight.shape)

    def test_any_strides(self, operator, target):
        """Slices, transposed maps and expanded gradients give what contiguous copies give."""
        base, weight = maps((8, 20), target, 3, 1)
        x = base.transpose(2, 3)[:, ::2, ::2]
        wide = torch.cat((weight, weight), 3)[:, :, :, : target[1]]
        out = operator(x, wide, 3)
        grads = torch.autograd.grad(out.sum(), (base, weight))  # the gradient of sum is expanded
        copy = x.detach().contiguous().requires_grad_()
        expected = operator(copy, weight, 3)
        expected_x, expected_weight = torch.autograd.grad(
            expected, (copy, weight), torch.ones_like(expected).contiguous()
        )
        assert torch.equal(out, expected)
        assert torch.equal(grads[0].transpose(2, 3)[:, ::2, ::2], expected_x)
        assert torch.equal(grads[1], expected_weight)

    def test_deterministic(self, operator, target):
        x, weight = maps((10, 8), target, 3, 1, torch.float32)
        runs = [torch.autograd.grad(operator(x, weight, 3).sum(), (x, weight)) for _ in range(2)]
        assert all(map(torch.equal, *runs))

    @pytest.mark.parametrize("layout", LAYOUTS, ids=["nchw", "channels_last"])
    def test_opcheck(self, operator, target, layout):
        x, weight = maps((10, 8), target, 3, 2, layout=layout)
        softmax = operator is adaptive_filter
        window = (torch.rand(3, 3),) if softmax else ()
        options = 3, 2, "zeros", *((2 if target == (10, 8) else 0,) if softmax else ())
        registered = getattr(torch.ops.freqfusion, operator.__name__).default
        torch.library.opcheck(registered, (x, weight, *window, *options))
        with torch.no_grad():
            lse = [registered(x, weight, *window, *options)[1]] if softmax else []
        backward = getattr(torch.ops.freqfusion, f"{operator.__name__}_backward").default
        grad = torch.randn(*x.shape[:2], *target, dtype=x.dtype)
        args = grad, x.detach(), weight.detach(), *window, *lse, *options, True
        for need_weight in (True, False):
            torch.library.opcheck(backward, (*args, need_weight))

    def test_compiles_to_one_graph(self, operator, target):
        x, weight = maps((10, 8), target, 3, 1)
        compiled = torch.compile(lambda *a: operator(*a, 3), fullgraph=True, backend="aot_eager")
        close(compiled(x, weight), operator(x, weight, 3), (x, weight))

    def test_exports_as_one_node(self, operator, target):
        class Module(torch.nn.Module):
            def forward(self, x, weight):
                return operator(x, weight, 3)

        x, weight = (t.detach() for t in maps((10, 8), target, 3, 1))
        program = torch.export.export(Module(), (x, weight))
        calls = [node.target for node in program.graph.nodes if node.op == "call_function"]
        assert getattr(torch.ops.freqfusion, operator.__name__).default in calls
        assert len([call for call in calls if "aten" in str(call)]) == 0
        assert torch.equal(program.module()(x, weight), operator(x, weight, 3))

    def test_flops(self, operator, target):
        x, weight = maps((10, 8), target, 5, 1)
        with FlopCounterMode(display=False) as counter:
            out = operator(x, weight, 5)
        forward = 2 * 25 * out.numel()
        assert counter.get_total_flops() == forward
        with FlopCounterMode(display=False) as counter:
            out.sum().backward()
        assert counter.get_total_flops() == 2 * forward
        out = operator(x.detach(), weight, 5)
        with FlopCounterMode(display=False) as counter:
            out.sum().backward()
        assert counter.get_total_flops() == forward


@pytest.mark.parametrize("residual", [False, True])
class TestHighPass:
    @pytest.mark.parametrize("layout", LAYOUTS, ids=["nchw", "channels_last"])
    @pytest.mark.parametrize(("kernel_size", "groups", "padding_mode"), CHOICES)
    @pytest.mark.parametrize("size", [(13, 9), (1, 2)])
    def test_oracle(
        self, residual, size, kernel_size, groups, padding_mode, layout, poisoned_memory
    ):
        x, logits = maps(size, size, kernel_size, groups, layout=layout)
        args = kernel_size, groups, torch.rand(kernel_size, kernel_size), padding_mode
        out = adaptive_high_pass(x, logits, *args, residual)
        expected = (1 + residual) * x - oracle.adaptive_filter(x, logits, *args)
        close(out, expected, (x, logits))

    def test_gradcheck(self, residual):
        x, logits = maps((5, 4), (5, 4), 3, 2, batch=1)
        assert gradcheck(
            lambda *args: adaptive_high_pass(*args, 3, groups=2, residual=residual), (x, logits)
        )

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
    def test_rounds_once(self, residual, dtype):
        """The difference is taken before it is rounded to half precision."""
        x, logits = (t.detach() for t in maps((8, 8), (8, 8), 3, 1, dtype))
        out = adaptive_high_pass(x, logits, 3, residual=residual)
        assert out.dtype == dtype
        exact = adaptive_high_pass(x.double(), logits.double(), 3, residual=residual)
        torch.testing.assert_close(out, exact.to(dtype), atol=1e-5, rtol=torch.finfo(dtype).eps)

    def test_sizes_must_agree(self, residual):
        x, logits = maps((4, 4), (8, 8), 3, 1)
        with pytest.raises(ValueError, match=r"logits must be .*\(4, 4\), got \(8, 8\)"):
            adaptive_high_pass(x, logits, 3, residual=residual)


def test_autocast_casts_the_map_but_not_float64():
    x, weight = maps((4, 4), (8, 8), 3, 1, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        assert reassemble(x, weight, 3).dtype == torch.bfloat16
        assert adaptive_filter(x, weight, 3).dtype == torch.bfloat16
        assert reassemble(x.double(), weight, 3).dtype == torch.float64


@pytest.mark.parametrize("size", [8, 16])
def test_accumulates_half_precision_in_float32(size):
    """In float16, 2048 + 1 is 2048: added one by one, the small terms would be lost."""
    x = torch.ones(1, 65, 8, 8, dtype=torch.float16)
    weight = torch.ones(1, 25, size, size, dtype=torch.float16)
    weight[:, 0] = 2048
    assert reassemble(x, weight, 5)[0, 0, size // 2, size // 2] == 2048 + 24
    x[:, 0] = 2048
    weight.requires_grad_()
    reassemble(x, weight, 5).sum().backward()
    assert weight.grad[0, 12, size // 2, size // 2] == 2048 + 64


@BOTH
@pytest.mark.parametrize("target", [(8, 8), (16, 16)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_does_not_reach_into_the_operators(operator, target, dtype):
    x, weight = maps((8, 8), target, 5, 1, torch.float32)
    x = (100 * x).detach().to(dtype).requires_grad_()
    results = []
    for enabled in (False, True):
        with torch.autocast("cpu", dtype, enabled=enabled):
            out = operator(x, weight, 5)
            results.append([out, *torch.autograd.grad(out.float().sum(), (x, weight))])
    assert all(map(torch.equal, *results))
    assert all(tensor.isfinite().all() for tensor in results[0])


@pytest.mark.parametrize("layout", LAYOUTS, ids=["nchw", "channels_last"])
def test_reflect_padding_keeps_the_memory_format(layout):
    x = torch.randn(2, 6, 5, 7).to(memory_format=layout)
    padded = pad(x, 2, "reflect")
    assert padded.is_contiguous(memory_format=layout)
    assert torch.equal(padded, oracle.pad(x, 2, "reflect"))


def test_window_zeros_leave_taps_out():
    x, logits = maps((6, 6), (12, 12), 3, 1)
    window = torch.zeros(3, 3).T  # of any strides
    window[1, 1] = 1
    expected = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
    torch.testing.assert_close(adaptive_filter(x, logits, 3, window=window), expected)


def test_softmax_does_not_overflow():
    x, logits = maps((6, 6), (6, 6), 3, 1, torch.float32)
    assert adaptive_filter(x, logits * 1e4, 3).isfinite().all()


def test_carafe_takes_mmcv_arguments():
    x, weight = maps((5, 6), (10, 12), 5, 2)
    assert torch.equal(carafe(x, weight, 5, 2, 2), reassemble(x, weight, 5, 2, groups=2))
    with pytest.raises(ValueError, match="scale_factor = 3"):
        carafe(x, weight, 5, 2, 3)


def arguments(**changes):
    x, weight = (t.detach() for t in maps((4, 5), (8, 10), 3, 1))
    return {"x": x, "weight": weight, "kernel_size": 3} | changes


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"kernel_size": 4}, ValueError, "kernel_size must be an odd positive integer, got 4"),
        ({"kernel_size": 5}, ValueError, r"weight must have shape .*25.*got \(2, 9, 8, 10\)"),
        ({"groups": 4}, ValueError, "groups must divide the 6 channels of x, got 4"),
        ({"groups": 0}, ValueError, "groups must divide the 6 channels of x, got 0"),
        ({"padding_mode": "same"}, ValueError, "padding_mode must be 'zeros' or 'refl.*got 'same'"),
        ({"scale_factor": 3}, ValueError, r"scale_factor = 3.*\(12, 15\), got \(8, 10\)"),
        ({"x": torch.zeros(2, 6, 4)}, ValueError, r"x must be a map .*\(2, 6, 4\)"),
        ({"x": torch.zeros(2, 6, 9, 9)}, ValueError, r"weight must have at least.*\(9, 9\)"),
        ({"x": torch.zeros(3, 6, 4, 5)}, ValueError, r"weight must have shape \(batch of x"),
        ({"x": torch.zeros(2, 6, 4, 5).int()}, TypeError, "x must have a floating.*int32"),
        ({"x": torch.zeros(2, 6, 4, 5, device="meta")}, ValueError, "on the device of x, meta"),
        ({"weight": [1]}, TypeError, "weight must be a Tensor, got list"),
        ({"dilation": 1}, TypeError, "dilation"),
    ],
)
def test_errors_name_the_argument(changes, error, message):
    with pytest.raises(error, match=message):
        reassemble(**arguments(**changes))


def test_window_errors():
    x, logits = (t.detach() for t in maps((4, 5), (8, 10), 3, 1))
    with pytest.raises(ValueError, match=r"window must have kernel_size\*\*2 = 9 elements.*\(5,"):
        adaptive_filter(x, logits, 3, window=torch.ones(5))
    with pytest.raises(TypeError, match="window must be a Tensor, got list"):
        adaptive_filter(x, logits, 3, window=[1] * 9)
    with pytest.raises(ValueError, match="window must be on the device of x, cpu, got meta"):
        adaptive_filter(x, logits, 3, window=torch.ones(9, device="meta"))


def test_forward_mode_is_refused_not_zero():
    x, weight = (t.detach().float() for t in maps((4, 5), (8, 10), 3, 1))
    for function in (
        lambda x: reassemble(x, weight, 3),
        lambda x: adaptive_filter(x, weight, 3),
        lambda x: adaptive_high_pass(x, weight[..., :4, :5], 3),
        local_similarity,
    ):
        with pytest.raises(NotImplementedError, match="x must have no tangent"):
            torch.func.jvp(function, (x,), (x,))
    with pytest.raises(NotImplementedError, match="weight must have no tangent"):
        torch.func.jacfwd(lambda weight: reassemble(x, weight, 3))(weight)


def test_coarse_maps_smaller_than_a_tile_are_not_padded():
    assert Tiling((1, 1), (64, 64), 5, 1, "zeros").extra == (0, 0)
    assert Tiling((2, 3), (2, 2), 5, 1, "zeros").extra == (1, 0)


def test_a_map_that_could_have_either_format_is_contiguous():
    x, weight = torch.randn(2, 8, 1, 1), torch.randn(2, 9, 2, 2)
    assert reassemble(x, weight, 3).is_contiguous()


def test_gradients_are_summed_in_the_widest_dtype():
    x = torch.ones(1, 1, 1, 1, requires_grad=True)
    weight = torch.tensor([[[[1e8 + 1, -1e8]]]], dtype=torch.float64)
    reassemble(x, weight, 1).sum().backward()
    assert x.grad.item() == 1
