"""The fused operations on a GPU: which calls the Triton kernels cover, and the calls; no autograd.

Shapes, dtypes and results are those of :mod:`convmixer.kernels.reference`.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
LARGEST_KERNEL = 15
LARGEST_WIDTH = 128

# Sizes of the programs, as measured on an H200 with 256 channels of 512 maps of 16×16.
_BLOCK, _BLOCK_WARPS = 4096, 4  # values of a channel in an elementwise kernel
_TILE, _TILE_DEPTH, _TILE_WARPS = 2048, 16, 4  # values of a convolution, and terms of one matrix product
_PRODUCT, _PRODUCT_WARPS = 1 << 18, 4  # values times rows of the product in its gradients
_PRODUCT_ROWS = 288  # of the largest such product
_SPLITS = 4  # programs that share a channel's weight gradient
_MAPS, _MAPS_DEPTH, _MAPS_WARPS = 128, 32, 8  # maps of a convolution by whole maps, and terms of one matrix product
_MAP_SIZES, _MAP_KERNEL = (64, 128, 256), 7  # positions of the maps and smallest kernel that it is for


interpreted = False
"""Whether tensors on a CPU go through Triton's interpreter, for tests; it has to be on when Triton is imported."""


@functools.cache
def available() -> bool:
    """Whether Triton is there, and a GPU with matrix units for bfloat16."""
    there = (
        torch.cuda.is_available() and torch.version.cuda is not None and torch.cuda.get_device_capability() >= (8, 0)
    )
    return there and importlib.util.find_spec("triton") is not None


def covers(tensor: Tensor, kernel_size: int, width: int) -> bool:
    """Whether the kernels can work on this tensor with depthwise kernels of this size on maps of this width."""
    fits = tensor.dtype in DTYPES and kernel_size <= LARGEST_KERNEL and width <= LARGEST_WIDTH
    return fits and tensor.numel() > 0 and (available() if tensor.is_cuda else interpreted)


@dataclass(frozen=True)
class _Stage:
    """Activation and batch normalisation of one tensor; parameters (C,), image_scale (N,) float32."""

    bias: Tensor | None
    gamma: Tensor
    beta: Tensor
    activation: str
    eps: float
    image_scale: Tensor | None = None

    def options(self, u: Tensor, shape: Sequence[int]) -> dict[str, Any]:
        """What the elementwise kernels are compiled for."""
        return {
            **_options(u, self.activation),
            "PIXELS": shape[1] * shape[2],
            "HAS_BIAS": self.bias is not None,
            "HAS_SCALE": self.image_scale is not None,
            "EVEN": u.shape[1] % _BLOCK == 0,
            "BLOCK": _BLOCK,
            "num_warps": _BLOCK_WARPS,
        }


def normalize(
    u: Tensor,
    bias: Tensor,
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
    stage = _Stage(bias, gamma, beta, activation, eps, image_scale)
    return _apply(u, stage, used, shape, None if residual is None else residual.contiguous()), used


def normalize_backward(
    d: Tensor,
    u: Tensor,
    bias: Tensor,
    gamma: Tensor,
    statistics: Tensor,
    image_scale: Tensor | None,
    shape: Sequence[int],
    activation: str,
    eps: float,
    of_batch: bool,
) -> tuple[Tensor, Tensor]:
    """As :func:`reference.normalize_backward`."""
    stage, gradients = _Stage(bias, gamma, gamma, activation, eps, image_scale), gamma.new_empty((3, len(gamma)))
    d = d.contiguous()
    sums = _reduce(d, u, stage, statistics, shape)
    return _gradient(d, u, stage, statistics, sums, shape, of_batch, gradients), gradients


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
    first = _Stage(bias0, gamma0, beta0, activation, eps[0])
    second = _Stage(None, gamma1, beta1, activation, eps[1], image_scale)
    of_batch = statistics is None
    used = u.new_empty((4, u.shape[0]), dtype=torch.float32) if statistics is None else statistics.clone()
    if of_batch:
        _moments(u, bias0, activation, used[:2])
    small = shape[1] * shape[2] in _MAP_SIZES and weight.shape[-1] >= _MAP_KERNEL
    if small and u.dtype != torch.float32:
        v, partial, block = _convolve_maps(u, weight, bias1, first, used[:2], shape, of_batch)
        residual, through = u, (first, used[:2])
    else:
        residual, through = _apply(u, first, used[:2], shape), None
        v, partial = _convolve(residual, weight, shape, bias=bias1, activation=activation, moments=of_batch)
        block = _rows(shape) * shape[2]
    if of_batch:
        _combine_moments(partial, u.shape[1], block, used[2:])
    return _apply(v, second, used[2:], shape, residual if add_input else None, through), v, used


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
    d, gradients = d.contiguous(), gamma0.new_empty((6, len(gamma0)))
    first = _Stage(bias0, gamma0, beta0, activation, eps[0])
    second = _Stage(None, gamma1, gamma1, activation, eps[1], image_scale)
    before, behind = statistics[:2], statistics[2:]
    sums = _reduce(d, v, second, behind, shape)
    dv = _gradient(d, v, second, behind, sums, shape, of_batch, gradients[3:])
    dx, dw, sums = _convolve_backward(u, dv, weight, shape, d if add_input else None, first, before)
    if dx is None:
        dx = _convolve(dv, weight, shape, turn=True, add=d if add_input else None)[0]
        sums = _reduce(dx, u, first, before, shape)
    return _gradient(dx, u, first, before, sums, shape, of_batch, gradients[:3]), dw, gradients


def depthwise(x: Tensor, weight: Tensor, shape: Sequence[int], turn: bool) -> Tensor:
    """Depthwise convolution (C, N·H·W) with weights (C, k, k), without bias; ``turn``: the input gradient."""
    return _convolve(x, weight, shape, turn=turn)[0]


def depthwise_weight_gradient(x: Tensor, d: Tensor, kernel_size: int, shape: Sequence[int]) -> Tensor:
    """Weight gradient (C, k, k), float32."""
    weight = x.new_empty((x.shape[0], kernel_size, kernel_size), dtype=torch.float32)
    return _convolve_backward(x, d.contiguous(), weight, shape)[1]


def _options(u: Tensor, activation: str) -> dict[str, Any]:
    return {"RELU": activation == "relu", "EXACT": u.dtype == torch.float32}


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


def _moments(u: Tensor, bias: Tensor, activation: str, out: Tensor | None = None) -> Tensor:
    """(2, C) mean and biased variance of activation(u + bias)."""
    from convmixer.kernels import triton_kernels as kernels

    channels, size = u.shape
    grid = (_blocks(size, _BLOCK), channels)
    partial = u.new_empty((2, channels, grid[0]), dtype=torch.float32)
    options = {**_options(u, activation), "EVEN": size % _BLOCK == 0, "BLOCK": _BLOCK, "num_warps": _BLOCK_WARPS}
    kernels.moments[grid](u, bias, partial, size, channels, **options)
    return _combine_moments(partial, size, _BLOCK, partial.new_empty((2, channels)) if out is None else out)


def _combine_moments(partial: Tensor, size: int, block: int, out: Tensor) -> Tensor:
    from convmixer.kernels import triton_kernels as kernels

    _, channels, blocks = partial.shape
    sizes = {"BLOCK": block, "BLOCKS": _power_of_two(blocks)}
    kernels.combine_moments[(channels,)](partial, out, size, channels, blocks, **sizes)
    return out


def _apply(
    u: Tensor,
    stage: _Stage,
    statistics: Tensor,
    shape: Sequence[int],
    residual: Tensor | None = None,
    through: tuple[_Stage, Tensor] | None = None,
) -> Tensor:
    """The stage's result, plus ``residual``, or what a stage with its statistics makes of that."""
    from convmixer.kernels import triton_kernels as kernels

    y = torch.empty_like(u)
    channels, size = u.shape
    parameters = (stage.bias, stage.gamma, stage.beta, statistics)
    its, known = through or (None, None)
    behind = (its.bias, its.gamma, its.beta, known) if its else (None,) * 4
    options = {**stage.options(u, shape), "HAS_RESIDUAL": residual is not None}
    options["STAGE"] = its is not None and residual is not None
    sizes = (size, channels, stage.eps, its.eps if its else 0.0)
    kernels.apply[(_blocks(size, _BLOCK), channels)](
        *(u, *parameters, residual, *behind, stage.image_scale, y, *sizes), **options
    )
    return y


def _reduce(d: Tensor, u: Tensor, stage: _Stage, statistics: Tensor, shape: Sequence[int]) -> Tensor:
    """Partial sums (2, C, blocks) of d, and of d times the normalised activation."""
    from convmixer.kernels import triton_kernels as kernels

    channels, size = u.shape
    grid = (_blocks(size, _BLOCK), channels)
    partial = stage.gamma.new_empty((2, channels, grid[0]))
    inputs = (d, u, stage.bias, statistics, stage.image_scale)
    kernels.reduce[grid](*inputs, partial, size, channels, stage.eps, **stage.options(u, shape))
    return partial


def _gradient(
    d: Tensor,
    u: Tensor,
    stage: _Stage,
    statistics: Tensor,
    sums: Tensor,
    shape: Sequence[int],
    of_batch: bool,
    gradients: Tensor,
) -> Tensor:
    """Gradient of u, from d and its partial sums; writes those of bias, gamma and beta into ``gradients`` (3, C)."""
    from convmixer.kernels import triton_kernels as kernels

    channels, size = u.shape
    blocks, d_blocks = _blocks(size, _BLOCK), sums.shape[2]
    du, partial = torch.empty_like(u), sums.new_empty((channels, blocks))
    inputs = (d, u, stage.bias, stage.gamma, statistics, sums, stage.image_scale)
    options = {**stage.options(u, shape), "OF_BATCH": of_batch, "D_BLOCKS": _power_of_two(d_blocks)}
    kernels.gradient[(blocks, channels)](*inputs, du, partial, size, channels, d_blocks, stage.eps, **options)
    sizes = {"DU_BLOCKS": _power_of_two(blocks), "D_BLOCKS": _power_of_two(d_blocks)}
    kernels.combine_gradients[(channels,)](partial, sums, gradients, channels, blocks, d_blocks, **sizes)
    return du


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
) -> tuple[Tensor, Tensor]:
    """Depthwise convolution plus ``bias`` plus ``add``; partial moments (2, C, blocks) of its activation if wanted."""
    from convmixer.kernels import triton_kernels as kernels

    images, height, width = shape
    kernel_size, side, tile = weight.shape[-1], _side(width), _rows(shape)
    channels, rows = x.shape[0], images * height
    grid = (_blocks(rows, tile), channels)
    y = torch.empty_like(x)
    partial = weight.new_empty((2, channels, grid[0]) if moments else 0, dtype=torch.float32)
    kernels.convolve[grid](
        *(x, weight, bias, add, y, partial, rows, channels),
        TURN=turn,
        HAS_BIAS=bias is not None,
        HAS_ADD=add is not None,
        MOMENTS=moments,
        EVEN=rows % tile == 0 and width == side,
        KERNEL=kernel_size,
        HEIGHT=height,
        WIDTH=width,
        SIDE=side,
        TAPS=min(_power_of_two(kernel_size), max(1, _TILE_DEPTH // side)),
        ROWS=tile,
        num_warps=_TILE_WARPS,
        **_options(x, activation),
    )
    return y, partial


def _convolve_maps(
    u: Tensor, weight: Tensor, bias: Tensor, stage: _Stage, statistics: Tensor, shape: Sequence[int], moments: bool
) -> tuple[Tensor, Tensor, int]:
    """Depthwise convolution plus ``bias`` of the result of ``stage`` on u; partial moments of blocks, and their size.

    For small maps: each is one row of a product with a band matrix for all positions.
    """
    from convmixer.kernels import triton_kernels as kernels

    (images, _, width), channels, pixels = shape, len(u), shape[1] * shape[2]
    bands = u.new_empty((channels, pixels, pixels))
    kernels.map_bands[(pixels // 16, channels)](
        weight, bands, KERNEL=weight.shape[-1], WIDTH=width, PIXELS=pixels, LINES=16
    )
    grid = (_blocks(images, _MAPS), channels)
    v, partial = torch.empty_like(u), weight.new_empty((2, channels, grid[0]) if moments else 0, dtype=torch.float32)
    kernels.convolve_maps[grid](
        *(u, stage.bias, stage.gamma, stage.beta, statistics, bands, bias, v, partial, images, channels, stage.eps),
        MOMENTS=moments,
        EVEN=images % _MAPS == 0,
        PIXELS=pixels,
        DEPTH=_MAPS_DEPTH,
        MAPS=_MAPS,
        num_warps=_MAPS_WARPS,
        **_options(u, stage.activation),
    )
    return v, partial, _MAPS * pixels


def _split_taps(kernel_size: int) -> tuple[int, int]:
    """Two powers of two, or one and 0, that together are at least ``kernel_size``, and as little more as possible."""
    whole = _power_of_two(kernel_size)
    half = whole // 2
    rest = _power_of_two(kernel_size - half) if half else 0
    return (half, rest) if half and half + rest < whole else (whole, 0)


def _convolve_backward(
    u: Tensor,
    d: Tensor,
    weight: Tensor,
    shape: Sequence[int],
    add: Tensor | None = None,
    stage: _Stage | None = None,
    statistics: Tensor | None = None,
) -> tuple[Tensor | None, Tensor, Tensor]:
    """Gradients of x, plus ``add``, and of the weight, (C, k, k) float32, for x the result of ``stage`` on u.

    Returns:
        Both, the first None without a stage and where one program cannot hold all rows of a kernel; and the partial
        sums of the first as those of :func:`_reduce`.
    """
    from convmixer.kernels import triton_kernels as kernels

    images, height, width = shape
    kernel_size, side = weight.shape[-1], _side(width)
    channels, rows = u.shape[0], images * height
    taps, rest = _split_taps(kernel_size)
    if (taps + rest) * side > _PRODUCT_ROWS:
        taps, rest = max(1, 256 // side), 0
    tile = max(16, _PRODUCT // ((taps + rest) * side * side))
    tile = 1 << (tile.bit_length() - 1)
    splits = min(_SPLITS, _blocks(rows, tile))
    tiles = _blocks(_blocks(rows, tile), splits)
    groups = _blocks(kernel_size, taps + rest)
    dx = torch.empty_like(u) if stage and groups == 1 else None
    dw_partial = u.new_empty((splits, *weight.shape), dtype=torch.float32)
    dx_partial = u.new_empty((2, channels, splits), dtype=torch.float32)
    parameters = (stage.bias, stage.gamma, stage.beta) if stage else (None, None, None)
    kernels.convolve_backward[(splits, channels, groups)](
        *(u, d, weight, add, *parameters, statistics, dx, dw_partial, dx_partial),
        *(rows, channels, stage.eps if stage else 0.0),
        TILES=tiles,
        DX=dx is not None,
        HAS_ADD=add is not None,
        STAGE=stage is not None,
        EVEN=rows % (tile * tiles) == 0 and width == side,
        KERNEL=kernel_size,
        HEIGHT=height,
        WIDTH=width,
        SIDE=side,
        TAPS=taps,
        REST=rest,
        ROWS=tile,
        num_warps=_PRODUCT_WARPS,
        **_options(u, stage.activation if stage else "relu"),
    )
    return dx, dw_partial.sum(0), dx_partial
