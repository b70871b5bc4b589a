"""Between images and the channel-major layout (C, N·H·W), and the 1×1 convolution on it."""

from __future__ import annotations

import torch
from torch import Tensor

from convmixer.kernels.depthwise import from_maps, to_maps

__all__ = ["from_maps", "patches", "pointwise", "to_maps"]


def patches(images: Tensor, patch_size: int) -> Tensor:
    """Images (N, C, H, W) → (C·p·p, N·H'·W'), rows in the order of a convolution's weight; incomplete patches are cut.

    H' = H // p, W' = W // p. A convolution with stride and kernel p is one matrix product with these columns.
    """
    n, channels, height, width = images.shape
    p = patch_size
    rows, columns = height // p, width // p
    whole = images[:, :, : rows * p, : columns * p].reshape(n, channels, rows, p, columns, p)
    return whole.permute(1, 3, 5, 0, 2, 4).reshape(channels * p * p, n * rows * columns)


def pointwise(weight: Tensor, x: Tensor) -> Tensor:
    """1×1 convolution without bias as one matrix product: (C', C[, 1, 1]) and (C, M) → (C', M) in x's dtype."""
    return torch.mm(weight.flatten(1).to(x.dtype), x)
