import oracle
import pytest
import torch

from freqfusion.ops import local_similarity

SIZES = [(7, 9), (5, 5), (3, 8), (2, 2), (1, 1), (1, 6)]


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("dilation", [1, 2, 3])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_against_oracle(size, dilation, layout, poisoned_memory):
    x = torch.randn(2, 5, *size, dtype=torch.float64).to(memory_format=layout).requires_grad_()
    actual, expected = local_similarity(x, dilation), oracle.local_similarity(x, dilation)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12)
    cotangent = torch.randn_like(expected)
    grads = [torch.autograd.grad(y, x, cotangent)[0] for y in (actual, expected)]
    torch.testing.assert_close(*grads, rtol=0, atol=1e-12)


def test_gradcheck():
    x = torch.randn(1, 3, 5, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(local_similarity, x)


def test_opcheck():
    x = torch.randn(2, 4, 6, 5, requires_grad=True)
    torch.library.opcheck(torch.ops.freqfusion.local_similarity.default, (x, 2))
    grad = torch.randn(2, 8, 6, 5)
    torch.library.opcheck(
        torch.ops.freqfusion.local_similarity_backward.default, (grad, x.detach(), 2)
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype):
    x = (
        (torch.randn(1, 4, 6, 6).clamp(-3, 3) * 2e4).to(dtype).requires_grad_()
    )  # squares overflow float16
    out = local_similarity(x)
    out.sum().backward()
    assert out.dtype == torch.float32
    assert (out.abs() <= 1 + 1e-6).all()
    assert x.grad.dtype == dtype
    assert x.grad.isfinite().all()


def test_zero_vectors_have_no_similarity_and_finite_gradients():
    x = torch.zeros(1, 4, 6, 6, requires_grad=True)
    out = local_similarity(x)
    out.sum().backward()
    assert (out == 0).all()
    assert x.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_a_zero_vector_among_others_gets_no_gradient(dtype):
    x = torch.randn(1, 4, 6, 6, dtype=dtype)
    x[:, :, 2, 2] = 0
    local_similarity(x.requires_grad_()).sum().backward()
    assert (x.grad[:, :, 2, 2] == 0).all()
    assert 0 < x.grad.abs().max() < 100


def test_empty_batch():
    x = torch.randn(0, 4, 6, 6, requires_grad=True)
    local_similarity(x).sum().backward()
    assert x.grad.shape == x.shape


def test_errors():
    with pytest.raises(ValueError, match="dilation must be a positive integer, got 0"):
        local_similarity(torch.zeros(1, 1, 2, 2), 0)
    with pytest.raises(ValueError, match=r"x must be a map \(B, C, H, W\), got shape \(2, 2\)"):
        local_similarity(torch.zeros(2, 2))
