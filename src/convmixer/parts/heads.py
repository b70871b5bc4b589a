"""Heads: pooled features (N, dim) → logits (N, n_classes).

A new head is a function of (dim, n_classes) and a line in HEADS; its name is then valid in the configuration, the
command line and ``ConvMixer(head=…)``. The first line of its docstring is its description in ``convmixer models``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn


def linear(dim: int, n_classes: int) -> nn.Module:
    """The paper's classifier: one linear layer."""
    from torch import nn

    return nn.Linear(dim, n_classes)


def representation(dim: int, n_classes: int, hidden: int = 256) -> nn.Module:
    """The study's RepresentationHead: two linear layers between layer normalisations, then the classifier."""
    from torch import nn

    return nn.Sequential(
        nn.LayerNorm(dim),
        nn.Linear(dim, hidden),
        nn.GELU(),
        nn.Linear(hidden, hidden),
        nn.LayerNorm(hidden),
        nn.Linear(hidden, n_classes),
    )


def linear_classifier(dim: int, n_classes: int, dropout: float = 0.2) -> nn.Module:
    """The study's LinearClassifier: batch normalisation and dropout in front of the classifier."""
    from torch import nn

    return nn.Sequential(nn.BatchNorm1d(dim), nn.Dropout(dropout), nn.Linear(dim, n_classes))


HEADS: dict[str, Callable[[int, int], nn.Module]] = {
    "linear": linear,
    "rh": representation,
    "lc": linear_classifier,
}
