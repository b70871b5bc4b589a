"""Heads: pooled features (N, dim) → logits (N, n_classes).

A head is made by a function of (dim, n_classes), so that a network can make a new one for other classes.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

HeadFactory = Callable[[int, int], nn.Module]


def linear_head(dim: int, n_classes: int) -> nn.Module:
    """The paper's classifier: one linear layer."""
    return nn.Linear(dim, n_classes)


def representation_head(dim: int, n_classes: int, hidden: int = 256) -> nn.Module:
    """The study's RepresentationHead: two linear layers between layer normalisations, then the classifier."""
    return nn.Sequential(
        nn.LayerNorm(dim),
        nn.Linear(dim, hidden),
        nn.GELU(),
        nn.Linear(hidden, hidden),
        nn.LayerNorm(hidden),
        nn.Linear(hidden, n_classes),
    )


def linear_classifier_head(dim: int, n_classes: int, dropout: float = 0.2) -> nn.Module:
    """The study's LinearClassifier: batch normalisation and dropout in front of the classifier."""
    return nn.Sequential(nn.BatchNorm1d(dim), nn.Dropout(dropout), nn.Linear(dim, n_classes))
