"""Cosine similarity of every pixel with its eight neighbours, forward and backward.

The neighbours of a tile come from the caches: the map is read from memory about once.
"""

import triton
import triton.language as tl

from .tiles import grid_of, load_pixels, locate, numbers


@triton.jit
def way_to(tap, dilation):
    """Rows and columns to neighbour 0 to 7, in row-major order without the centre."""
    position = tap + tap // 4
    return (position // 3 - 1) * dilation, (position % 3 - 1) * dilation


@triton.jit
def at_least(x, least):
    """The larger of the two; a NaN stays one."""
    return tl.where(x < least, least, x)


@triton.jit
def compare(
    x_ptr,
    i,
    j,
    dilation,
    height,
    width,
    channels,
    stride_c,
    stride_h,
    stride_w,
    EPS: tl.constexpr,
    WIDE: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Similarities (M, 8) of pixels (i, j), their norms (M) and those of the neighbours (M, 8)."""
    down, right = way_to(tl.arange(0, 8)[None, :, None], dilation)
    y = i[:, None, None] + down
    x = j[:, None, None] + right
    inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
    near_ptr = x_ptr + (y * stride_h + x * stride_w)
    dots = tl.zeros((BLOCK_M, 8, BLOCK_C), dtype=tl.float32)
    squares = tl.zeros((BLOCK_M, 8, BLOCK_C), dtype=tl.float32)
    own = tl.zeros((BLOCK_M, BLOCK_C), dtype=tl.float32)
    for start in tl.range(0, channels, BLOCK_C):
        c = start + numbers(BLOCK_C, WIDE)
        centre = load_pixels(
            x_ptr, i, j, c, 0, height, width, channels, stride_h, stride_w, stride_c
        ).to(tl.float32)
        mask = inside & (c < channels)[None, None, :]
        near = tl.load(near_ptr + (c * stride_c)[None, None, :], mask=mask, other=0.0)
        near = near.to(tl.float32)
        own += centre * centre
        dots += centre[:, None, :] * near
        squares += near * near
    dots = tl.sum(dots, 2)
    squares = tl.sum(squares, 2)
    own = tl.sum(own, 1)
    norm = at_least(tl.sqrt(own), EPS)
    near_norm = at_least(tl.sqrt(squares), EPS)
    return dots / (norm[:, None] * near_norm), norm, near_norm


@triton.jit
def similarity_fwd_kernel(
    x_ptr,
    out_ptr,  # (B, 8, H, W), contiguous
    height,
    width,
    channels,
    dilation,
    stride_xn,
    stride_xc,
    stride_xh,
    stride_xw,
    EPS: tl.constexpr,
    WIDE: tl.constexpr,
    TILE_H: tl.constexpr,
    TILE_W: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """A tile of pixels."""
    image, row, col, _, _ = locate(tl.cdiv(height, TILE_H), tl.cdiv(width, TILE_W), 1)
    m = numbers(TILE_H * TILE_W, WIDE)
    i, j = grid_of(row * TILE_H, col * TILE_W, m, TILE_W)
    similarity, _, _ = compare(
        x_ptr + image * stride_xn, i, j, dilation, height, width, channels,
        stride_xc, stride_xh, stride_xw, EPS, WIDE, TILE_H * TILE_W, BLOCK_C,
    )  # fmt: skip
    taps = numbers(8, WIDE)[None, :]
    out_ptr += image * 8 * height * width
    tl.store(
        out_ptr + (taps * height + i[:, None]) * width + j[:, None],
        similarity,
        mask=((i < height) & (j < width))[:, None],
    )


@triton.jit
def similarity_bwd_kernel(
    grad_out_ptr,
    x_ptr,
    grad_x_ptr,
    height,
    width,
    channels,
    dilation,
    stride_gn,
    stride_gt,
    stride_gh,
    stride_gw,
    stride_xn,
    stride_xc,
    stride_xh,
    stride_xw,
    stride_dn,  # of the gradient
    stride_dc,
    stride_dh,
    stride_dw,
    EPS: tl.constexpr,
    WIDE: tl.constexpr,
    TILE_H: tl.constexpr,
    TILE_W: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """A tile of pixels: each gathers from the pairs that it is a part of."""
    image, row, col, _, _ = locate(tl.cdiv(height, TILE_H), tl.cdiv(width, TILE_W), 1)
    x_ptr += image * stride_xn
    grad_out_ptr += image * stride_gn
    grad_x_ptr += image * stride_dn
    m = numbers(TILE_H * TILE_W, WIDE)
    i, j = grid_of(row * TILE_H, col * TILE_W, m, TILE_W)
    inside = (i < height) & (j < width)
    similarity, norm, near_norm = compare(
        x_ptr, i, j, dilation, height, width, channels,
        stride_xc, stride_xh, stride_xw, EPS, WIDE, TILE_H * TILE_W, BLOCK_C,
    )  # fmt: skip

    # a pair counts twice: as this pixel's neighbour `taps`, and as that pixel's `7 - taps`
    taps = numbers(8, WIDE)[None, :]
    down, right = way_to(taps, dilation)
    near_i = i[:, None] + down
    near_j = j[:, None] + right
    pair = inside[:, None] & (near_i >= 0) & (near_i < height) & (near_j >= 0) & (near_j < width)
    here = grad_out_ptr + taps * stride_gt + i[:, None] * stride_gh + j[:, None] * stride_gw
    there = grad_out_ptr + (7 - taps) * stride_gt + near_i * stride_gh + near_j * stride_gw
    grad = tl.load(here, mask=pair, other=0.0) + tl.load(there, mask=pair, other=0.0)
    along = tl.sum(grad * similarity, 1) / norm
    grad /= near_norm

    moves = inside & (norm != EPS)  # a zero vector has no direction to move in
    for start in tl.range(0, channels, BLOCK_C):
        c = start + numbers(BLOCK_C, WIDE)
        centre = load_pixels(
            x_ptr, i, j, c, 0, height, width, channels, stride_xh, stride_xw, stride_xc
        ).to(tl.float32)
        total = -centre * along[:, None]
        for tap in tl.static_range(8):
            rows, cols = way_to(tap, dilation)
            near = load_pixels(
                x_ptr, i + rows, j + cols, c, 0, height, width, channels,
                stride_xh, stride_xw, stride_xc,
            ).to(tl.float32)  # fmt: skip
            total += near * tl.sum(tl.where(taps == tap, grad, 0.0), 1)[:, None]
        total = tl.where(moves[:, None], total / norm[:, None], 0.0)
        offset = (i * stride_dh + j * stride_dw)[:, None] + (c * stride_dc)[None, :]
        tl.store(
            grad_x_ptr + offset,
            total.to(grad_x_ptr.dtype.element_ty),
            mask=inside[:, None] & (c < channels)[None, :],
        )
