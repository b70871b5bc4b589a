"""The fused operations as Triton kernels for GPUs: depthwise convolutions. See :mod:`convmixer.kernels.triton_kernels`.

A convolution as a matrix product: all rows of all H×W maps, above each other, are a (rows, W) matrix; the k
rows around each, side by side, are (rows, k·W), and times the band matrices of the kernel's rows, (k·W, W), they give
the convolved rows. That is W / k times the arithmetic, but on matrix units, and all loads are whole rows.
"""
# ruff: noqa: D103 - kernels are described by comments, as their text is compiled
# mypy: disable-error-code="no-untyped-def, untyped-decorator, misc, no-any-return, assignment"

from __future__ import annotations

import triton
import triton.language as tl

from convmixer.kernels.triton_kernels import activate, affine, load, store, store_moments


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


# (ROWS, TAPS·SIDE): side by side the rows that the kernel's rows `first` to `first` + TAPS lead to from each row
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
        value += load(add + channel, at, inside, EVEN)
    stored = value.to(y.dtype.element_ty)
    store(y + channel, at, stored, inside, EVEN)
    if MOMENTS:
        count = (tl.minimum(rows - start, ROWS) * WIDTH).to(tl.float32)
        a = activate(stored.to(tl.float32), RELU, EXACT)
        store_moments(a, inside, count, partial, c, channels, block, tl.num_programs(0), EVEN)


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
    factor, summand = affine(gamma, beta, statistics, c, channels, eps)
    shift = tl.load(bias + c)
    value = tl.zeros((MAPS, PIXELS), tl.float32)
    o = tl.arange(0, PIXELS)[None, :]
    for first in range(0, PIXELS, DEPTH):
        at = image * PIXELS + first + tl.arange(0, DEPTH)[None, :]
        x = activate(load(u + channel, at, inside, EVEN) + shift, RELU, EXACT) * factor + summand
        band = tl.load(bands + (c.to(tl.int64) * PIXELS + first + tl.arange(0, DEPTH)[:, None]) * PIXELS + o)
        value = tl.dot(x.to(band.dtype), band, value, input_precision="ieee")
    value += tl.load(bias_v + c)
    stored = value.to(v.dtype.element_ty)
    store(v + channel, image * PIXELS + o, stored, inside, EVEN)
    if MOMENTS:
        count = (tl.minimum(images - block * MAPS, MAPS) * PIXELS).to(tl.float32)
        a = activate(stored.to(tl.float32), RELU, EXACT)
        store_moments(a, inside, count, partial, c, channels, block, tl.num_programs(0), EVEN)


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
# NORM: x is gamma * (activation(u + bias) - mean) / sqrt(variance + eps) + beta, rounded to u's dtype; with DX also
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
    NORM: tl.constexpr,
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
    if NORM:
        shift, mean = tl.load(bias + c), tl.load(statistics + c)
        factor, summand = affine(gamma, beta, statistics, c, channels, eps)
    if DX:
        bands = _bands(own, first, True, KERNEL, SIDE, TAPS).to(d.dtype.element_ty)
        if REST:
            rest_bands = _bands(own, first + TAPS, True, KERNEL, SIDE, REST).to(d.dtype.element_ty)
        if NORM:
            sums = tl.zeros((ROWS, SIDE), tl.float32)
            product_sums = tl.zeros((ROWS, SIDE), tl.float32)
    for tile in range(TILES):
        start = (split * TILES + tile) * ROWS
        row = start + tl.arange(0, ROWS)[:, None]
        inside = (row < rows) & (column < WIDTH)
        at = row * WIDTH + column
        near = _neighbours(d + channel, start, rows, first, True, KERNEL, HEIGHT, WIDTH, SIDE, TAPS, ROWS)
        x = load(u + channel, at, inside, EVEN)
        if NORM:
            a = activate(x + shift, RELU, EXACT)
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
                value += load(add + channel, at, inside, EVEN)
            stored = value.to(dx.dtype.element_ty)
            store(dx + channel, at, stored, inside, EVEN)
            if NORM:
                g = stored.to(tl.float32)
                if not EVEN:
                    g = tl.where(inside, g, 0.0)
                sums += g
                product_sums += g * (a - mean)
    if DX and NORM:
        to = dx_partial + c * tl.num_programs(0) + split
        tl.store(to, tl.sum(sums))
        reciprocal = tl.rsqrt(tl.load(statistics + channels + c) + eps)
        tl.store(to + channels * tl.num_programs(0), tl.sum(product_sums) * reciprocal)
    to = dw_partial + (split * channels + c) * KERNEL * KERNEL
    _store_taps(products, to, first, KERNEL, SIDE, TAPS)
    if REST:
        _store_taps(rest_products, to, first + TAPS, KERNEL, SIDE, REST)
