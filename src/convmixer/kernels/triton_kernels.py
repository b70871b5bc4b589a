"""The fused operations as Triton kernels for GPUs. Only :mod:`convmixer.kernels.triton_ops` calls them.

Tensors are channel-major: row c of (C, M) is one channel, M = N·H·W. Every kernel reads its inputs once, in order,
computes in float32 and writes one *partial* sum for each of its blocks; these are added up afterwards in a fixed order,
so that results do not depend on how blocks are scheduled.

Depthwise convolution as a matrix product: all rows of all H×W maps, above each other, are a (rows, W) matrix; the k
rows around each, side by side, are (rows, k·W), and times the band matrices of the kernel's rows, (k·W, W), they give
the convolved rows. That is W / k times the arithmetic, but on matrix units, and all loads are whole rows.
"""
# ruff: noqa: D103 - kernels are described by comments, as their text is compiled
# mypy: disable-error-code="no-untyped-def, untyped-decorator, misc, no-any-return, assignment"

from __future__ import annotations

import triton
import triton.language as tl


# The cumulative standard normal distribution. For 16-bit storage a minimax polynomial, within 1.8e-5 on its interval
# and 2.4e-5 beyond it: time goes into arithmetic here, not into memory.
@triton.jit
def _cumulative(x, EXACT: tl.constexpr):
    if EXACT:
        return 0.5 + 0.5 * tl.erf(x * 0.7071067811865476)
    y = tl.minimum(tl.maximum(x, -4.5), 4.5)
    s = y * y
    p = s * 3.80570004e-11 - 4.00232258e-09
    p = p * s + 1.84616827e-07
    p = p * s - 4.95974094e-06
    p = p * s + 8.72766867e-05
    p = p * s - 0.00107673945
    p = p * s + 0.00972949151
    p = p * s - 0.066240438
    p = p * s + 0.398866489
    return p * y + 0.5


@triton.jit
def _activate(x, RELU: tl.constexpr, EXACT: tl.constexpr):
    if RELU:
        return tl.where(x < 0, 0.0, x)  # NaN stays
    return x * _cumulative(x, EXACT)


@triton.jit
def _activate_with_slope(x, RELU: tl.constexpr, EXACT: tl.constexpr):
    if RELU:
        return tl.where(x < 0, 0.0, x), tl.where(x > 0, 1.0, 0.0)
    cumulative = _cumulative(x, EXACT)
    density = 0.3989422804014327 * tl.exp2(-0.7213475204444817 * x * x)
    return x * cumulative, cumulative + x * density


# Elements `at` of a row; EVEN: all of them are inside it.
@triton.jit
def _load(row, at, inside, EVEN: tl.constexpr):
    if EVEN:
        return tl.load(row + at).to(tl.float32)
    return tl.load(row + at, inside, 0.0).to(tl.float32)


@triton.jit
def _store(row, at, value, inside, EVEN: tl.constexpr):
    if EVEN:
        tl.store(row + at, value.to(row.dtype.element_ty))
    else:
        tl.store(row + at, value.to(row.dtype.element_ty), inside)


# Mean and sum of squared deviations of one block, into partial (2, C, blocks).
@triton.jit
def _store_moments(a, inside, count, partial, c, channels, block, blocks, EVEN: tl.constexpr):
    if not EVEN:
        a = tl.where(inside, a, 0.0)
    mean = tl.sum(a) / count
    off = a - mean
    if not EVEN:
        off = tl.where(inside, off, 0.0)
    tl.store(partial + c * blocks + block, mean)
    tl.store(partial + (channels + c) * blocks + block, tl.sum(off * off))


# Moments of activation(u + bias).
@triton.jit
def moments(
    u, bias, partial, size, channels, EVEN: tl.constexpr, RELU: tl.constexpr, EXACT: tl.constexpr, BLOCK: tl.constexpr
):
    block, c = tl.program_id(0), tl.program_id(1)
    at = block * BLOCK + tl.arange(0, BLOCK)
    inside = at < size
    x = _load(u + c.to(tl.int64) * size, at, inside, EVEN) + tl.load(bias + c)
    count = tl.minimum(size - block * BLOCK, BLOCK).to(tl.float32)
    _store_moments(_activate(x, RELU, EXACT), inside, count, partial, c, channels, block, tl.num_programs(0), EVEN)


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


# A stage's value at x, gamma * (activation(x) - mean) / sqrt(variance + eps) + beta, as a factor and a summand.
@triton.jit
def _line(gamma, beta, statistics, c, channels, eps):
    factor = tl.load(gamma + c) * tl.rsqrt(tl.load(statistics + channels + c) + eps)
    return factor, tl.load(beta + c) - tl.load(statistics + c) * factor


# y = image_scale * (gamma * (activation(u + bias) - mean) / sqrt(variance + eps) + beta) + residual; with STAGE the
# residual goes through such a stage as well, with parameters of its own.
@triton.jit
def apply(
    u,
    bias,
    gamma,
    beta,
    statistics,
    residual,
    residual_bias,
    residual_gamma,
    residual_beta,
    residual_statistics,
    image_scale,
    y,
    size,
    channels,
    eps,
    residual_eps,
    PIXELS: tl.constexpr,
    STAGE: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr,
    HAS_SCALE: tl.constexpr,
    EVEN: tl.constexpr,
    RELU: tl.constexpr,
    EXACT: tl.constexpr,
    BLOCK: tl.constexpr,
):
    block, c = tl.program_id(0), tl.program_id(1)
    at = block * BLOCK + tl.arange(0, BLOCK)
    inside = at < size
    row = c.to(tl.int64) * size
    x = _load(u + row, at, inside, EVEN)
    if HAS_BIAS:
        x += tl.load(bias + c)
    factor, summand = _line(gamma, beta, statistics, c, channels, eps)
    value = _activate(x, RELU, EXACT) * factor + summand
    if HAS_SCALE:
        value *= _load(image_scale, at // PIXELS, inside, EVEN)
    if HAS_RESIDUAL:
        r = _load(residual + row, at, inside, EVEN)
        if STAGE:
            factor, summand = _line(residual_gamma, residual_beta, residual_statistics, c, channels, residual_eps)
            r = _activate(r + tl.load(residual_bias + c), RELU, EXACT) * factor + summand
        value += r
    _store(y + row, at, value, inside, EVEN)


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
    eps,
    PIXELS: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_SCALE: tl.constexpr,
    EVEN: tl.constexpr,
    RELU: tl.constexpr,
    EXACT: tl.constexpr,
    BLOCK: tl.constexpr,
):
    block, c = tl.program_id(0), tl.program_id(1)
    blocks = tl.num_programs(0)
    at = block * BLOCK + tl.arange(0, BLOCK)
    inside = at < size
    row = c.to(tl.int64) * size
    x = _load(u + row, at, inside, EVEN)
    g = _load(d + row, at, inside, EVEN)
    if HAS_BIAS:
        x += tl.load(bias + c)
    if HAS_SCALE:
        g *= _load(image_scale, at // PIXELS, inside, EVEN)
    centred = _activate(x, RELU, EXACT) - tl.load(statistics + c)
    reciprocal = tl.rsqrt(tl.load(statistics + channels + c) + eps)
    tl.store(partial + c * blocks + block, tl.sum(g))
    tl.store(partial + (channels + c) * blocks + block, tl.sum(g * centred) * reciprocal)


# du from d and the partial sums of d that `reduce` makes, and the sums of du into du_partial (C, blocks).
@triton.jit
def gradient(
    d,
    u,
    bias,
    gamma,
    statistics,
    d_partial,
    image_scale,
    du,
    du_partial,
    size,
    channels,
    d_blocks,
    eps,
    PIXELS: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_SCALE: tl.constexpr,
    OF_BATCH: tl.constexpr,
    EVEN: tl.constexpr,
    RELU: tl.constexpr,
    EXACT: tl.constexpr,
    BLOCK: tl.constexpr,
    D_BLOCKS: tl.constexpr,
):
    block, c = tl.program_id(0), tl.program_id(1)
    at = block * BLOCK + tl.arange(0, BLOCK)
    inside = at < size
    row = c.to(tl.int64) * size
    x = _load(u + row, at, inside, EVEN)
    g = _load(d + row, at, inside, EVEN)
    if HAS_BIAS:
        x += tl.load(bias + c)
    if HAS_SCALE:
        g *= _load(image_scale, at // PIXELS, inside, EVEN)
    a, slope = _activate_with_slope(x, RELU, EXACT)
    reciprocal = tl.rsqrt(tl.load(statistics + channels + c) + eps)
    if OF_BATCH:
        part = tl.arange(0, D_BLOCKS)
        there = part < d_blocks
        shift = tl.sum(tl.load(d_partial + c * d_blocks + part, there, 0.0)) / size
        tilt = tl.sum(tl.load(d_partial + (channels + c) * d_blocks + part, there, 0.0)) / size * reciprocal
        g -= a * tilt + (shift - tl.load(statistics + c) * tilt)
    value = g * slope * (tl.load(gamma + c) * reciprocal)
    if not EVEN:
        value = tl.where(inside, value, 0.0)
    _store(du + row, at, value, inside, EVEN)
    tl.store(du_partial + c * tl.num_programs(0) + block, tl.sum(value))


# Gradients (3, C) of bias, gamma and beta from the partial sums of du and of d.
@triton.jit
def combine_gradients(
    du_partial, d_partial, gradients, channels, du_blocks, d_blocks, DU_BLOCKS: tl.constexpr, D_BLOCKS: tl.constexpr
):
    c = tl.program_id(0)
    part = tl.arange(0, DU_BLOCKS)
    tl.store(gradients + c, tl.sum(tl.load(du_partial + c * du_blocks + part, part < du_blocks, 0.0)))
    part = tl.arange(0, D_BLOCKS)
    there = part < d_blocks
    tl.store(gradients + 2 * channels + c, tl.sum(tl.load(d_partial + c * d_blocks + part, there, 0.0)))
    product = tl.sum(tl.load(d_partial + (channels + c) * d_blocks + part, there, 0.0))
    tl.store(gradients + channels + c, product)


# Band matrices (TAPS·SIDE, SIDE) of the kernel's rows `first` to `first` + TAPS, zero beyond the kernel: what column i
# of a row of the input contributes to column o of the result; with TURN what column o of the result owes to column i.
@triton.jit
def _bands(weight, first, TURN: tl.constexpr, KERNEL: tl.constexpr, SIDE: tl.constexpr, TAPS: tl.constexpr):
    line = tl.arange(0, TAPS * SIDE)[:, None]
    tap = first + line // SIDE
    across = line % SIDE - tl.arange(0, SIDE)[None, :]
    if TURN:
        across = -across
    across += KERNEL // 2
    there = (tap < KERNEL) & (across >= 0) & (across < KERNEL)
    return tl.load(weight + tap * KERNEL + across, there, 0.0)


# (ROWS, TAPS·SIDE): beside each other the rows that the kernel's rows `first` to `first` + TAPS lead to from each row
# of maps, zero outside the map; with TURN the rows that they lead from.
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


# y = depthwise(x) + bias + add, TURN: with the kernel turned by 180 degrees. MOMENTS: also those of activation(y), as
# `moments`.
@triton.jit
def convolve(
    x,
    weight,
    bias,
    add,
    y,
    partial,
    rows,
    channels,
    TURN: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_ADD: tl.constexpr,
    MOMENTS: tl.constexpr,
    EVEN: tl.constexpr,
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
    channel = c.to(tl.int64) * rows * WIDTH
    start = block * ROWS
    value = tl.zeros((ROWS, SIDE), tl.float32)
    for first in tl.static_range(0, KERNEL, TAPS):
        near = _neighbours(x + channel, start, rows, first, TURN, KERNEL, HEIGHT, WIDTH, SIDE, TAPS, ROWS)
        bands = _bands(weight + c * KERNEL * KERNEL, first, TURN, KERNEL, SIDE, TAPS)
        value = tl.dot(near, bands.to(near.dtype), value, input_precision="ieee")
    row = start + tl.arange(0, ROWS)[:, None]
    column = tl.arange(0, SIDE)[None, :]
    inside = (row < rows) & (column < WIDTH)
    at = row * WIDTH + column
    if HAS_BIAS:
        value += tl.load(bias + c)
    if HAS_ADD:
        value += _load(add + channel, at, inside, EVEN)
    stored = value.to(y.dtype.element_ty)
    _store(y + channel, at, stored, inside, EVEN)
    if MOMENTS:
        count = (tl.minimum(rows - start, ROWS) * WIDTH).to(tl.float32)
        a = _activate(stored.to(tl.float32), RELU, EXACT)
        _store_moments(a, inside, count, partial, c, channels, block, tl.num_programs(0), EVEN)


# Band matrices (C, PIXELS, PIXELS) of whole maps: what position i of a map contributes to position o of the result.
@triton.jit
def map_bands(weight, bands, KERNEL: tl.constexpr, WIDTH: tl.constexpr, PIXELS: tl.constexpr, LINES: tl.constexpr):
    c = tl.program_id(1)
    i = tl.program_id(0) * LINES + tl.arange(0, LINES)[:, None]
    o = tl.arange(0, PIXELS)[None, :]
    down = i // WIDTH - o // WIDTH + KERNEL // 2
    across = i % WIDTH - o % WIDTH + KERNEL // 2
    there = (down >= 0) & (down < KERNEL) & (across >= 0) & (across < KERNEL)
    value = tl.load(weight + (c * KERNEL + down) * KERNEL + across, there, 0.0)
    tl.store(bands + (c.to(tl.int64) * PIXELS + i) * PIXELS + o, value.to(bands.dtype.element_ty))


# v = depthwise(x) + bias_v by whole maps, x = gamma * (activation(u + bias) - mean) / sqrt(variance + eps) + beta,
# rounded to u's dtype; and the moments of activation(v), as `moments`.
@triton.jit
def convolve_maps(
    u,
    bias,
    gamma,
    beta,
    statistics,
    bands,
    bias_v,
    v,
    partial,
    images,
    channels,
    eps,
    MOMENTS: tl.constexpr,
    EVEN: tl.constexpr,
    RELU: tl.constexpr,
    EXACT: tl.constexpr,
    PIXELS: tl.constexpr,
    DEPTH: tl.constexpr,
    MAPS: tl.constexpr,
):
    block, c = tl.program_id(0), tl.program_id(1)
    channel = c.to(tl.int64) * images * PIXELS
    image = block * MAPS + tl.arange(0, MAPS)[:, None]
    inside = image < images
    factor, summand = _line(gamma, beta, statistics, c, channels, eps)
    shift = tl.load(bias + c)
    value = tl.zeros((MAPS, PIXELS), tl.float32)
    o = tl.arange(0, PIXELS)[None, :]
    for first in range(0, PIXELS, DEPTH):
        at = image * PIXELS + first + tl.arange(0, DEPTH)[None, :]
        x = _activate(_load(u + channel, at, inside, EVEN) + shift, RELU, EXACT) * factor + summand
        band = tl.load(bands + (c.to(tl.int64) * PIXELS + first + tl.arange(0, DEPTH)[:, None]) * PIXELS + o)
        value = tl.dot(x.to(band.dtype), band, value, input_precision="ieee")
    value += tl.load(bias_v + c)
    stored = value.to(v.dtype.element_ty)
    _store(v + channel, image * PIXELS + o, stored, inside, EVEN)
    if MOMENTS:
        count = (tl.minimum(images - block * MAPS, MAPS) * PIXELS).to(tl.float32)
        a = _activate(stored.to(tl.float32), RELU, EXACT)
        _store_moments(a, inside, count, partial, c, channels, block, tl.num_programs(0), EVEN)


# The weight gradient of the kernel's rows `first` to `first` + TAPS from products[(tap, o), i], the sums over all rows
# of maps of column i of x times column o of the gradient: an entry is the sum where i - o is its place in the row.
@triton.jit
def _store_taps(products, to, first, KERNEL: tl.constexpr, SIDE: tl.constexpr, TAPS: tl.constexpr):
    out = tl.arange(0, TAPS * SIDE)[:, None] % SIDE
    column = tl.arange(0, SIDE)[None, :]
    tap = first + tl.arange(0, TAPS)
    for across in tl.static_range(KERNEL):
        on = tl.where(column - out == across - KERNEL // 2, products, 0.0)
        sums = tl.sum(tl.reshape(tl.sum(on, 1), (TAPS, SIDE)), 1)
        tl.store(to + tap * KERNEL + across, sums, tap < KERNEL)


# Gradients of the depthwise convolution of x: of the weight, into dw_partial (splits, C, KERNEL, KERNEL), TAPS + REST
# rows of the kernel for each third program index, both powers of two or REST 0; and with DX of x, plus `add`, where
# TAPS + REST cover the kernel.
# STAGE: x is gamma * (activation(u + bias) - mean) / sqrt(variance + eps) + beta, rounded to u's dtype; with DX also
# the sums of dx that `reduce` makes, into dx_partial (2, C, splits). Otherwise u is x itself.
@triton.jit
def convolve_backward(
    u,
    d,
    weight,
    add,
    bias,
    gamma,
    beta,
    statistics,
    dx,
    dw_partial,
    dx_partial,
    rows,
    channels,
    eps,
    TILES: tl.constexpr,
    DX: tl.constexpr,
    HAS_ADD: tl.constexpr,
    STAGE: tl.constexpr,
    EVEN: tl.constexpr,
    RELU: tl.constexpr,
    EXACT: tl.constexpr,
    KERNEL: tl.constexpr,
    HEIGHT: tl.constexpr,
    WIDTH: tl.constexpr,
    SIDE: tl.constexpr,
    TAPS: tl.constexpr,
    REST: tl.constexpr,
    ROWS: tl.constexpr,
):
    split, c = tl.program_id(0), tl.program_id(1)
    first = tl.program_id(2) * (TAPS + REST)
    channel = c.to(tl.int64) * rows * WIDTH
    own = weight + c * KERNEL * KERNEL
    column = tl.arange(0, SIDE)[None, :]
    products = tl.zeros((TAPS * SIDE, SIDE), tl.float32)
    if REST:
        rest_products = tl.zeros((REST * SIDE, SIDE), tl.float32)
    if STAGE:
        shift, mean = tl.load(bias + c), tl.load(statistics + c)
        factor, summand = _line(gamma, beta, statistics, c, channels, eps)
    if DX:
        bands = _bands(own, first, True, KERNEL, SIDE, TAPS).to(d.dtype.element_ty)
        if REST:
            rest_bands = _bands(own, first + TAPS, True, KERNEL, SIDE, REST).to(d.dtype.element_ty)
        if STAGE:
            sums = tl.zeros((ROWS, SIDE), tl.float32)
            product_sums = tl.zeros((ROWS, SIDE), tl.float32)
    for tile in range(TILES):
        start = (split * TILES + tile) * ROWS
        row = start + tl.arange(0, ROWS)[:, None]
        inside = (row < rows) & (column < WIDTH)
        at = row * WIDTH + column
        near = _neighbours(d + channel, start, rows, first, True, KERNEL, HEIGHT, WIDTH, SIDE, TAPS, ROWS)
        x = _load(u + channel, at, inside, EVEN)
        if STAGE:
            a = _activate(x + shift, RELU, EXACT)
            x = a * factor + summand
            if not EVEN:
                x = tl.where(inside, x, 0.0)
        x = x.to(near.dtype)
        products = tl.dot(tl.trans(near), x, products, input_precision="ieee")
        if REST:
            rest = _neighbours(d + channel, start, rows, first + TAPS, True, KERNEL, HEIGHT, WIDTH, SIDE, REST, ROWS)
            rest_products = tl.dot(tl.trans(rest), x, rest_products, input_precision="ieee")
        if DX:
            value = tl.dot(near, bands, input_precision="ieee")
            if REST:
                value = tl.dot(rest, rest_bands, value, input_precision="ieee")
            if HAS_ADD:
                value += _load(add + channel, at, inside, EVEN)
            stored = value.to(dx.dtype.element_ty)
            _store(dx + channel, at, stored, inside, EVEN)
            if STAGE:
                g = stored.to(tl.float32)
                if not EVEN:
                    g = tl.where(inside, g, 0.0)
                sums += g
                product_sums += g * (a - mean)
    if DX and STAGE:
        to = dx_partial + c * tl.num_programs(0) + split
        tl.store(to, tl.sum(sums))
        reciprocal = tl.rsqrt(tl.load(statistics + channels + c) + eps)
        tl.store(to + channels * tl.num_programs(0), tl.sum(product_sums) * reciprocal)
    to = dw_partial + (split * channels + c) * KERNEL * KERNEL
    _store_taps(products, to, first, KERNEL, SIDE, TAPS)
    if REST:
        _store_taps(rest_products, to, first + TAPS, KERNEL, SIDE, REST)
