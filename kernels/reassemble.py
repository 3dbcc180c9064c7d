"""Spatially-variant filtering as matrix products of tiles; README.md has the maths and pictures.

The kernels take NCHW, channels_last and any other strides. Sums are float32. Products of float32
maps are exact ("ieee"); those of bfloat16 and float16 maps run on tensor cores. Nothing is added
atomically: results are the same in every run.
"""

import triton
import triton.language as tl

from .tiles import (
    NOWHERE,
    first_output,
    grid_of,
    load_kernels,
    load_pixels,
    load_window,
    locate,
    numbers,
    source,
    tap_between,
    windowed_exp,
)


@triton.jit
def reassemble_fwd_kernel(
    x_ptr,
    weight_ptr,  # kernels, or with SOFTMAX their logits
    window_ptr,
    out_ptr,
    lse_ptr,
    in_height,
    in_width,
    out_height,
    out_width,
    channels,  # of a group
    chunk,  # channels that a program computes
    stride_xn,
    stride_xc,
    stride_xh,
    stride_xw,
    stride_wn,
    stride_wt,
    stride_wh,
    stride_ww,
    stride_on,
    stride_oc,
    stride_oh,
    stride_ow,
    K: tl.constexpr,
    FACTOR_H: tl.constexpr,
    FACTOR_W: tl.constexpr,
    SOFTMAX: tl.constexpr,
    WINDOW: tl.constexpr,
    IDENTITY: tl.constexpr,
    BORDER: tl.constexpr,
    WIDE: tl.constexpr,
    TILE_H: tl.constexpr,
    TILE_W: tl.constexpr,
    REACH_H: tl.constexpr,
    REACH_W: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """A tile of outputs: out[M, C] = P[M, N] @ x[N, C]."""
    chunks = tl.cdiv(channels, chunk)
    image, tile_row, tile_col, group, part = locate(
        tl.cdiv(out_height, TILE_H), tl.cdiv(out_width, TILE_W), chunks
    )
    x_ptr += image * stride_xn + group * channels * stride_xc
    weight_ptr += image * stride_wn + group * (K * K) * stride_wt
    out_ptr += image * stride_on + group * channels * stride_oc

    # outputs of the tile (M) and the inputs that they reach (N)
    m = numbers(TILE_H * TILE_W, WIDE)
    n = numbers(BLOCK_N, WIDE)
    i, j = grid_of(tile_row * TILE_H, tile_col * TILE_W, m, TILE_W)
    inside = (i < out_height) & (j < out_width)
    si = source(i, in_height, out_height, FACTOR_H)
    sj = source(j, in_width, out_width, FACTOR_W)
    first_y = source(tile_row * TILE_H, in_height, out_height, FACTOR_H) - K // 2
    first_x = source(tile_col * TILE_W, in_width, out_width, FACTOR_W) - K // 2
    y, x = grid_of(first_y, first_x, n, REACH_W)
    y = tl.where(n < REACH_H * REACH_W, y, NOWHERE)

    # kernels (M, T), then their band (M, N)
    t = numbers(BLOCK_T, WIDE)[None, :]
    weight = load_kernels(
        weight_ptr, i[:, None], j[:, None], t, inside[:, None],
        stride_wh, stride_ww, stride_wt, K * K,
    )  # fmt: skip
    if SOFTMAX:
        window = load_window(window_ptr, t, K * K, WINDOW)
        largest = tl.max(tl.where(window == 0, float("-inf"), weight), 1)
        weight = windowed_exp(weight - largest[:, None], window)
        total = tl.sum(weight, 1)
        weight *= (1.0 / total)[:, None]
        groups = tl.num_programs(1) // chunks
        lse_ptr += (image * groups + group) * out_height * out_width
        tl.store(lse_ptr + i * out_width + j, largest + tl.log(total), mask=inside & (part == 0))
    tap = tap_between(si[:, None], sj[:, None], y[None, :], x[None, :], K)
    band = tl.gather(weight, tap, 1).to(x_ptr.dtype.element_ty)

    offset = (i * stride_oh + j * stride_ow)[:, None]
    for start in tl.range(part * chunk, min(part * chunk + chunk, channels), BLOCK_C):
        c = start + numbers(BLOCK_C, WIDE)
        pixels = load_pixels(
            x_ptr, y, x, c, BORDER, in_height, in_width, channels, stride_xh, stride_xw, stride_xc
        )
        out = tl.dot(band, pixels, input_precision="ieee")
        if IDENTITY > 0:
            centre = load_pixels(
                x_ptr, i, j, c, BORDER, in_height, in_width, channels,
                stride_xh, stride_xw, stride_xc,
            )  # fmt: skip
            out = IDENTITY * centre.to(tl.float32) - out
        tl.store(
            out_ptr + offset + (c * stride_oc)[None, :],
            out.to(out_ptr.dtype.element_ty),
            mask=inside[:, None] & (c < channels)[None, :],
        )


@triton.jit
def reassemble_bwd_weight_kernel(
    grad_out_ptr,
    x_ptr,
    weight_ptr,  # with SOFTMAX the logits
    window_ptr,
    lse_ptr,
    grad_weight_ptr,
    in_height,
    in_width,
    out_height,
    out_width,
    channels,
    stride_gn,
    stride_gc,
    stride_gh,
    stride_gw,
    stride_xn,
    stride_xc,
    stride_xh,
    stride_xw,
    stride_wn,
    stride_wt,
    stride_wh,
    stride_ww,
    stride_vn,  # of the gradient
    stride_vt,
    stride_vh,
    stride_vw,
    K: tl.constexpr,
    FACTOR_H: tl.constexpr,
    FACTOR_W: tl.constexpr,
    SOFTMAX: tl.constexpr,
    WINDOW: tl.constexpr,
    IDENTITY: tl.constexpr,
    BORDER: tl.constexpr,
    WIDE: tl.constexpr,
    TILE_H: tl.constexpr,
    TILE_W: tl.constexpr,
    REACH_H: tl.constexpr,
    REACH_W: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """A tile of outputs: grad_P[M, N] = grad_out[M, C] @ x[N, C]^T, of which the band is read."""
    image, tile_row, tile_col, group, _ = locate(
        tl.cdiv(out_height, TILE_H), tl.cdiv(out_width, TILE_W), 1
    )
    grad_out_ptr += image * stride_gn + group * channels * stride_gc
    x_ptr += image * stride_xn + group * channels * stride_xc
    weight_ptr += image * stride_wn + group * (K * K) * stride_wt
    grad_weight_ptr += image * stride_vn + group * (K * K) * stride_vt

    m = numbers(TILE_H * TILE_W, WIDE)
    n = numbers(BLOCK_N, WIDE)
    i, j = grid_of(tile_row * TILE_H, tile_col * TILE_W, m, TILE_W)
    inside = (i < out_height) & (j < out_width)
    si = source(i, in_height, out_height, FACTOR_H)
    sj = source(j, in_width, out_width, FACTOR_W)
    first_y = source(tile_row * TILE_H, in_height, out_height, FACTOR_H) - K // 2
    first_x = source(tile_col * TILE_W, in_width, out_width, FACTOR_W) - K // 2
    y, x = grid_of(first_y, first_x, n, REACH_W)
    y = tl.where(n < REACH_H * REACH_W, y, NOWHERE)

    grad_band = tl.zeros((TILE_H * TILE_W, BLOCK_N), dtype=tl.float32)
    for start in tl.range(0, channels, BLOCK_C):
        c = start + numbers(BLOCK_C, WIDE)
        grad_out = load_pixels(
            grad_out_ptr, i, j, c, 0, out_height, out_width, channels,
            stride_gh, stride_gw, stride_gc,
        )  # fmt: skip
        pixels = load_pixels(
            x_ptr, y, x, c, BORDER, in_height, in_width, channels, stride_xh, stride_xw, stride_xc
        )
        grad_band = tl.dot(grad_out, tl.trans(pixels), grad_band, input_precision="ieee")

    # the band, back to (M, T)
    t = numbers(BLOCK_T, WIDE)[None, :]
    down = si[:, None] - K // 2 - first_y + t // K
    right = sj[:, None] - K // 2 - first_x + t % K
    column = tl.where(inside[:, None] & (t < K * K), down * REACH_W + right, 0)
    grad = tl.gather(grad_band, column, 1)
    if SOFTMAX:
        logits = load_kernels(
            weight_ptr, i[:, None], j[:, None], t, inside[:, None],
            stride_wh, stride_ww, stride_wt, K * K,
        )  # fmt: skip
        window = load_window(window_ptr, t, K * K, WINDOW)
        lse_ptr += (image * tl.num_programs(1) + group) * out_height * out_width
        lse = tl.load(lse_ptr + i * out_width + j, mask=inside, other=0.0)
        weight = windowed_exp(logits - lse[:, None], window)
        product = weight * grad
        grad = product - weight * tl.sum(product, 1)[:, None]
    if IDENTITY > 0:
        grad = -grad
    offset = (i * stride_vh + j * stride_vw)[:, None]
    tl.store(
        grad_weight_ptr + offset + t * stride_vt,
        grad.to(grad_weight_ptr.dtype.element_ty),
        mask=inside[:, None] & (t < K * K),
    )


@triton.jit
def reassemble_bwd_x_kernel(
    grad_out_ptr,
    weight_ptr,  # with SOFTMAX the logits
    window_ptr,
    lse_ptr,
    grad_x_ptr,
    in_height,
    in_width,
    out_height,
    out_width,
    channels,
    stride_gn,
    stride_gc,
    stride_gh,
    stride_gw,
    stride_wn,
    stride_wt,
    stride_wh,
    stride_ww,
    stride_xn,
    stride_xc,
    stride_xh,
    stride_xw,
    K: tl.constexpr,
    FACTOR_H: tl.constexpr,
    FACTOR_W: tl.constexpr,
    SOFTMAX: tl.constexpr,
    WINDOW: tl.constexpr,
    IDENTITY: tl.constexpr,
    BORDER: tl.constexpr,
    WIDE: tl.constexpr,
    TILE_H: tl.constexpr,
    TILE_W: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_W: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """A tile of inputs: grad_x[N, C] = sum of P[M, N]^T @ grad_out[M, C] over blocks of outputs."""
    chunks = tl.cdiv(channels, BLOCK_C)
    image, tile_row, tile_col, group, part = locate(
        tl.cdiv(in_height + 2 * BORDER, TILE_H), tl.cdiv(in_width + 2 * BORDER, TILE_W), chunks
    )
    grad_out_ptr += image * stride_gn + group * channels * stride_gc
    weight_ptr += image * stride_wn + group * (K * K) * stride_wt
    grad_x_ptr += image * stride_xn + group * channels * stride_xc
    groups = tl.num_programs(1) // chunks
    lse_ptr += (image * groups + group) * out_height * out_width

    # inputs of the tile (N), and the rectangle of outputs that read any of them
    n = numbers(TILE_H * TILE_W, WIDE)
    c = part * BLOCK_C + numbers(BLOCK_C, WIDE)
    first_y = tile_row * TILE_H - BORDER
    first_x = tile_col * TILE_W - BORDER
    y, x = grid_of(first_y, first_x, n, TILE_W)
    top = tl.maximum(first_y - K // 2, 0)
    left = tl.maximum(first_x - K // 2, 0)
    bottom = tl.minimum(first_y + TILE_H + K // 2, in_height)
    right = tl.minimum(first_x + TILE_W + K // 2, in_width)
    first_i = first_output(top, in_height, out_height, FACTOR_H)
    first_j = first_output(left, in_width, out_width, FACTOR_W)
    last_i = first_output(bottom, in_height, out_height, FACTOR_H)
    last_j = first_output(right, in_width, out_width, FACTOR_W)
    block_cols = tl.cdiv(last_j - first_j, BLOCK_W)
    blocks = tl.cdiv(last_i - first_i, BLOCK_H) * block_cols

    m = numbers(BLOCK_H * BLOCK_W, WIDE)
    t = numbers(BLOCK_T, WIDE)[:, None]
    window = load_window(window_ptr, t, K * K, WINDOW)
    grad_x = tl.zeros((TILE_H * TILE_W, BLOCK_C), dtype=tl.float32)
    for block in tl.range(0, blocks):
        i, j = grid_of(
            first_i + block // block_cols * BLOCK_H,
            first_j + block % block_cols * BLOCK_W, m, BLOCK_W,
        )  # fmt: skip
        inside = (i < last_i) & (j < last_j)
        weight = load_kernels(
            weight_ptr, i[None, :], j[None, :], t, inside[None, :],
            stride_wh, stride_ww, stride_wt, K * K,
        )  # fmt: skip
        if SOFTMAX:
            lse = tl.load(lse_ptr + i * out_width + j, mask=inside, other=0.0)
            weight = windowed_exp(weight - lse[None, :], window)
        si = source(i, in_height, out_height, FACTOR_H)
        sj = source(j, in_width, out_width, FACTOR_W)
        tap = tap_between(si[None, :], sj[None, :], y[:, None], x[:, None], K)
        band = tl.gather(weight, tap, 0)
        grad_out = load_pixels(
            grad_out_ptr, i, j, c, 0, out_height, out_width, channels,
            stride_gh, stride_gw, stride_gc,
        )  # fmt: skip
        grad_x = tl.dot(band.to(grad_out.dtype), grad_out, grad_x, input_precision="ieee")

    if IDENTITY > 0:
        centre = load_pixels(
            grad_out_ptr, y, x, c, 0, out_height, out_width, channels,
            stride_gh, stride_gw, stride_gc,
        )  # fmt: skip
        grad_x = IDENTITY * centre.to(tl.float32) - grad_x
    offset = ((y + BORDER) * stride_xh + (x + BORDER) * stride_xw)[:, None]
    inside = (y < in_height + BORDER) & (x < in_width + BORDER)
    tl.store(
        grad_x_ptr + offset + (c * stride_xc)[None, :],
        grad_x.to(grad_x_ptr.dtype.element_ty),
        mask=inside[:, None] & (c < channels)[None, :],
    )
