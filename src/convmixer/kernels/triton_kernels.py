"""The fused operations as Triton kernels for GPUs. Only :mod:`convmixer.kernels.triton_ops` calls them.

Tensors are channel-major: row c of (C, M) is one channel, M = N·H·W. Every kernel reads its inputs once, in order,
computes in float32 and writes one *partial* sum for each of its blocks; these are added up afterwards in a fixed order,
so that results do not depend on how blocks are scheduled.

Depthwise convolution as a matrix product: T rows of H·W maps above each other are a (rows, W) matrix; the k rows around
each, side by side, are (rows, k·W), and times the k band matrices of the kernel's rows, (k·W, W), they give the
convolved rows. That is W / k times the arithmetic, but on matrix units, and all loads are whole rows.
"""
# ruff: noqa: D103 - kernels are described by comments: Triton compiles the docstring otherwise
# mypy: disable-error-code="no-untyped-def, untyped-decorator, misc, no-any-return, assignment"

from __future__ import annotations

import triton
import triton.language as tl


# The standard normal distribution: its cumulative function, and its density times sqrt(2 pi).
# For 16-bit storage Abramowitz and Stegun 7.1.26 (absolute error 7.5e-8), which shares the exponential of the density.
@triton.jit
def _normal(x, EXACT: tl.constexpr):
    density = tl.exp(-0.5 * x * x)
    if EXACT:
        cumulative = 0.5 + 0.5 * tl.erf(x * 0.7071067811865476)
    else:
        t = 1.0 / (1.0 + 0.23164190131 * tl.abs(x))
        series = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))))
        tail = 0.5 * series * density
        cumulative = tl.where(x < 0, tail, 1.0 - tail)
    return cumulative, density


@triton.jit
def _activate(x, RELU: tl.constexpr, EXACT: tl.constexpr):
    if RELU:
        return tl.where(x < 0, 0.0, x)  # NaN stays
    cumulative, _ = _normal(x, EXACT)
    return x * cumulative


@triton.jit
def _activate_with_slope(x, RELU: tl.constexpr, EXACT: tl.constexpr):
    if RELU:
        return tl.where(x < 0, 0.0, x), tl.where(x > 0, 1.0, 0.0)
    cumulative, density = _normal(x, EXACT)
    return x * cumulative, cumulative + x * density * 0.3989422804014327


# Mean and sum of squared deviations of one block, into partial (2, C, blocks).
@triton.jit
def _store_moments(a, inside, count, partial, c, channels, block, blocks):
    mean = tl.sum(tl.where(inside, a, 0.0)) / count
    off = tl.where(inside, a - mean, 0.0)
    tl.store(partial + c * blocks + block, mean)
    tl.store(partial + (channels + c) * blocks + block, tl.sum(off * off))


# Moments of activation(u + bias).
@triton.jit
def moments(u, bias, partial, size, channels, RELU: tl.constexpr, EXACT: tl.constexpr, BLOCK: tl.constexpr):
    block, c = tl.program_id(0), tl.program_id(1)
    at = block * BLOCK + tl.arange(0, BLOCK)
    inside = at < size
    x = tl.load(u + c.to(tl.int64) * size + at, inside, 0.0).to(tl.float32) + tl.load(bias + c)
    count = tl.minimum(size - block * BLOCK, BLOCK)
    _store_moments(_activate(x, RELU, EXACT), inside, count, partial, c, channels, block, tl.num_programs(0))


# Mean and biased variance (2, C) from the moments of blocks of BLOCK values; Chan, Golub and LeVeque (1983).
@triton.jit
def combine_moments(partial, statistics, size, channels, blocks, BLOCK: tl.constexpr, BLOCKS: tl.constexpr):
    c = tl.program_id(0)
    block = tl.arange(0, BLOCKS)
    there = block < blocks
    count = tl.where(there, tl.minimum(size - block * BLOCK, BLOCK), 0).to(tl.float32)
    means = tl.load(partial + c * blocks + block, there, 0.0)
    squares = tl.load(partial + (channels + c) * blocks + block, there, 0.0)
    mean = tl.sum(count * means) / size
    off = means - mean
    tl.store(statistics + c, mean)
    tl.store(statistics + channels + c, tl.sum(squares + count * off * off) / size)


# y = image_scale * (gamma * (activation(u + bias) - mean) / sqrt(variance + eps) + beta) + residual
@triton.jit
def apply(
    u,
    bias,
    gamma,
    beta,
    statistics,
    residual,
    image_scale,
    y,
    size,
    channels,
    pixels,
    eps,
    HAS_BIAS: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr,
    HAS_SCALE: tl.constexpr,
    RELU: tl.constexpr,
    EXACT: tl.constexpr,
    BLOCK: tl.constexpr,
):
    block, c = tl.program_id(0), tl.program_id(1)
    at = block * BLOCK + tl.arange(0, BLOCK)
    inside = at < size
    row = c.to(tl.int64) * size
    x = tl.load(u + row + at, inside, 0.0).to(tl.float32)
    if HAS_BIAS:
        x += tl.load(bias + c)
    factor = tl.load(gamma + c) * tl.rsqrt(tl.load(statistics + channels + c) + eps)
    value = (_activate(x, RELU, EXACT) - tl.load(statistics + c)) * factor + tl.load(beta + c)
    if HAS_SCALE:
        value *= tl.load(image_scale + at // pixels, inside, 0.0)
    if HAS_RESIDUAL:
        value += tl.load(residual + row + at, inside, 0.0).to(tl.float32)
    tl.store(y + row + at, value.to(y.dtype.element_ty), inside)


# Sums of d * image_scale times 1 and times the normalised activation, into partial (2, C, blocks).
@triton.jit
def reduce(
    d,
    u,
    bias,
    statistics,
    image_scale,
    partial,
    size,
    channels,
    pixels,
    eps,
    HAS_BIAS: tl.constexpr,
    HAS_SCALE: tl.constexpr,
    RELU: tl.constexpr,
    EXACT: tl.constexpr,
    BLOCK: tl.constexpr,
):
    block, c = tl.program_id(0), tl.program_id(1)
    blocks = tl.num_programs(0)
    at = block * BLOCK + tl.arange(0, BLOCK)
    inside = at < size
    row = c.to(tl.int64) * size
    x = tl.load(u + row + at, inside, 0.0).to(tl.float32)
    g = tl.load(d + row + at, inside, 0.0).to(tl.float32)
    if HAS_BIAS:
        x += tl.load(bias + c)
    if HAS_SCALE:
        g *= tl.load(image_scale + at // pixels, inside, 0.0)
    centred = _activate(x, RELU, EXACT) - tl.load(statistics + c)
    normalized = centred * tl.rsqrt(tl.load(statistics + channels + c) + eps)
    tl.store(partial + c * blocks + block, tl.sum(g))
    tl.store(partial + (channels + c) * blocks + block, tl.sum(tl.where(inside, g * normalized, 0.0)))


# du from d and its sums (2, C), those of `reduce`, and the sums of du into partial (C, blocks).
@triton.jit
def gradient(
    d,
    u,
    bias,
    gamma,
    statistics,
    sums,
    image_scale,
    du,
    partial,
    size,
    channels,
    pixels,
    eps,
    HAS_BIAS: tl.constexpr,
    HAS_SCALE: tl.constexpr,
    OF_BATCH: tl.constexpr,
    RELU: tl.constexpr,
    EXACT: tl.constexpr,
    BLOCK: tl.constexpr,
):
    block, c = tl.program_id(0), tl.program_id(1)
    at = block * BLOCK + tl.arange(0, BLOCK)
    inside = at < size
    row = c.to(tl.int64) * size
    x = tl.load(u + row + at, inside, 0.0).to(tl.float32)
    g = tl.load(d + row + at, inside, 0.0).to(tl.float32)
    if HAS_BIAS:
        x += tl.load(bias + c)
    if HAS_SCALE:
        g *= tl.load(image_scale + at // pixels, inside, 0.0)
    a, slope = _activate_with_slope(x, RELU, EXACT)
    reciprocal = tl.rsqrt(tl.load(statistics + channels + c) + eps)
    if OF_BATCH:
        normalized = (a - tl.load(statistics + c)) * reciprocal
        g -= (tl.load(sums + c) + normalized * tl.load(sums + channels + c)) / size
    value = tl.where(inside, g * (tl.load(gamma + c) * reciprocal) * slope, 0.0)
    tl.store(du + row + at, value.to(du.dtype.element_ty), inside)
    tl.store(partial + c * tl.num_programs(0) + block, tl.sum(value))


# Band matrices (TAPS·SIDE, SIDE) of kernel rows first to first + TAPS, zero from KERNEL on: what column i of the row
# above or below contributes to column o. With TURN of the kernel turned by 180 degrees.
@triton.jit
def _bands(weight, first, TURN: tl.constexpr, KERNEL: tl.constexpr, SIDE: tl.constexpr, TAPS: tl.constexpr):
    line = tl.arange(0, TAPS * SIDE)[:, None]
    tap = first + line // SIDE
    across = line % SIDE - tl.arange(0, SIDE)[None, :] + KERNEL // 2
    there = (tap < KERNEL) & (across >= 0) & (across < KERNEL)
    index = tap * KERNEL + across
    if TURN:
        index = KERNEL * KERNEL - 1 - index
    return tl.load(weight + index, there, 0.0)


# (ROWS, TAPS·SIDE): for every row of maps the rows from `first` - KERNEL // 2 below it on, side by side; zero outside
# the map. With TURN the rows above it: what a kernel's row sent the row to.
@triton.jit
def _neighbours(
    x,
    start,
    rows,
    first,
    TURN: tl.constexpr,
    KERNEL: tl.constexpr,
    HEIGHT: tl.constexpr,
    WIDTH: tl.constexpr,
    SIDE: tl.constexpr,
    TAPS: tl.constexpr,
    ROWS: tl.constexpr,
):
    row = start + tl.arange(0, ROWS)[:, None]
    column = tl.arange(0, TAPS * SIDE)[None, :]
    tap = first + column // SIDE
    down = tap - KERNEL // 2
    if TURN:
        down = -down
    across = column % SIDE
    height = row % HEIGHT + down
    there = (row < rows) & (tap < KERNEL) & (height >= 0) & (height < HEIGHT) & (across < WIDTH)
    return tl.load(x + (row + down) * WIDTH + across, there, 0.0)


# y = depthwise(x) + bias + add. MOMENTS: also those of activation(y), as `moments`. REDUCE: also the sums of y times 1
# and times the normalised activation of u, as `reduce`; `bias_u` and `statistics` are those of u.
@triton.jit
def convolve(
    x,
    weight,
    bias,
    add,
    u,
    bias_u,
    statistics,
    y,
    partial,
    rows,
    channels,
    eps,
    TURN: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_ADD: tl.constexpr,
    MOMENTS: tl.constexpr,
    REDUCE: tl.constexpr,
    RELU: tl.constexpr,
    EXACT: tl.constexpr,
    KERNEL: tl.constexpr,
    HEIGHT: tl.constexpr,
    WIDTH: tl.constexpr,
    SIDE: tl.constexpr,
    TAPS: tl.constexpr,
    ROWS: tl.constexpr,
):
    block, c = tl.program_id(0), tl.program_id(1)
    blocks = tl.num_programs(0)
    channel = c.to(tl.int64) * rows * WIDTH
    start = block * ROWS
    value = tl.zeros((ROWS, SIDE), tl.float32)
    for first in tl.static_range(0, KERNEL, TAPS):
        near = _neighbours(x + channel, start, rows, first, False, KERNEL, HEIGHT, WIDTH, SIDE, TAPS, ROWS)
        bands = _bands(weight + c * KERNEL * KERNEL, first, TURN, KERNEL, SIDE, TAPS)
        value = tl.dot(near, bands.to(near.dtype), value, input_precision="ieee")
    row = start + tl.arange(0, ROWS)[:, None]
    column = tl.arange(0, SIDE)[None, :]
    inside = (row < rows) & (column < WIDTH)
    at = channel + row * WIDTH + column
    if HAS_BIAS:
        value += tl.load(bias + c)
    if HAS_ADD:
        value += tl.load(add + at, inside, 0.0).to(tl.float32)
    stored = value.to(y.dtype.element_ty)
    tl.store(y + at, stored, inside)
    if MOMENTS:
        count = (tl.minimum(rows - start, ROWS) * WIDTH).to(tl.float32)
        a = _activate(stored.to(tl.float32), RELU, EXACT)
        _store_moments(a, inside, count, partial, c, channels, block, blocks)
    if REDUCE:
        g = tl.where(inside, stored.to(tl.float32), 0.0)
        a = _activate(tl.load(u + at, inside, 0.0).to(tl.float32) + tl.load(bias_u + c), RELU, EXACT)
        normalized = (a - tl.load(statistics + c)) * tl.rsqrt(tl.load(statistics + channels + c) + eps)
        tl.store(partial + c * blocks + block, tl.sum(g))
        tl.store(partial + (channels + c) * blocks + block, tl.sum(g * normalized))


# Weight gradient of the depthwise convolution of x, into partial (splits, C, KERNEL, KERNEL); with STAGE x is
# gamma * (activation(u + bias) - mean) / sqrt(variance + eps) + beta, rounded to u's dtype.
@triton.jit
def convolve_weight_gradient(
    u,
    d,
    bias,
    gamma,
    beta,
    statistics,
    partial,
    rows,
    channels,
    eps,
    TILES: tl.constexpr,
    STAGE: tl.constexpr,
    RELU: tl.constexpr,
    EXACT: tl.constexpr,
    KERNEL: tl.constexpr,
    HEIGHT: tl.constexpr,
    WIDTH: tl.constexpr,
    SIDE: tl.constexpr,
    TAPS: tl.constexpr,
    ROWS: tl.constexpr,
):
    split, c = tl.program_id(0), tl.program_id(1)
    first = tl.program_id(2) * TAPS
    channel = c.to(tl.int64) * rows * WIDTH
    column = tl.arange(0, SIDE)[None, :]
    products = tl.zeros((TAPS * SIDE, SIDE), tl.float32)
    if STAGE:
        shift = tl.load(bias + c)
        mean = tl.load(statistics + c)
        factor = tl.load(gamma + c) * tl.rsqrt(tl.load(statistics + channels + c) + eps)
        offset = tl.load(beta + c)
    for tile in range(TILES):
        start = (split * TILES + tile) * ROWS
        row = start + tl.arange(0, ROWS)[:, None]
        inside = (row < rows) & (column < WIDTH)
        x = tl.load(u + channel + row * WIDTH + column, inside, 0.0)
        if STAGE:
            value = (_activate(x.to(tl.float32) + shift, RELU, EXACT) - mean) * factor + offset
            x = tl.where(inside, value, 0.0).to(x.dtype)
        near = _neighbours(d + channel, start, rows, first, True, KERNEL, HEIGHT, WIDTH, SIDE, TAPS, ROWS)
        products = tl.dot(tl.trans(near), x, products, input_precision="ieee")
    # products[(tap, o), i]: the kernel's entry (tap, across) is the sum where i - o = across - KERNEL // 2.
    out = tl.arange(0, TAPS * SIDE)[:, None] % SIDE
    tap = first + tl.arange(0, TAPS)
    to = partial + ((split * channels + c) * KERNEL + tap) * KERNEL
    for across in tl.static_range(KERNEL):
        on = tl.where(column - out == across - KERNEL // 2, products, 0.0)
        sums = tl.sum(tl.reshape(tl.sum(on, 1), (TAPS, SIDE)), 1)
        tl.store(to + across, sums, tap < KERNEL)
