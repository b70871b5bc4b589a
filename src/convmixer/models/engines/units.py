"""Reading a network as units: a convolution, its activation and its normalisation.

A unit's convolution is one that the engine computes channel-major. Its activation and normalisation are fused where
they are GELU or ReLU and batch normalisation, and run as the modules they are otherwise.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple, Protocol, cast

from torch import nn


class Network(Protocol):
    """What the engines execute: a network up to its pooled features."""

    @property
    def stem(self) -> nn.Module:
        """Images (N, C, H, W) → feature maps (N, h, H', W')."""

    @property
    def blocks(self) -> nn.Sequential:
        """Feature maps → feature maps of the same shape."""

    @property
    def pooling(self) -> nn.Module:
        """Feature maps → (N, h)."""

    @property
    def training(self) -> bool:
        """As of any module."""


class Unit(NamedTuple):
    """Convolution with bias, activation, normalisation; the last two by any modules unless ``is_fused``."""

    conv: nn.Conv2d
    activation: nn.Module
    norm: nn.Module
    activation_name: str | None
    """The name that the fused operations know the activation by, "gelu" or "relu"; None for any other."""

    @property
    def is_pointwise(self) -> bool:
        """A 1×1 convolution over all channels."""
        conv = self.conv
        return conv.groups == 1 and conv.kernel_size == conv.stride == (1, 1) and conv.padding == (0, 0)

    @property
    def is_depthwise(self) -> bool:
        """A depthwise convolution that keeps the size."""
        conv = self.conv
        side = conv.kernel_size[0]
        own = conv.groups == conv.in_channels == conv.out_channels
        square = conv.kernel_size == (side, side) and side % 2 == 1 and conv.padding == (side // 2, side // 2)
        return own and square and conv.stride == (1, 1)

    @property
    def is_patches(self) -> bool:
        """A convolution of separate square patches."""
        conv, side = self.conv, self.conv.kernel_size[0]
        return conv.groups == 1 and conv.kernel_size == conv.stride == (side, side) and conv.padding == (0, 0)

    @property
    def batch_norm(self) -> nn.BatchNorm2d | None:
        """The normalisation if it is plain batch normalisation at the moment.

        ``SyncBatchNorm`` is that in evaluation; in training it exchanges statistics and has to run itself.
        """
        norm = self.norm
        if type(norm) is nn.BatchNorm2d:
            return norm if norm.affine else None
        plain = type(norm) is nn.SyncBatchNorm and not norm.training and norm.running_mean is not None
        return cast(nn.BatchNorm2d, norm) if plain and norm.affine else None

    @property
    def is_fused(self) -> bool:
        """Whether activation and normalisation are one fused operation."""
        return self.activation_name is not None and self.batch_norm is not None


def as_unit(modules: Iterable[nn.Module]) -> Unit | None:
    """The unit that these modules are, None if they are something else."""
    parts = list(modules)
    if len(parts) != 3 or type(parts[0]) is not nn.Conv2d:
        return None
    conv, activation, norm = parts[0], parts[1], parts[2]
    known = conv.bias is not None and conv.dilation == (1, 1) and conv.padding_mode == "zeros"
    return Unit(conv, activation, norm, _name(activation)) if known else None


def as_units(module: nn.Module) -> list[Unit]:
    """The units that a branch consists of, each pointwise or depthwise; empty if it is something else."""
    parts = list(module) if type(module) is nn.Sequential else []
    units = [as_unit(parts[i : i + 3]) for i in range(0, len(parts), 3)]
    known = [unit for unit in units if unit is not None and (unit.is_pointwise or unit.is_depthwise)]
    return known if len(known) == len(units) else []


def _name(activation: nn.Module) -> str | None:
    if type(activation) is nn.ReLU:
        return "relu"
    return "gelu" if type(activation) is nn.GELU and activation.approximate == "none" else None
