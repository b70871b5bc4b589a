"""The launches of the Triton kernels: sizes, grids, and what each kernel is compiled for.

Shapes are those of :class:`Backend`; *partial* results (…, C, blocks) are one value for each block of a channel.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from convmixer.kernels import triton_convolutions as convolutions
from convmixer.kernels import triton_kernels as kernels
from convmixer.kernels.backend import ActNorm, ActNormDepthwise, Maps

# Sizes of the programs, as measured on an H200 with 256 channels of 512 maps of 16×16.
_BLOCK, _BLOCK_WARPS = 4096, 4  # values of a channel in an elementwise kernel
_TILE, _TILE_DEPTH, _TILE_WARPS = 2048, 16, 4  # values of a convolution, and terms of one matrix product
_PRODUCT, _PRODUCT_WARPS = 1 << 18, 4  # values times rows of the product in its gradients
_PRODUCT_ROWS = 288  # of the largest such product
_SPLITS = 4  # programs that share a channel's weight gradient
_MAPS, _MAPS_DEPTH, _MAPS_WARPS = 128, 32, 8  # maps of a convolution by whole maps, and terms of one matrix product
_MAP_SIZES, _MAP_KERNEL = (64, 128, 256), 7  # positions of the maps and smallest kernel that it is for


def _options(u: Tensor, activation: str) -> dict[str, Any]:
    return {"RELU": activation == "relu", "EXACT": u.dtype == torch.float32}


def _elementwise_options(u: Tensor, norm: ActNorm, maps: Maps) -> dict[str, Any]:
    return {
        **_options(u, maps.activation),
        "PIXELS": maps.shape[1] * maps.shape[2],
        "HAS_BIAS": norm.bias is not None,
        "HAS_SCALE": maps.image_scale is not None,
        "EVEN": u.shape[1] % _BLOCK == 0,
        "BLOCK": _BLOCK,
        "num_warps": _BLOCK_WARPS,
    }


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


def moments(u: Tensor, bias: Tensor | None, activation: str, out: Tensor) -> None:
    """Writes mean and biased variance of activation(u + bias) into ``out`` (2, C)."""
    channels, size = u.shape
    grid = (_blocks(size, _BLOCK), channels)
    partial = u.new_empty((2, channels, grid[0]), dtype=torch.float32)
    options = {**_options(u, activation), "EVEN": size % _BLOCK == 0, "BLOCK": _BLOCK, "num_warps": _BLOCK_WARPS}
    kernels.moments[grid](u, bias, partial, size, channels, **options)
    combine_moments(partial, size, _BLOCK, out)


def combine_moments(partial: Tensor, size: int, block: int, out: Tensor) -> None:
    """Writes the moments of channels of ``size`` values from those of blocks into ``out`` (2, C)."""
    _, channels, blocks = partial.shape
    sizes = {"BLOCK": block, "BLOCKS": _power_of_two(blocks)}
    kernels.combine_moments[(channels,)](partial, out, size, channels, blocks, **sizes)


def act_norm(
    u: Tensor,
    norm: ActNorm,
    statistics: Tensor,
    maps: Maps,
    residual: Tensor | None = None,
    residual_norm: tuple[ActNorm, Tensor] | None = None,
) -> Tensor:
    """Activation and normalisation of u, times the images' factors, plus the residual, itself normalised if wanted."""
    y = torch.empty_like(u)
    channels, size = u.shape
    other, other_statistics = residual_norm or (ActNorm(None, norm.gamma, norm.beta, 0.0), None)
    options = _elementwise_options(u, norm, maps)
    options |= {"HAS_RESIDUAL": residual is not None, "NORM": residual is not None and residual_norm is not None}
    kernels.act_norm[(_blocks(size, _BLOCK), channels)](
        *(u, norm.bias, norm.gamma, norm.beta, statistics),
        *(residual, other.bias, other.gamma, other.beta, other_statistics),
        *(maps.image_scale, y, size, channels, norm.eps, other.eps),
        **options,
    )
    return y


def reduce(d: Tensor, u: Tensor, norm: ActNorm, statistics: Tensor, maps: Maps) -> Tensor:
    """Partial sums (2, C, blocks) of d, and of d times the normalised activation."""
    channels, size = u.shape
    grid = (_blocks(size, _BLOCK), channels)
    partial = norm.gamma.new_empty((2, channels, grid[0]))
    inputs = (d, u, norm.bias, statistics, maps.image_scale)
    kernels.reduce[grid](*inputs, partial, size, channels, norm.eps, **_elementwise_options(u, norm, maps))
    return partial


def gradient(
    d: Tensor,
    u: Tensor,
    norm: ActNorm,
    statistics: Tensor,
    sums: Tensor,
    of_batch: bool,
    maps: Maps,
    gradients: Tensor,
) -> Tensor:
    """Gradient of u, from d and its partial sums; writes those of bias, gamma and beta into ``gradients`` (3, C)."""
    channels, size = u.shape
    blocks, d_blocks = _blocks(size, _BLOCK), sums.shape[2]
    du, partial = torch.empty_like(u), sums.new_empty((channels, blocks))
    inputs = (d, u, norm.bias, norm.gamma, statistics, sums, maps.image_scale)
    options = _elementwise_options(u, norm, maps) | {"OF_BATCH": of_batch, "D_BLOCKS": _power_of_two(d_blocks)}
    kernels.gradient[(blocks, channels)](*inputs, du, partial, size, channels, d_blocks, norm.eps, **options)
    sizes = {"DU_BLOCKS": _power_of_two(blocks), "D_BLOCKS": _power_of_two(d_blocks)}
    kernels.combine_gradients[(channels,)](partial, sums, gradients, channels, blocks, d_blocks, **sizes)
    return du


def convolve(
    x: Tensor,
    weight: Tensor,
    maps: Maps,
    *,
    turn: bool = False,
    bias: Tensor | None = None,
    add: Tensor | None = None,
    moments: bool = False,
) -> tuple[Tensor, Tensor, int]:
    """Depthwise convolution plus ``bias`` plus ``add``; partial moments of its activation if wanted, and their blocks.

    Returns:
        The result; the moments (2, C, blocks), empty if not wanted; and the values in a block.
    """
    images, height, width = maps.shape
    kernel_size, side, tile = weight.shape[-1], _side(width), _rows(maps.shape)
    channels, rows = x.shape[0], images * height
    grid = (_blocks(rows, tile), channels)
    y = torch.empty_like(x)
    partial = weight.new_empty((2, channels, grid[0]) if moments else 0, dtype=torch.float32)
    convolutions.convolve[grid](
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
        **_options(x, maps.activation),
    )
    return y, partial, tile * width


def convolves_whole_maps(u: Tensor, kernel_size: int, maps: Maps) -> bool:
    """Whether :func:`convolve_maps` is for these maps, and faster: small ones in 16 bits, and kernels not too small."""
    pixels = maps.shape[1] * maps.shape[2]
    return pixels in _MAP_SIZES and kernel_size >= _MAP_KERNEL and u.dtype != torch.float32


def convolve_maps(
    u: Tensor, layers: ActNormDepthwise, statistics: Tensor, maps: Maps, moments: bool
) -> tuple[Tensor, Tensor, int]:
    """The convolution of act_norm(u) by ``layers.first``, plus the second one's bias. Results as of :func:`convolve`.

    Each map is one row of a product with a band matrix for all positions.
    """
    first, weight, second, _ = layers
    (images, height, width), channels = maps.shape, len(u)
    pixels = height * width
    bands = u.new_empty((channels, pixels, pixels))
    convolutions.map_bands[(pixels // 16, channels)](
        weight, bands, KERNEL=weight.shape[-1], WIDTH=width, PIXELS=pixels, LINES=16
    )
    grid = (_blocks(images, _MAPS), channels)
    v, partial = torch.empty_like(u), weight.new_empty((2, channels, grid[0]) if moments else 0, dtype=torch.float32)
    convolutions.convolve_maps[grid](
        *(u, first.bias, first.gamma, first.beta, statistics, bands, second.bias),
        *(v, partial, images, channels, first.eps),
        MOMENTS=moments,
        EVEN=images % _MAPS == 0,
        PIXELS=pixels,
        DEPTH=_MAPS_DEPTH,
        MAPS=_MAPS,
        num_warps=_MAPS_WARPS,
        **_options(u, maps.activation),
    )
    return v, partial, _MAPS * pixels


def _split_taps(kernel_size: int) -> tuple[int, int]:
    """Two powers of two, or one and 0, that together are at least ``kernel_size``, and as little more as possible."""
    whole = _power_of_two(kernel_size)
    half = whole // 2
    rest = _power_of_two(kernel_size - half) if half else 0
    return (half, rest) if half and half + rest < whole else (whole, 0)


def convolve_backward(
    u: Tensor,
    d: Tensor,
    weight: Tensor,
    maps: Maps,
    add: Tensor | None = None,
    norm: ActNorm | None = None,
    statistics: Tensor | None = None,
) -> tuple[Tensor | None, Tensor, Tensor]:
    """Gradients of x, plus ``add``, and of the weight, (C, k, k) float32, for x = act_norm(u), or u without ``norm``.

    Returns:
        Both, the first None without ``norm`` and where one program cannot hold all rows of a kernel; and the partial
        sums of the first as those of :func:`reduce`.
    """
    images, height, width = maps.shape
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
    dx = torch.empty_like(u) if norm and groups == 1 else None
    dw_partial = u.new_empty((splits, *weight.shape), dtype=torch.float32)
    dx_partial = u.new_empty((2, channels, splits), dtype=torch.float32)
    parameters = (norm.bias, norm.gamma, norm.beta) if norm else (None, None, None)
    convolutions.convolve_backward[(splits, channels, groups)](
        *(u, d, weight, add, *parameters, statistics, dx, dw_partial, dx_partial),
        *(rows, channels, norm.eps if norm else 0.0),
        TILES=tiles,
        DX=dx is not None,
        HAS_ADD=add is not None,
        NORM=norm is not None,
        EVEN=rows % (tile * tiles) == 0 and width == side,
        KERNEL=kernel_size,
        HEIGHT=height,
        WIDTH=width,
        SIDE=side,
        TAPS=taps,
        REST=rest,
        ROWS=tile,
        num_warps=_PRODUCT_WARPS,
        **_options(u, maps.activation),
    )
    return dx, dw_partial.sum(0), dx_partial
