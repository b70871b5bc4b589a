"""Between images and the channel-major layout (C, N·H·W)."""

from __future__ import annotations

from torch import Tensor

from convmixer.kernels.depthwise import from_maps, to_maps

__all__ = ["from_maps", "patches", "to_maps"]


def patches(images: Tensor, patch_size: int) -> Tensor:
    """Images (N, C, H, W) → (C·p·p, N·H'·W'), rows in the order of a convolution's weight; incomplete patches are cut.

    H' = H // p, W' = W // p. A convolution with stride and kernel p is one matrix product with these columns.
    """
    n, channels, height, width = images.shape
    p = patch_size
    rows, columns = height // p, width // p
    whole = images[:, :, : rows * p, : columns * p].reshape(n, channels, rows, p, columns, p)
    return whole.permute(1, 3, 5, 0, 2, 4).reshape(channels * p * p, n * rows * columns)
