"""What ConvMixers are built from: residual branches, and convolution, activation, normalisation in the paper's order.

Shapes: N images, h = hidden dimension, H' × W' positions.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

ACTIVATIONS: dict[str, type[nn.Module]] = {"gelu": nn.GELU, "relu": nn.ReLU}

BranchFactory = Callable[[int, int, type[nn.Module]], nn.Module]
"""Makes a block's residual branch, (N, h, H', W') → the same, from h, the kernel size and the activation."""


class DropPath(nn.Module):
    """Stochastic depth: drops a residual branch for a random part of the images (arXiv 1603.09382, section 3).

    What is kept is scaled by 1 / (1 - probability), so that evaluation needs no correction.
    """

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, ...) → the same shape."""
        if not self.training or self.probability == 0.0:
            return x
        keep = 1.0 - self.probability
        mask = x.new_empty((x.shape[0],) + (1,) * (x.dim() - 1)).bernoulli_(keep)
        return x * (mask / keep)

    def extra_repr(self) -> str:
        """Shown by print(model)."""
        return f"probability={self.probability:g}"


class Residual(nn.Module):
    """x + drop_path(fn(x))."""

    def __init__(self, fn: nn.Module, drop_path: float = 0.0) -> None:
        super().__init__()
        self.fn = fn
        self.drop_path = DropPath(drop_path)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, ...) → the same shape."""
        branch: torch.Tensor = self.drop_path(self.fn(x))
        return x + branch


def conv_unit(conv: nn.Conv2d, activation: type[nn.Module]) -> list[nn.Module]:
    """Convolution, activation, batch normalisation, in the paper's order: the normalisation comes last."""
    return [conv, activation(), nn.BatchNorm2d(conv.out_channels)]


def depthwise(dim: int, kernel_size: int) -> nn.Conv2d:
    """k×k convolution of every channel by itself that keeps H and W.

    The padding is explicit: for the odd kernels used here it is the same as "same", and it exports.
    """
    return nn.Conv2d(dim, dim, kernel_size, padding=kernel_size // 2, groups=dim)


def depthwise_branch(dim: int, kernel_size: int, activation: type[nn.Module]) -> nn.Module:
    """The paper's residual branch: mixes positions within each channel."""
    return nn.Sequential(*conv_unit(depthwise(dim, kernel_size), activation))
