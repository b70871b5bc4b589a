"""The plain engine: the network's own modules, one after the other."""

from __future__ import annotations

from torch import Tensor

from convmixer.models.engines.units import Network


def feature_maps(network: Network, x: Tensor) -> Tensor:
    """Images (N, C, H, W) → feature maps (N, h, H', W')."""
    maps: Tensor = network.blocks(network.stem(x))
    return maps


def pooled(network: Network, x: Tensor) -> Tensor:
    """Images (N, C, H, W) → pooled features (N, h)."""
    features: Tensor = network.pooling(feature_maps(network, x))
    return features
