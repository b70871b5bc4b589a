"""The fused operations written out in plain PyTorch: what the native kernels compute, for any device and dtype.

Shapes: C channels, N images of H × W; u, d, results (C, N·H·W) in the storage dtype; parameters (C,) and statistics in
the arithmetic dtype: float32 for bfloat16 storage, else that of the storage. shape = (N, H, W).

A stage is activation, then batch normalisation: y = γ (a - μ) / √(σ² + ε) + β with a = activation(u + bias), σ² biased;
arXiv 1502.03167. The order, activation first, is the paper's (arXiv 2201.09792).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from convmixer.kernels.depthwise import convolve, convolve_input_gradient, convolve_weight_gradient

Results = TypeVar("Results", bound=tuple[Tensor, ...])


@dataclass(frozen=True)
class Stage:
    """Parameters of one stage, each (C,); ``eps`` as in ``nn.BatchNorm2d``."""

    bias: Tensor | None
    gamma: Tensor
    beta: Tensor
    eps: float

    def of(self, channels: slice) -> Stage:
        """The stage of these channels alone."""
        return Stage(
            None if self.bias is None else self.bias[channels], self.gamma[channels], self.beta[channels], self.eps
        )


CHUNK = 1 << 18
"""Elements of a tensor worked on at once on a CPU, so that each step of an operation finds them in the cache."""


def by_channels(u: Tensor, axes: Sequence[int], compute: Callable[[slice], Results]) -> Results:
    """The results of ``compute`` for the channels of u, each put together along its axis of ``axes``.

    On a CPU some channels of about :data:`CHUNK` elements at a time; all at once on other devices.
    """
    channels = u.shape[0] if u.device.type != "cpu" else max(1, CHUNK // max(1, u.shape[1]))
    if channels >= u.shape[0]:
        return compute(slice(0, u.shape[0]))
    whole: list[Tensor] = []
    for first in range(0, u.shape[0], channels):
        parts = compute(slice(first, first + channels))
        if not whole:
            sizes = [list(part.shape) for part in parts]
            for size, axis in zip(sizes, axes, strict=True):
                size[axis] = u.shape[0] if size[axis] else 0
            whole = [part.new_empty(size) for part, size in zip(parts, sizes, strict=True)]
        for result, part, axis in zip(whole, parts, axes, strict=True):
            result.narrow(axis, min(first, result.shape[axis]), part.shape[axis]).copy_(part)
    return cast(Results, tuple(whole))


def activate(x: Tensor, activation: str) -> Tensor:
    """GELU in its erf form, or ReLU."""
    return F.gelu(x) if activation == "gelu" else F.relu(x)


def activation_gradient(g: Tensor, x: Tensor, activation: str) -> Tensor:
    """The product g · activation'(x)."""
    if activation == "gelu":
        return torch.ops.aten.gelu_backward(g, x)  # type: ignore[no-any-return]
    return torch.ops.aten.threshold_backward(g, x, 0)  # type: ignore[no-any-return]


def arithmetic(u: Tensor) -> torch.dtype:
    """The dtype to compute in for a storage dtype."""
    return torch.promote_types(u.dtype, torch.float32)


def batch_statistics(a: Tensor) -> Tensor:
    """(2, C): mean and biased variance of each row."""
    mean = a.mean(1)
    return torch.stack([mean, torch.linalg.vector_norm(a - mean[:, None], dim=1).square() / a.shape[1]])


def _scaled(y: Tensor, image_scale: Tensor | None, shape: Sequence[int]) -> Tensor:
    if image_scale is None:
        return y
    return (y.view(y.shape[0], shape[0], -1) * image_scale.to(y.dtype)[:, None]).view_as(y)


def _preactivation(u: Tensor, bias: Tensor | None) -> Tensor:
    u = u.to(arithmetic(u))
    return u if bias is None else u + bias[:, None]


def _normalized(a: Tensor, stage: Stage, statistics: Tensor) -> Tensor:
    return F.batch_norm(a[None], statistics[0], statistics[1], stage.gamma, stage.beta, eps=stage.eps)[0]


def normalize(
    u: Tensor,
    stage: Stage,
    statistics: Tensor | None,
    residual: Tensor | None,
    image_scale: Tensor | None,
    shape: Sequence[int],
    activation: str,
) -> tuple[Tensor, Tensor]:
    """One stage, times the factor of each image, plus the residual.

    Returns:
        The result and the (2, C) statistics: of this batch if none were given, else a copy of those.
    """
    a = activate(_preactivation(u, stage.bias), activation)
    used = batch_statistics(a) if statistics is None else statistics.clone()
    y = _scaled(_normalized(a, stage, used), image_scale, shape)
    return (y if residual is None else y + residual).to(u.dtype), used


def normalize_backward(
    d: Tensor,
    u: Tensor,
    stage: Stage,
    statistics: Tensor,
    of_batch: bool,
    image_scale: Tensor | None,
    shape: Sequence[int],
    activation: str,
) -> tuple[Tensor, Tensor]:
    """Gradients of :func:`normalize`: of u, and (3, C) of bias, gamma, beta. The residual's gradient is d itself."""
    d = _scaled(d.to(arithmetic(u)), image_scale, shape)
    x = _preactivation(u, stage.bias)
    mean, variance = statistics
    used = (mean, variance, mean, torch.rsqrt(variance + stage.eps))  # as running statistics, and as the batch's
    da, gamma, beta = torch.ops.aten.native_batch_norm_backward(
        d[None], activate(x, activation)[None], stage.gamma, *used, of_batch, stage.eps, [True, True, True]
    )
    du = activation_gradient(da[0], x, activation)
    return du.to(u.dtype), torch.stack([du.sum(1), gamma, beta])


def mix(
    u: Tensor,
    first: Stage,
    weight: Tensor,
    second: Stage,
    statistics: Tensor | None,
    image_scale: Tensor | None,
    shape: Sequence[int],
    activation: str,
    add_input: bool,
    keep_hidden: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """From x = first stage of u and v = depthwise(x) + bias: second stage of v times the images' factors, plus x.

    Returns:
        The result, the pre-activations v (empty without ``keep_hidden``), and the (4, C) statistics of both stages.
    """
    given = (None, None) if statistics is None else (statistics[:2], statistics[2:])
    x, used = normalize(u, first, given[0], None, None, shape, activation)
    v = _preactivation(convolve(x, weight, shape), second.bias).to(u.dtype)
    behind = Stage(None, second.gamma, second.beta, second.eps)
    y, used_behind = normalize(v, behind, given[1], x if add_input else None, image_scale, shape, activation)
    return y, v if keep_hidden else v.new_empty(0), torch.cat([used, used_behind])


def mix_backward(
    d: Tensor,
    u: Tensor,
    v: Tensor,
    first: Stage,
    weight: Tensor,
    second: Stage,
    statistics: Tensor,
    of_batch: bool,
    image_scale: Tensor | None,
    shape: Sequence[int],
    activation: str,
    add_input: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of :func:`mix`: of u, of the weight, and (6, C) of bias, gamma, beta of both stages."""
    behind = Stage(None, second.gamma, second.beta, second.eps)
    dv, behind_gradients = normalize_backward(d, v, behind, statistics[2:], of_batch, image_scale, shape, activation)
    x = normalize(u, first, statistics[:2], None, None, shape, activation)[0]
    dx = convolve_input_gradient(dv, weight, shape)
    if add_input:
        dx = dx + d
    dw = convolve_weight_gradient(x, dv, weight.shape[-1], shape).to(weight.dtype)
    du, gradients = normalize_backward(dx, u, first, statistics[:2], of_batch, None, shape, activation)
    return du, dw, torch.cat([gradients, behind_gradients])
