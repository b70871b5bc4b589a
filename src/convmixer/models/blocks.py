"""What surrounds a residual branch: the sum, and stochastic depth."""

from __future__ import annotations

import torch
from torch import nn


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
