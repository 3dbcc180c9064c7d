"""Parts of a tile that the filtering kernels share: positions, kernels of a tile, and their band.

Names: an output m is at (i, j) and reads around its source pixel (si, sj); an input n is at (y, x);
t = p * K + q is a tap. Every function is inlined into the kernel that calls it.
"""

import triton
import triton.language as tl

NOWHERE = tl.constexpr(-(2**24))  # a row outside of every map


@triton.jit
def source(i, in_size, out_size, FACTOR: tl.constexpr):
    """Source row of output row i, floor(i * in_size / out_size), which may be i // FACTOR."""
    if FACTOR > 0:
        return (i // FACTOR).to(tl.int32)
    return (i.to(tl.int64) * in_size // out_size).to(tl.int32)


@triton.jit
def first_output(s, in_size, out_size, FACTOR: tl.constexpr):
    """First output row whose source row is s or later, for 0 <= s <= in_size."""
    if FACTOR > 0:
        return tl.minimum(s * FACTOR, out_size)
    return ((s.to(tl.int64) * out_size + in_size - 1) // in_size).to(tl.int32)


@triton.jit
def numbers(COUNT: tl.constexpr, WIDE: tl.constexpr):
    """0 to COUNT - 1, in 64 bits if WIDE: so is then every offset that is computed from them."""
    return tl.arange(0, COUNT).to(tl.int64 if WIDE else tl.int32)


@triton.jit
def locate(tile_rows, tile_cols, chunks):
    """What a program works on: image, row and column of the tile, group, chunk of its channels."""
    tiles = tile_rows * tile_cols
    image = (tl.program_id(0) // tiles).to(tl.int64)
    tile = tl.program_id(0) % tiles
    group = (tl.program_id(1) // chunks).to(tl.int64)
    return image, tile // tile_cols, tile % tile_cols, group, tl.program_id(1) % chunks


@triton.jit
def grid_of(first_i, first_j, n, COLS: tl.constexpr):
    """Rows and columns of positions n of a grid that starts at (first_i, first_j)."""
    return first_i + n // COLS, first_j + n % COLS


@triton.jit
def load_kernels(w_ptr, i, j, t, inside, stride_h, stride_w, stride_t, TAPS: tl.constexpr):
    """Taps t of the kernels (or logits) of outputs (i, j) in float32; the operands broadcast."""
    pointers = w_ptr + (i * stride_h + j * stride_w) + t * stride_t
    return tl.load(pointers, mask=inside & (t < TAPS), other=0.0).to(tl.float32)


@triton.jit
def load_window(window_ptr, t, TAPS: tl.constexpr, WINDOW: tl.constexpr):
    """Factors of taps t in float32; 0 where t is no tap."""
    if WINDOW:
        return tl.load(window_ptr + t, mask=t < TAPS, other=0.0).to(tl.float32)
    return tl.where(t < TAPS, 1.0, 0.0)


@triton.jit
def windowed_exp(logits, window):
    """Computes window * exp(logits), 0 where the window is 0."""
    return tl.where(window == 0, 0.0, tl.exp(logits)) * window


@triton.jit
def tap_between(si, sj, y, x, K: tl.constexpr):
    """Tap of a kernel centred on (si, sj) that reads (y, x); K * K, whose weight is 0, for none."""
    p = (y - si + K // 2).to(tl.int32)
    q = (x - sj + K // 2).to(tl.int32)
    reads = (p.to(tl.uint32, bitcast=True) < K) & (q.to(tl.uint32, bitcast=True) < K)
    return tl.where(reads, p * K + q, K * K)


@triton.jit
def load_pixels(
    x_ptr, y, x, c, BORDER: tl.constexpr, height, width, channels, stride_h, stride_w, stride_c
):
    """Pixels (y, x) at channels c; zero outside of the map, which BORDER more pixels surround."""
    y += BORDER
    x += BORDER
    inside = (y >= 0) & (y < height + 2 * BORDER) & (x >= 0) & (x < width + 2 * BORDER)
    pointers = x_ptr + (y * stride_h + x * stride_w)[:, None] + (c * stride_c)[None, :]
    return tl.load(pointers, mask=inside[:, None] & (c < channels)[None, :], other=0.0)
