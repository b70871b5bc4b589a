"""ConvMixer: patch embedding, blocks of depthwise and pointwise convolutions, pooling, classifier.

Trockman and Kolter, "Patches Are All You Need?", arXiv 2201.09792, section 2. Submodules are named as in timm
(``stem``, ``blocks``, ``head``), so that its weights load as they are.

Shapes: N images, C channels, H × W pixels; p = patch size, h = hidden dimension; H' = H // p, W' = W // p.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import nn

from convmixer.config import Activation, Engine
from convmixer.errors import InputError, nearest
from convmixer.models import engine as fast
from convmixer.models.classifiers import HeadFactory, linear_head

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


class ConvMixer(nn.Module):
    """The paper's network; ``head`` and ``branch`` are the two parts that the study's variants exchange.

    Args:
        dim: hidden dimension h.
        depth: number of blocks.
        kernel_size: side of the depthwise kernels in positions; odd.
        patch_size: side of the patches in pixels. Pixels beyond the last whole patch are not seen.
        n_classes: outputs; 0 for none (the pooled features are returned).
        in_channels: C of the images.
        activation: "gelu" (the paper) or "relu".
        dropout: probability in front of the head.
        drop_path: stochastic depth; the drop probability rises linearly from 0 in the first block to this in the last.
        head: makes the classifier from (dim, n_classes).
        branch: makes a block's residual branch from (dim, kernel_size, activation class).
        engine: see :meth:`set_engine`.

    Raises:
        InputError: even kernel size, sizes below 1, or an unknown activation.
    """

    def __init__(
        self,
        dim: int,
        depth: int,
        kernel_size: int = 5,
        patch_size: int = 2,
        n_classes: int = 10,
        *,
        in_channels: int = 3,
        activation: Activation = "gelu",
        dropout: float = 0.0,
        drop_path: float = 0.0,
        head: HeadFactory = linear_head,
        branch: BranchFactory = depthwise_branch,
        engine: Engine = "auto",
    ) -> None:
        super().__init__()
        sizes = {"dim": dim, "depth": depth, "kernel_size": kernel_size, "patch_size": patch_size}
        for name, value in {**sizes, "in_channels": in_channels}.items():
            if value < 1:
                raise InputError(f"{name} is {value}; give at least 1.")
        if kernel_size % 2 == 0:
            raise InputError(f"kernel_size is {kernel_size}; only an odd kernel has a centre, give an odd number.")
        if activation not in ACTIVATIONS:
            raise InputError(f"activation {activation!r} is unknown; {nearest(activation, ACTIVATIONS)}")
        act = ACTIVATIONS[activation]
        self.num_features = dim
        self.patch_size = patch_size
        self._make_head = head
        self._constants: fast.Constants | None = None
        # Of engine "auto": a compiled model runs as its last eager pass did.
        self.last_choice: Literal["plain", "fast"] = "plain"
