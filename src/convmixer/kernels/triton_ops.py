"""The Triton kernels as a :class:`Backend`; see there for shapes. For GPUs with matrix units for bfloat16.

Triton is imported at the first call.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Sequence

import torch
from torch import Tensor

from convmixer.kernels.backend import ActNorm, ActNormDepthwise, Maps, statistics_out

NAME = "triton"
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
LARGEST_KERNEL = 15
LARGEST_WIDTH = 128

interpreted = False
"""Whether tensors on a CPU go through Triton's interpreter, for tests; it has to be on when Triton is imported."""


@functools.cache
def available() -> bool:
    """Whether Triton is installed, and a GPU with matrix units for bfloat16."""
    if not torch.cuda.is_available() or torch.version.cuda is None:
        return False
    return torch.cuda.get_device_capability() >= (8, 0) and importlib.util.find_spec("triton") is not None


def covers(x: Tensor, kernel_size: int, width: int) -> bool:
    """See :meth:`Backend.covers`."""
    if not (available() if x.is_cuda else interpreted):
        return False
    return x.dtype in DTYPES and kernel_size <= LARGEST_KERNEL and width <= LARGEST_WIDTH and x.numel() > 0


def act_norm(
    u: Tensor, norm: ActNorm, statistics: Tensor | None, residual: Tensor | None, maps: Maps
) -> tuple[Tensor, Tensor]:
    """See :meth:`Backend.act_norm`."""
    from convmixer.kernels import triton_launch as launch

    used = statistics_out(u, statistics, 2)
    if statistics is None:
        launch.moments(u, norm.bias, maps.activation, used)
    return launch.act_norm(u, norm, used, maps, None if residual is None else residual.contiguous()), used


def act_norm_backward(
    d: Tensor, u: Tensor, norm: ActNorm, statistics: Tensor, of_batch: bool, maps: Maps
) -> tuple[Tensor, Tensor]:
    """See :meth:`Backend.act_norm_backward`."""
    from convmixer.kernels import triton_launch as launch

    d, gradients = d.contiguous(), norm.gamma.new_empty((3, u.shape[0]))
    sums = launch.reduce(d, u, norm, statistics, maps)
    return launch.gradient(d, u, norm, statistics, sums, of_batch, maps, gradients), gradients


def act_norm_depthwise(
    u: Tensor, layers: ActNormDepthwise, statistics: Tensor | None, maps: Maps, keep_hidden: bool
) -> tuple[Tensor, Tensor | None, Tensor]:
    """See :meth:`Backend.act_norm_depthwise`."""
    from convmixer.kernels import triton_launch as launch

    first, weight, second, add_input = layers
    used, of_batch = statistics_out(u, statistics, 4), statistics is None
    inner = maps._replace(image_scale=None)
    if of_batch:
        launch.moments(u, first.bias, maps.activation, used[:2])
    if launch.convolves_whole_maps(u, weight.shape[-1], maps):
        v, partial, block = launch.convolve_maps(u, layers, used[:2], maps, of_batch)
        residual, residual_norm = u, (first, used[:2])
    else:
        residual, residual_norm = launch.act_norm(u, first, used[:2], inner), None
        v, partial, block = launch.convolve(residual, weight, maps, bias=second.bias, moments=of_batch)
    if of_batch:
        launch.combine_moments(partial, u.shape[1], block, used[2:])
    behind = second._replace(bias=None)  # v has it
    y = launch.act_norm(v, behind, used[2:], maps, residual if add_input else None, residual_norm)
    return y, v if keep_hidden else None, used


def act_norm_depthwise_backward(
    d: Tensor, u: Tensor, hidden: Tensor, layers: ActNormDepthwise, statistics: Tensor, of_batch: bool, maps: Maps
) -> tuple[Tensor, Tensor, Tensor]:
    """See :meth:`Backend.act_norm_depthwise_backward`."""
    from convmixer.kernels import triton_launch as launch

    first, weight, second, add_input = layers
    d, gradients = d.contiguous(), first.gamma.new_empty((6, u.shape[0]))
    before, behind, inner = statistics[:2], statistics[2:], maps._replace(image_scale=None)
    sums = launch.reduce(d, hidden, second, behind, maps)
    dv = launch.gradient(d, hidden, second, behind, sums, of_batch, maps, gradients[3:])
    added = d if add_input else None
    dx, dw, sums = launch.convolve_backward(u, dv, weight, maps, added, first, before)
    if dx is None:
        dx = launch.convolve(dv, weight, maps, turn=True, add=added)[0]
        sums = launch.reduce(dx, u, first, before, inner)
    return launch.gradient(dx, u, first, before, sums, of_batch, inner, gradients[:3]), dw, gradients


def depthwise(x: Tensor, weight: Tensor, shape: Sequence[int], turn: bool) -> Tensor:
    """See :meth:`Backend.depthwise`."""
    from convmixer.kernels import triton_launch as launch

    return launch.convolve(x, weight, Maps(shape, "relu", None), turn=turn)[0]


def depthwise_weight_gradient(x: Tensor, d: Tensor, kernel_size: int, shape: Sequence[int]) -> Tensor:
    """See :meth:`Backend.depthwise_weight_gradient`."""
    from convmixer.kernels import triton_launch as launch

    weight = x.new_empty((x.shape[0], kernel_size, kernel_size), dtype=torch.float32)
    return launch.convolve_backward(x, d.contiguous(), weight, Maps(shape, "relu", None))[1]
