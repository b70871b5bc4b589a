"""Reading a network as units: a convolution, its activation and its normalisation.

A unit's convolution is one that the engine computes channel-major. Its activation and normalisation are fused where
they are GELU or ReLU and batch normalisation, and run as the modules they are otherwise.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol, cast

from torch import nn


class Network(Protocol):
    """What the engines execute; a head that follows the pooled features is not their business."""

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


@dataclass(frozen=True)
class Unit:
    """Convolution with bias, activation, normalisation; the last two by any modules unless ``is_fused``."""

    conv: nn.Conv2d
    activation: nn.Module
    norm: nn.Module

    @property
    def is_pointwise(self) -> bool:
        """A 1×1 convolution over all channels."""
        conv = self.conv
        return conv.groups == 1 and conv.kernel_size == conv.stride == (1, 1) and conv.padding == (0, 0)

    @property
    def is_depthwise(self) -> bool:
        """A convolution of each channel with itself that keeps the size."""
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
    def activation_name(self) -> str | None:
        """The name that the fused operations know it by, "gelu" or "relu"; None for any other."""
        if type(self.activation) is nn.ReLU:
            return "relu"
        return "gelu" if type(self.activation) is nn.GELU and self.activation.approximate == "none" else None

    @property
    def batch_norm(self) -> nn.BatchNorm2d | None:
        """The normalisation if it is plain batch normalisation at the moment.

        ``SyncBatchNorm`` is that in evaluation; in training it exchanges statistics and has to run itself.
        """
        norm = self.norm
        plain = type(norm) is nn.BatchNorm2d
        if type(norm) is nn.SyncBatchNorm:
            plain = not norm.training and norm.running_mean is not None
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
    conv = parts[0]
    known = conv.bias is not None and conv.dilation == (1, 1) and conv.padding_mode == "zeros"
    return Unit(conv, parts[1], parts[2]) if known else None


def as_units(module: nn.Module) -> list[Unit]:
    """The units that a branch consists of, each pointwise or depthwise; empty if it is something else."""
    parts = list(module) if type(module) is nn.Sequential else []
    units = [as_unit(parts[i : i + 3]) for i in range(0, len(parts), 3)]
    known = [unit for unit in units if unit is not None and (unit.is_pointwise or unit.is_depthwise)]
    return known if len(known) == len(units) else []
