"""The paper's network, written out plainly."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn


class _Residual(nn.Module):
    def __init__(self, fn: nn.Module) -> None:
        super().__init__()
        self.fn = fn

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        branch: torch.Tensor = self.fn(x)
        return x + branch


def paper_network(
    dim: int,
    depth: int,
    kernel_size: int,
    patch_size: int,
    n_classes: int,
    activation: Callable[[], nn.Module] = nn.GELU,
) -> nn.Sequential:
    """The oracle: section 2 of the paper as one nn.Sequential, in the layout of its public weights."""
    blocks = [
        nn.Sequential(
            _Residual(
                nn.Sequential(
                    nn.Conv2d(dim, dim, kernel_size, groups=dim, padding="same"), activation(), nn.BatchNorm2d(dim)
                )
            ),
            nn.Conv2d(dim, dim, 1),
            activation(),
            nn.BatchNorm2d(dim),
        )
        for _ in range(depth)
    ]
    return nn.Sequential(
        nn.Conv2d(3, dim, patch_size, patch_size),
        activation(),
        nn.BatchNorm2d(dim),
        *blocks,
        nn.AdaptiveAvgPool2d((1, 1)),
        nn.Flatten(),
        nn.Linear(dim, n_classes),
    )
