"""The fused operations on a GPU: which calls the Triton kernels cover, and the calls; no autograd.

Shapes, dtypes and results are those of :mod:`convmixer.kernels.reference`.
"""

from __future__ import annotations

import functools
import importlib.util
import logging
import os
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

logger = logging.getLogger("convmixer.kernels")

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
LARGEST_KERNEL = 15
LARGEST_WIDTH = 128

# Sizes of the programs, measured on an H100 and an H200 at (256, 131072) and 16×16 maps.
_BLOCK, _BLOCK_WARPS = 4096, 8  # values of a channel in an elementwise kernel
_TILE, _TILE_DEPTH, _TILE_WARPS = 4096, 64, 4  # values of a convolution, and terms of one matrix product
_PRODUCT, _PRODUCT_WIDTH, _PRODUCT_WARPS = 1024, 256, 4  # the same of a weight gradient, and its product's width
_SPLITS = 8  # programs that share a channel's weight gradient


@functools.cache
def available() -> bool:
    """Whether Triton is there with something to run on: a GPU with matrix units for bfloat16, or its interpreter."""
    if importlib.util.find_spec("triton") is None:
        return False
    if os.environ.get("TRITON_INTERPRET") == "1":
        return True
    return torch.cuda.is_available() and torch.version.cuda is not None and torch.cuda.get_device_capability() >= (8, 0)


def covers(tensor: Tensor, kernel_size: int, width: int) -> bool:
    """Whether the kernels can work on this tensor with depthwise kernels of this size on maps of this width."""
    on_device = tensor.is_cuda or os.environ.get("TRITON_INTERPRET") == "1"
    fits = tensor.dtype in DTYPES and kernel_size <= LARGEST_KERNEL and width <= LARGEST_WIDTH
    return on_device and fits and tensor.numel() > 0 and available()


def normalize(
    u: Tensor,
    bias: Tensor | None,
    gamma: Tensor,
    beta: Tensor,
    statistics: Tensor | None,
    residual: Tensor | None,
    image_scale: Tensor | None,
    shape: Sequence[int],
    activation: str,
    eps: float,
) -> tuple[Tensor, Tensor]:
    """As :func:`reference.normalize`."""
    used = _moments(u, bias, activation) if statistics is None else statistics.clone()
    return _apply(u, bias, gamma, beta, used, residual, image_scale, shape, activation, eps), used


def normalize_backward(
    d: Tensor,
    u: Tensor,
    bias: Tensor | None,
    gamma: Tensor,
    statistics: Tensor,
    image_scale: Tensor | None,
    shape: Sequence[int],
    activation: str,
    eps: float,
    of_batch: bool,
    sums: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """As :func:`reference.normalize_backward`; ``sums`` (2, C) where those of d are known already."""
    from convmixer.kernels import triton_kernels as kernels

    d = d.contiguous()
    channels, size = u.shape
    options = _elementwise(u, activation) | {"HAS_BIAS": bias is not None, "HAS_SCALE": image_scale is not None}
    grid = (_blocks(size, _BLOCK), channels)
    sizes = (size, channels, shape[1] * shape[2], eps)
    if sums is None:
        partial = gamma.new_empty((2, channels, grid[0]))
        kernels.reduce[grid](d, u, bias, statistics, image_scale, partial, *sizes, **options)
        sums = partial.sum(2)
    du, partial = torch.empty_like(u), gamma.new_empty((channels, grid[0]))
    kernels.gradient[grid](
        d,
        u,
        bias,
        gamma,
        statistics,
        sums,
        image_scale,
        du,
        partial,
        *sizes,
        OF_BATCH=of_batch,
        **options,
    )
    return du, torch.stack([partial.sum(1), sums[1], sums[0]])


def mix(
    u: Tensor,
    bias0: Tensor,
    gamma0: Tensor,
    beta0: Tensor,
    weight: Tensor,
    bias1: Tensor,
    gamma1: Tensor,
    beta1: Tensor,
    statistics: Tensor | None,
    image_scale: Tensor | None,
    shape: Sequence[int],
    activation: str,
    eps: Sequence[float],
    add_input: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """As :func:`reference.mix`."""
    given = (None, None) if statistics is None else (statistics[:2], statistics[2:])
    x, used = normalize(u, bias0, gamma0, beta0, given[0], None, None, shape, activation, eps[0])
    moments = given[1] is None
    v, partial = _convolve(x, weight, shape, bias=bias1, activation=activation, moments=moments)
    behind = _combine(partial, u.shape[1], _rows(shape) * shape[2]) if moments else given[1]
    assert behind is not None
    y = _apply(v, None, gamma1, beta1, behind, x if add_input else None, image_scale, shape, activation, eps[1])
    return y, v, torch.cat([used, behind])


def mix_backward(
    d: Tensor,
    u: Tensor,
    v: Tensor,
    bias0: Tensor,
    gamma0: Tensor,
    beta0: Tensor,
    weight: Tensor,
    gamma1: Tensor,
    statistics: Tensor,
    image_scale: Tensor | None,
    shape: Sequence[int],
    activation: str,
    eps: Sequence[float],
    add_input: bool,
    of_batch: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """As :func:`reference.mix_backward`."""
    d = d.contiguous()
    before, behind = statistics[:2].contiguous(), statistics[2:].contiguous()
    dv, gradients1 = normalize_backward(d, v, None, gamma1, behind, image_scale, shape, activation, eps[1], of_batch)
    dx, partial = _convolve(
        dv,
        weight,
        shape,
        turn=True,
        add=d if add_input else None,
        activation=activation,
        reduce=(u, bias0, before, eps[0]),
    )
    stage = (bias0, gamma0, beta0, before, activation, eps[0])
    dw = _convolve_weight_gradient(u, dv, weight.shape[-1], shape, stage)
    du, gradients0 = normalize_backward(
        dx, u, bias0, gamma0, before, None, shape, activation, eps[0], of_batch, partial.sum(2)
    )
    return du, dw, torch.cat([gradients0, gradients1])


def depthwise(x: Tensor, weight: Tensor, shape: Sequence[int], turn: bool) -> Tensor:
    """Depthwise convolution (C, N·H·W) with weights (C, k, k), without bias; ``turn``: the input gradient."""
    return _convolve(x, weight, shape, turn=turn)[0]


def depthwise_weight_gradient(x: Tensor, d: Tensor, kernel_size: int, shape: Sequence[int]) -> Tensor:
    """Weight gradient (C, k, k), float32."""
    return _convolve_weight_gradient(x, d.contiguous(), kernel_size, shape, None)


def _options(u: Tensor, activation: str) -> dict[str, Any]:
    return {"RELU": activation == "relu", "EXACT": u.dtype == torch.float32}


def _elementwise(u: Tensor, activation: str) -> dict[str, Any]:
    return {**_options(u, activation), "BLOCK": _BLOCK, "num_warps": _BLOCK_WARPS}


def _blocks(size: int, block: int) -> int:
    return -(-size // block)


def _power_of_two(size: int) -> int:
    return 1 << (size - 1).bit_length()


def _side(width: int) -> int:
    """Columns of a tile for maps of this width: matrix units want at least 16."""
    return max(16, _power_of_two(width))


def _rows(shape: Sequence[int]) -> int:
    """Rows of maps in one tile of a convolution."""
    return max(16, _TILE // _side(shape[2]))


def _moments(u: Tensor, bias: Tensor | None, activation: str) -> Tensor:
    """(2, C) mean and biased variance of activation(u + bias)."""
    from convmixer.kernels import triton_kernels as kernels

    channels, size = u.shape
    grid = (_blocks(size, _BLOCK), channels)
    partial = u.new_empty((2, channels, grid[0]), dtype=torch.float32)
    bias = partial.new_zeros(channels) if bias is None else bias
    kernels.moments[grid](u, bias, partial, size, channels, **_elementwise(u, activation))
    return _combine(partial, size, _BLOCK)


def _combine(partial: Tensor, size: int, block: int) -> Tensor:
    from convmixer.kernels import triton_kernels as kernels

    _, channels, blocks = partial.shape
    statistics = partial.new_empty((2, channels))
    kernels.combine_moments[(channels,)](
        partial, statistics, size, channels, blocks, BLOCK=block, BLOCKS=_power_of_two(blocks)
    )
    return statistics


def _apply(
    u: Tensor,
    bias: Tensor | None,
    gamma: Tensor,
    beta: Tensor,
    statistics: Tensor,
    residual: Tensor | None,
    image_scale: Tensor | None,
    shape: Sequence[int],
    activation: str,
    eps: float,
) -> Tensor:
    from convmixer.kernels import triton_kernels as kernels

    y = torch.empty_like(u)
    channels, size = u.shape
    kernels.apply[(_blocks(size, _BLOCK), channels)](
        u,
        bias,
        gamma,
        beta,
        statistics.contiguous(),
        None if residual is None else residual.contiguous(),
        image_scale,
        y,
        size,
        channels,
        shape[1] * shape[2],
        eps,
        HAS_BIAS=bias is not None,
        HAS_RESIDUAL=residual is not None,
        HAS_SCALE=image_scale is not None,
        **_elementwise(u, activation),
    )
    return y


def _convolve(
    x: Tensor,
    weight: Tensor,
    shape: Sequence[int],
    *,
    turn: bool = False,
    bias: Tensor | None = None,
    add: Tensor | None = None,
    activation: str = "relu",
    moments: bool = False,
    reduce: tuple[Tensor, Tensor, Tensor, float] | None = None,
) -> tuple[Tensor, Tensor]:
    """Depthwise convolution plus ``bias`` plus ``add``, and the (2, C, blocks) partial sums that were asked for."""
    from convmixer.kernels import triton_kernels as kernels

    images, height, width = shape
    channels, rows = x.shape[0], images * height
    grid = (_blocks(rows, _rows(shape)), channels)
    y = torch.empty_like(x)
    partial = weight.new_empty((2, channels, grid[0]) if moments or reduce else 0, dtype=torch.float32)
    u, bias_u, statistics, eps = reduce or (None, None, None, 0.0)
    kernels.convolve[grid](
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
        TURN=turn,
        HAS_BIAS=bias is not None,
        HAS_ADD=add is not None,
        MOMENTS=moments,
        REDUCE=reduce is not None,
        KERNEL=weight.shape[-1],
        HEIGHT=height,
        WIDTH=width,
        SIDE=_side(width),
        TAPS=_taps(weight.shape[-1], width),
        ROWS=_rows(shape),
        num_warps=_TILE_WARPS,
        **_options(x, activation),
    )
    return y, partial


def _taps(kernel_size: int, width: int) -> int:
    """Rows of the kernel that one matrix product takes together: as many as make it 64 deep."""
    return min(_power_of_two(kernel_size), max(1, _TILE_DEPTH // _side(width)))


def _convolve_weight_gradient(
    u: Tensor,
    d: Tensor,
    kernel_size: int,
    shape: Sequence[int],
    stage: tuple[Tensor, Tensor, Tensor, Tensor, str, float] | None,
) -> Tensor:
    """(C, k, k) in float32; ``stage``: bias, gamma, beta, statistics, activation and eps of what u goes through."""
    from convmixer.kernels import triton_kernels as kernels

    images, height, width = shape
    channels, rows, side = u.shape[0], images * height, _side(width)
    taps = min(_power_of_two(kernel_size), max(1, _PRODUCT_WIDTH // side))
    tile = max(16, _PRODUCT // side)
    splits = min(_SPLITS, _blocks(rows, tile))
    tiles = _blocks(_blocks(rows, tile), splits)
    partial = u.new_empty((splits, channels, kernel_size, kernel_size), dtype=torch.float32)
    bias, gamma, beta, statistics, activation, eps = stage or (None, None, None, None, "relu", 0.0)
    kernels.convolve_weight_gradient[(splits, channels, _blocks(kernel_size, taps))](
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
        TILES=tiles,
        STAGE=stage is not None,
        KERNEL=kernel_size,
        HEIGHT=height,
        WIDTH=width,
        SIDE=side,
        TAPS=taps,
        ROWS=tile,
        num_warps=_PRODUCT_WARPS,
        **_options(u, activation),
    )
    return partial.sum(0)
