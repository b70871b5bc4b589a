"""The operations to call, in the form that a pass needs: with the arguments of :class:`Backend`, and with gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from convmixer.kernels import dispatch, registered
from convmixer.kernels.registered import (
    ActNormArguments,
    ActNormDepthwiseArguments,
    DepthwiseArguments,
    autograd_function,
)

LONG = 4096
"""Columns from which on :func:`multiply` may use a convolution."""


class Bindings(NamedTuple):
    """The operations with the arguments and results of :class:`Backend`."""

    act_norm: Callable[..., tuple[Tensor, Tensor]]
    act_norm_depthwise: Callable[..., tuple[Tensor, Tensor | None, Tensor]]
    depthwise: Callable[..., Tensor]


def _flattened(
    act_norm: Callable[..., tuple[Tensor, Tensor]],
    act_norm_depthwise: Callable[..., tuple[Tensor, Tensor, Tensor]],
    depthwise: Callable[..., Tensor],
) -> Bindings:
    """Bindings to operations whose arguments are flat."""
    return Bindings(
        lambda *arguments: act_norm(*ActNormArguments.of(*arguments)),
        lambda *arguments: act_norm_depthwise(*ActNormDepthwiseArguments.of(*arguments)),
        depthwise,
    )


REGISTERED = _flattened(registered.act_norm, registered.act_norm_depthwise, registered.depthwise)
AUTOGRAD = _flattened(*map(autograd_function, (ActNormArguments, ActNormDepthwiseArguments, DepthwiseArguments)))
NO_GRAD = Bindings(dispatch.act_norm, dispatch.act_norm_depthwise, dispatch.depthwise)


def bindings(x: Tensor) -> Bindings:
    """The operations for a pass over ``x``: registered, at a higher cost, under a compiler or dispatch mode."""
    if torch.compiler.is_compiling() or type(x) not in (Tensor, nn.Parameter) or registered.is_observed():
        return REGISTERED
    return AUTOGRAD if torch.is_grad_enabled() else NO_GRAD


def multiply(weight: Tensor, x: Tensor) -> Tensor:
    """1×1 convolution without bias as a matrix product: (C', C) and (C, M) → (C', M), all of one dtype.

    For float32 on CPUs oneDNN's convolution is the better product: rows of (C, M) that lie 2^n apart share few sets of
    the caches, which costs the BLAS library's product up to half of its speed.
    """
    convolve = x.device.type == "cpu" and x.dtype == torch.float32 and x.shape[1] >= LONG
    if convolve and torch.backends.mkldnn.is_available():
        dispatch.note("pointwise", "convolution")
        result: Tensor = registered.pointwise(weight, x)
        return result
    dispatch.note("pointwise", "product")
    return torch.mm(weight, x)
