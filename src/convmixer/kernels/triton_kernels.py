"""The fused operations as Triton kernels for GPUs: activations and normalisations.

Tensors are channel-major: row c of (C, M) is one channel, M = N·H·W. Every kernel reads its inputs once, in order,
computes in float32 and writes one *partial* sum for each of its blocks; these are added up afterwards in a fixed order,
and results do not depend on how blocks are scheduled.
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
def activate(x, RELU: tl.constexpr, EXACT: tl.constexpr):
    if RELU:
        return tl.where(x < 0, 0.0, x)  # NaN stays
    return x * _cumulative(x, EXACT)


@triton.jit
def activate_with_slope(x, RELU: tl.constexpr, EXACT: tl.constexpr):
    if RELU:
        return tl.where(x < 0, 0.0, x), tl.where(x > 0, 1.0, 0.0)
    cumulative = _cumulative(x, EXACT)
    density = 0.3989422804014327 * tl.exp2(-0.7213475204444817 * x * x)
    return x * cumulative, cumulative + x * density


# Elements `at` of a row; EVEN: all of them are inside it.
@triton.jit
def load(row, at, inside, EVEN: tl.constexpr):
    if EVEN:
        return tl.load(row + at).to(tl.float32)
    return tl.load(row + at, inside, 0.0).to(tl.float32)


@triton.jit
def store(row, at, value, inside, EVEN: tl.constexpr):
    if EVEN:
        tl.store(row + at, value.to(row.dtype.element_ty))
    else:
        tl.store(row + at, value.to(row.dtype.element_ty), inside)


# Mean and sum of squared deviations of one block, into partial (2, C, blocks).
@triton.jit
def store_moments(a, inside, count, partial, c, channels, block, blocks, EVEN: tl.constexpr):
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
    x = load(u + c.to(tl.int64) * size, at, inside, EVEN) + tl.load(bias + c)
    count = tl.minimum(size - block * BLOCK, BLOCK).to(tl.float32)
    store_moments(activate(x, RELU, EXACT), inside, count, partial, c, channels, block, tl.num_programs(0), EVEN)


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


# gamma * (a - mean) / sqrt(variance + eps) + beta as a factor of a and a summand.
@triton.jit
def affine(gamma, beta, statistics, c, channels, eps):
    factor = tl.load(gamma + c) * tl.rsqrt(tl.load(statistics + channels + c) + eps)
    return factor, tl.load(beta + c) - tl.load(statistics + c) * factor


# y = image_scale * (gamma * (activation(u + bias) - mean) / sqrt(variance + eps) + beta) + residual; with NORM the
# residual is normalised in the same way first, with parameters of its own.
@triton.jit
def act_norm(
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
    NORM: tl.constexpr,
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
    x = load(u + row, at, inside, EVEN)
    if HAS_BIAS:
        x += tl.load(bias + c)
    factor, summand = affine(gamma, beta, statistics, c, channels, eps)
    value = activate(x, RELU, EXACT) * factor + summand
    if HAS_SCALE:
        value *= load(image_scale, at // PIXELS, inside, EVEN)
    if HAS_RESIDUAL:
        r = load(residual + row, at, inside, EVEN)
        if NORM:
            factor, summand = affine(residual_gamma, residual_beta, residual_statistics, c, channels, residual_eps)
            r = activate(r + tl.load(residual_bias + c), RELU, EXACT) * factor + summand
        value += r
    store(y + row, at, value, inside, EVEN)


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
    x = load(u + row, at, inside, EVEN)
    g = load(d + row, at, inside, EVEN)
    if HAS_BIAS:
        x += tl.load(bias + c)
    if HAS_SCALE:
        g *= load(image_scale, at // PIXELS, inside, EVEN)
    centred = activate(x, RELU, EXACT) - tl.load(statistics + c)
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
    x = load(u + row, at, inside, EVEN)
    g = load(d + row, at, inside, EVEN)
    if HAS_BIAS:
        x += tl.load(bias + c)
    if HAS_SCALE:
        g *= load(image_scale, at // PIXELS, inside, EVEN)
    a, slope = activate_with_slope(x, RELU, EXACT)
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
    store(du + row, at, value, inside, EVEN)
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
