"""What the fused operations are: their parameters, and the protocol that every implementation of them meets.

*act_norm* is activation, then batch normalisation (arXiv 1502.03167): γ (a - μ) / √(σ² + ε) + β with
a = activation(u + bias) and biased σ². The order, activation first, is the paper's (arXiv 2201.09792).

Shapes: C channels, N images of H × W; u, v, d, x, y, residual (C, N·H·W), contiguous, in the storage dtype; weight
(C, k, k), k odd; parameters (C,) and statistics, rows of C values, in the arithmetic dtype: float32 for 16-bit storage,
else that of the storage. Statistics are mean and biased variance of the activations, for each normalisation in turn.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor


class ActNorm(NamedTuple):
    """Parameters (C,) of activation and batch normalisation."""

    bias: Tensor | None
    """Added in front of the activation; None where the pre-activations contain it."""
    gamma: Tensor
    beta: Tensor
    eps: float

    def of(self, channels: slice) -> ActNorm:
        """The parameters of these channels alone."""
        bias = None if self.bias is None else self.bias[channels]
        return ActNorm(bias, self.gamma[channels], self.beta[channels], self.eps)


class ActNormDepthwise(NamedTuple):
    """Parameters of a depthwise convolution (C, k, k) between two normalisations; the second one's bias is its own."""

    first: ActNorm
    weight: Tensor
    second: ActNorm
    add_input: bool
    """Whether the input of the convolution is added to the result."""

    def of(self, channels: slice) -> ActNormDepthwise:
        """The parameters of these channels alone."""
        first, second = self.first.of(channels), self.second.of(channels)
        return ActNormDepthwise(first, self.weight[channels], second, self.add_input)


class Maps(NamedTuple):
    """What the operations are told about the feature maps."""

    shape: Sequence[int]
    """(N, H, W)."""
    activation: str
    """ "gelu", in its erf form, or "relu"."""
    image_scale: Tensor | None
    """(N,): a factor for each image on what the (last) normalisation returns, for stochastic depth; None for 1."""


class Backend(Protocol):
    """One implementation; the modules ``reference``, ``native`` and ``triton_ops`` are one each. No autograd."""

    NAME: str

    def covers(self, x: Tensor, kernel_size: int, width: int) -> bool:
        """Whether it can work on this tensor, with depthwise kernels of this size on maps of this width."""

    def act_norm(
        self, u: Tensor, norm: ActNorm, statistics: Tensor | None, residual: Tensor | None, maps: Maps
    ) -> tuple[Tensor, Tensor]:
        """Activation and normalisation of u, times the images' factors, plus the residual.

        Returns:
            The result y and the (2, C) statistics: of this batch if none were given, else a copy of those.
        """

    def act_norm_backward(
        self, d: Tensor, u: Tensor, norm: ActNorm, statistics: Tensor, of_batch: bool, maps: Maps
    ) -> tuple[Tensor, Tensor]:
        """Gradients of :meth:`act_norm` from d, that of y: of u, and (3, C) of bias, gamma, beta.

        ``of_batch`` says whether the statistics were the batch's own. ``norm.beta`` is not used.
        """

    def act_norm_depthwise(
        self, u: Tensor, layers: ActNormDepthwise, statistics: Tensor | None, maps: Maps, keep_hidden: bool
    ) -> tuple[Tensor, Tensor | None, Tensor]:
        """Normalisation, depthwise convolution, normalisation, without a look at other channels.

        x is what ``first`` makes of u, and v = depthwise(x) + bias. The result is what ``second`` makes of v, times the
        images' factors, plus x if ``add_input``.

        Returns:
            The result; v, which the gradients need, if ``keep_hidden``; and the (4, C) statistics.
        """

    def act_norm_depthwise_backward(
        self,
        d: Tensor,
        u: Tensor,
        hidden: Tensor,
        layers: ActNormDepthwise,
        statistics: Tensor,
        of_batch: bool,
        maps: Maps,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients: of u, of the weight, and (6, C) of bias, gamma, beta of both normalisations.

        ``hidden`` is v; ``second`` has no bias, as v contains it, and its beta is not used.
        """

    def depthwise(self, x: Tensor, weight: Tensor, shape: Sequence[int], turn: bool) -> Tensor:
        """Depthwise convolution without bias; ``turn`` turns the kernels by 180 degrees: the input gradient."""

    def depthwise_weight_gradient(self, x: Tensor, d: Tensor, kernel_size: int, shape: Sequence[int]) -> Tensor:
        """Gradient (C, k, k) of the depthwise convolution's weight, in the arithmetic dtype."""


def arithmetic_dtype(u: Tensor) -> torch.dtype:
    """The dtype to compute in for a storage dtype."""
    return torch.promote_types(u.dtype, torch.float32)


def statistics_out(u: Tensor, statistics: Tensor | None, rows: int) -> Tensor:
    """The statistics that an operation returns: a copy of those given, or room for the batch's own."""
    return u.new_empty((rows, u.shape[0]), dtype=arithmetic_dtype(u)) if statistics is None else statistics.clone()
