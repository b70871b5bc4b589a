"""The fused operations written out in plain PyTorch: what the native kernels compute, for any device and dtype.

Shapes: C channels, N images of H × W; u, v, d, residual (C, N·H·W) in the storage dtype; parameters (C,), statistics
and all results in the arithmetic dtype: float32 for bfloat16 storage, else that of the storage. shape = (N, H, W).

A stage is activation, then batch normalisation: y = γ (a - μ) / √(σ² + ε) + β with a = activation(u + bias), σ² biased;
arXiv 1502.03167. The order, activation first, is the paper's (arXiv 2201.09792).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from convmixer.kernels.depthwise import convolve, convolve_input_gradient, convolve_weight_gradient

Result = tuple[Tensor | None, int]
"""Where a result goes, and its axis of channels; None where it is not wanted."""


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


CHUNK = 1 << 19
"""Elements of a tensor worked on at once on a CPU, so that each step of an operation finds them in the cache."""


def by_channels(u: Tensor, compute: Callable[[slice], Sequence[Tensor]], results: Sequence[Result]) -> None:
    """Writes what ``compute`` returns for some channels of u to their place in ``results``.

    On a CPU some channels of about :data:`CHUNK` elements at a time; all at once on other devices.
    """
    channels = u.shape[0] if u.device.type != "cpu" else max(1, CHUNK // max(1, u.shape[1]))
    for first in range(0, u.shape[0], channels):
        count = min(channels, u.shape[0] - first)
        for part, (whole, axis) in zip(compute(slice(first, first + count)), results, strict=True):
            if whole is not None:
                whole.narrow(axis, first, count).copy_(part)


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
        The result and the (2, C) statistics: of this batch if none were given, else those.
    """
    a = activate(_preactivation(u, stage.bias), activation)
    used = batch_statistics(a) if statistics is None else statistics
    y = _scaled(_normalized(a, stage, used), image_scale, shape)
    return y if residual is None else y + residual, used


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
    return _stage_gradient(d, x, activate(x, activation), stage, statistics, of_batch, activation)


def _stage_gradient(
    d: Tensor, x: Tensor, a: Tensor, stage: Stage, statistics: Tensor, of_batch: bool, activation: str
) -> tuple[Tensor, Tensor]:
    """The gradients from the pre-activations x and the activations a."""
    mean, variance = statistics
    used = (mean, variance, mean, torch.rsqrt(variance + stage.eps))  # as running statistics, and as the batch's
    da, gamma, beta = torch.ops.aten.native_batch_norm_backward(
        d[None], a[None], stage.gamma, *used, of_batch, stage.eps, [True, True, True]
    )
    du = activation_gradient(da[0], x, activation)
    return du, torch.stack([du.sum(1), gamma, beta])


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
) -> tuple[Tensor, Tensor, Tensor]:
    """From x = first stage of u and v = depthwise(x) + bias: second stage of v times the images' factors, plus x.

    Returns:
        The result, the pre-activations v, and the (4, C) statistics of both stages.
    """
    given = (None, None) if statistics is None else (statistics[:2], statistics[2:])
    x, used = normalize(u, first, given[0], None, None, shape, activation)
    v = _preactivation(convolve(x.to(u.dtype), weight, shape), second.bias)
    behind = replace(second, bias=None)  # v has it
    y, used_behind = normalize(v, behind, given[1], x if add_input else None, image_scale, shape, activation)
    return y, v, torch.cat([used, used_behind])


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
    d = d.to(arithmetic(u))
    behind = replace(second, bias=None)  # v has it
    dv, behind_gradients = normalize_backward(d, v, behind, statistics[2:], of_batch, image_scale, shape, activation)
    dv = dv.to(u.dtype)
    before = _preactivation(u, first.bias)
    a = activate(before, activation)
    x = _normalized(a, first, statistics[:2]).to(u.dtype)
    dw = convolve_weight_gradient(x, dv, weight.shape[-1], shape)
    dx = convolve_input_gradient(dv, weight, shape).to(d.dtype)
    if add_input:
        dx = dx + d
    du, gradients = _stage_gradient(dx, before, a, first, statistics[:2], of_batch, activation)
    return du, dw, torch.cat([gradients, behind_gradients])
