"""Residual branches: feature maps (N, dim, H', W') → the same shape.

A new branch is a function of a :class:`Block` and a line in BRANCHES; its name is then valid in the configuration, the
command line and ``ConvMixer(branch=…)``. The first line of its docstring is its description in ``convmixer models``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from torch import nn

Activation = Literal["gelu", "relu"]


@dataclass(frozen=True)
class Block:
    """The sizes of one block."""

    dim: int
    kernel_size: int
    """Side of the depthwise kernel in positions, odd."""
    bottleneck_factor: int
    """How many times narrower than ``dim`` a bottleneck is."""
    activation: Activation


def depthwise(block: Block) -> nn.Module:
    """The paper's branch: a depthwise convolution."""
    from torch import nn

    return nn.Sequential(*conv_unit(depthwise_conv(block.dim, block.kernel_size), block.activation))


def bottleneck(block: Block) -> nn.Module:
    """The study's bottleneck (BN): the depthwise convolution has fewer channels, between two 1×1 convolutions."""
    from torch import nn

    narrow = block.dim // block.bottleneck_factor
    return nn.Sequential(
        *conv_unit(nn.Conv2d(block.dim, narrow, kernel_size=1), block.activation),
        *conv_unit(depthwise_conv(narrow, block.kernel_size), block.activation),
        *conv_unit(nn.Conv2d(narrow, block.dim, kernel_size=1), block.activation),
    )


def indivisible(block: Block) -> str:
    """Says that the bottleneck factor does not divide dim; '' if it does."""
    dim, factor = block.dim, block.bottleneck_factor
    if dim % factor == 0:
        return ""
    divisors = ", ".join(str(d) for d in range(1, min(dim, 64) + 1) if dim % d == 0)
    return f"`bottleneck_factor`: {factor} does not divide `dim` {dim}; choose one of {divisors}."


class Branch(NamedTuple):
    """What builds a branch, and what finds fault with a block's sizes before anything is built."""

    build: Callable[[Block], nn.Module]
    problem: Callable[[Block], str] = lambda block: ""


BRANCHES: dict[str, Branch] = {
    "depthwise": Branch(depthwise),
    "bottleneck": Branch(bottleneck, indivisible),
}


def conv_unit(conv: nn.Conv2d, activation: Activation) -> list[nn.Module]:
    """Convolution, activation, batch normalisation, in the paper's order: the normalisation comes last."""
    from torch import nn

    return [conv, {"gelu": nn.GELU, "relu": nn.ReLU}[activation](), nn.BatchNorm2d(conv.out_channels)]


def depthwise_conv(dim: int, kernel_size: int) -> nn.Conv2d:
    """Convolution of each channel with its own kernel_size × kernel_size kernel that keeps H' and W'.

    The padding is explicit: for odd kernels it equals "same", and it exports.
    """
    from torch import nn

    return nn.Conv2d(dim, dim, kernel_size, padding=kernel_size // 2, groups=dim)
