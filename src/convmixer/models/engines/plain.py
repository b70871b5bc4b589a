"""The plain engine: the network's own modules, one after the other."""

from __future__ import annotations

from torch import Tensor

from convmixer.models.engines.recompute import recomputed
from convmixer.models.engines.units import Network


def feature_maps(network: Network, x: Tensor, recompute: bool = False) -> Tensor:
    """Images (N, C, H, W) → feature maps (N, h, H', W'); with ``recompute`` the backward pass runs blocks again."""
    maps: Tensor = network.stem(x)
    if not recompute:
        return network.blocks(maps)  # type: ignore[no-any-return]
    for block in network.blocks:
        maps = recomputed(block, maps, block)
    return maps


def pooled(network: Network, x: Tensor, recompute: bool = False) -> Tensor:
    """Images (N, C, H, W) → pooled features (N, h)."""
    features: Tensor = network.pooling(feature_maps(network, x, recompute))
    return features
