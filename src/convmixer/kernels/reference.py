"""The fused operations written out in plain PyTorch: what the other implementations compute, for any device and dtype.

A :class:`Backend`; see there for shapes. On a CPU the operations work on a few channels at a time, whose intermediate
results stay in the cache.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from convmixer.kernels.backend import ActNorm, ActNormDepthwise, Maps, arithmetic_dtype, statistics_out
from convmixer.kernels.depthwise import convolve, convolve_input_gradient, convolve_weight_gradient

NAME = "reference"

CHUNK = 1 << 19
"""Elements of a tensor worked on at once on a CPU."""

Result = tuple[Tensor | None, int]
"""Where a result goes, and its axis of channels; None where it is not wanted."""


def covers(x: Tensor, kernel_size: int, width: int) -> bool:
    """Always."""
    return True


def act_norm(
    u: Tensor, norm: ActNorm, statistics: Tensor | None, residual: Tensor | None, maps: Maps
) -> tuple[Tensor, Tensor]:
    """See :meth:`Backend.act_norm`."""
    out, used = torch.empty_like(u), statistics_out(u, statistics, 2)

    def compute(c: slice) -> Sequence[Tensor]:
        return _act_norm(u[c], norm.of(c), _columns(statistics, c), None if residual is None else residual[c], maps)

    _by_channels(u, compute, [(out, 0), (used, 1)])
    return out, used


def act_norm_backward(
    d: Tensor, u: Tensor, norm: ActNorm, statistics: Tensor, of_batch: bool, maps: Maps
) -> tuple[Tensor, Tensor]:
    """See :meth:`Backend.act_norm_backward`."""
    du, gradients = torch.empty_like(u), norm.gamma.new_empty((3, u.shape[0]))

    def compute(c: slice) -> Sequence[Tensor]:
        return _act_norm_backward(d[c], u[c], norm.of(c), statistics[:, c], of_batch, maps)

    _by_channels(u, compute, [(du, 0), (gradients, 1)])
    return du, gradients


def act_norm_depthwise(
    u: Tensor, layers: ActNormDepthwise, statistics: Tensor | None, maps: Maps, keep_hidden: bool
) -> tuple[Tensor, Tensor | None, Tensor]:
    """See :meth:`Backend.act_norm_depthwise`."""
    out, used = torch.empty_like(u), statistics_out(u, statistics, 4)
    hidden = torch.empty_like(u) if keep_hidden else None
    inner = maps._replace(image_scale=None)

    def compute(c: slice) -> Sequence[Tensor]:
        first, weight, second, add_input = layers.of(c)
        given = _columns(statistics, c)
        before, behind = (None, None) if given is None else (given[:2], given[2:])
        x, used_before = _act_norm(u[c], first, before, None, inner)
        v = _preactivation(convolve(x.to(u.dtype), weight, maps.shape), second.bias)
        y, used_behind = _act_norm(v, second._replace(bias=None), behind, x if add_input else None, maps)
        return y, v, torch.cat([used_before, used_behind])

    _by_channels(u, compute, [(out, 0), (hidden, 0), (used, 1)])
    return out, hidden, used


def act_norm_depthwise_backward(
    d: Tensor, u: Tensor, hidden: Tensor, layers: ActNormDepthwise, statistics: Tensor, of_batch: bool, maps: Maps
) -> tuple[Tensor, Tensor, Tensor]:
    """See :meth:`Backend.act_norm_depthwise_backward`."""
    du, dw = torch.empty_like(u), torch.empty_like(layers.weight)
    gradients = layers.first.gamma.new_empty((6, u.shape[0]))

    def compute(c: slice) -> Sequence[Tensor]:
        first, weight, second, add_input = layers.of(c)
        used, dy = statistics[:, c], d[c].to(arithmetic_dtype(u))
        dv, behind = _act_norm_backward(dy, hidden[c], second, used[2:], of_batch, maps)
        dv = dv.to(u.dtype)
        v = _preactivation(u[c], first.bias)
        a = _activate(v, maps.activation)
        x = _normalized(a, first, used[:2]).to(u.dtype)
        own_dw = convolve_weight_gradient(x, dv, weight.shape[-1], maps.shape)
        dx = convolve_input_gradient(dv, weight, maps.shape).to(dy.dtype)
        if add_input:
            dx = dx + dy
        own_du, before = _gradient(dx, v, a, first, used[:2], of_batch, maps.activation)
        return own_du, own_dw, torch.cat([before, behind])

    _by_channels(u, compute, [(du, 0), (dw, 0), (gradients, 1)])
    return du, dw, gradients


def depthwise(x: Tensor, weight: Tensor, shape: Sequence[int], turn: bool) -> Tensor:
    """See :meth:`Backend.depthwise`."""
    return convolve_input_gradient(x, weight, shape) if turn else convolve(x, weight, shape)


def depthwise_weight_gradient(x: Tensor, d: Tensor, kernel_size: int, shape: Sequence[int]) -> Tensor:
    """See :meth:`Backend.depthwise_weight_gradient`."""
    return convolve_weight_gradient(x, d, kernel_size, shape)


def _by_channels(u: Tensor, compute: Callable[[slice], Sequence[Tensor]], results: Sequence[Result]) -> None:
    """Writes what ``compute`` returns for some channels of u to their place in ``results``.

    On a CPU some channels of about :data:`CHUNK` elements at a time; all at once on other devices.
    """
    channels = u.shape[0] if u.device.type != "cpu" else max(1, CHUNK // max(1, u.shape[1]))
    for first in range(0, u.shape[0], channels):
        count = min(channels, u.shape[0] - first)
        for part, (whole, axis) in zip(compute(slice(first, first + count)), results, strict=True):
            if whole is not None:
                whole.narrow(axis, first, count).copy_(part)


def _columns(statistics: Tensor | None, channels: slice) -> Tensor | None:
    return None if statistics is None else statistics[:, channels]


def _act_norm(
    u: Tensor, norm: ActNorm, statistics: Tensor | None, residual: Tensor | None, maps: Maps
) -> tuple[Tensor, Tensor]:
    a = _activate(_preactivation(u, norm.bias), maps.activation)
    used = _batch_statistics(a) if statistics is None else statistics
    y = _scaled(_normalized(a, norm, used), maps)
    return y if residual is None else y + residual, used


def _act_norm_backward(
    d: Tensor, u: Tensor, norm: ActNorm, statistics: Tensor, of_batch: bool, maps: Maps
) -> tuple[Tensor, Tensor]:
    v = _preactivation(u, norm.bias)
    d = _scaled(d.to(v.dtype), maps)
    return _gradient(d, v, _activate(v, maps.activation), norm, statistics, of_batch, maps.activation)


def _gradient(
    d: Tensor, v: Tensor, a: Tensor, norm: ActNorm, statistics: Tensor, of_batch: bool, activation: str
) -> tuple[Tensor, Tensor]:
    """The gradients from the pre-activations v and the activations a."""
    mean, variance = statistics
    used = (mean, variance, mean, torch.rsqrt(variance + norm.eps))  # as running statistics, and as the batch's
    da, gamma, beta = torch.ops.aten.native_batch_norm_backward(
        d[None], a[None], norm.gamma, *used, of_batch, norm.eps, [True, True, True]
    )
    du = _activation_gradient(da[0], v, activation)
    return du, torch.stack([du.sum(1), gamma, beta])


def _activate(v: Tensor, activation: str) -> Tensor:
    return F.gelu(v) if activation == "gelu" else F.relu(v)


def _activation_gradient(g: Tensor, v: Tensor, activation: str) -> Tensor:
    """The product g · activation'(v)."""
    if activation == "gelu":
        return torch.ops.aten.gelu_backward(g, v)  # type: ignore[no-any-return]
    return torch.ops.aten.threshold_backward(g, v, 0)  # type: ignore[no-any-return]


def _batch_statistics(a: Tensor) -> Tensor:
    """(2, C): mean and biased variance of each row."""
    mean = a.mean(1)
    return torch.stack([mean, torch.linalg.vector_norm(a - mean[:, None], dim=1).square() / a.shape[1]])


def _scaled(y: Tensor, maps: Maps) -> Tensor:
    if maps.image_scale is None:
        return y
    return (y.view(y.shape[0], maps.shape[0], -1) * maps.image_scale.to(y.dtype)[:, None]).view_as(y)


def _preactivation(u: Tensor, bias: Tensor | None) -> Tensor:
    u = u.to(arithmetic_dtype(u))
    return u if bias is None else u + bias[:, None]


def _normalized(a: Tensor, norm: ActNorm, statistics: Tensor) -> Tensor:
    return F.batch_norm(a[None], statistics[0], statistics[1], norm.gamma, norm.beta, eps=norm.eps)[0]
