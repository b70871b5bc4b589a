"""Between images and the channel-major layout (C, N·H·W)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor


def to_maps(x: Tensor, shape: Sequence[int]) -> Tensor:
    """(C, N·H·W) → a view (N, C, H, W)."""
    return x.view(x.shape[0], *shape).transpose(0, 1)


def from_maps(maps: Tensor) -> Tensor:
    """(N, C, H, W) → (C, N·H·W), contiguous."""
    return maps.transpose(0, 1).reshape(maps.shape[1], -1).contiguous()


def patches(images: Tensor, patch_size: int) -> Tensor:
    """Images (N, C, H, W) → (C·p·p, N·H'·W'), rows in the order of a convolution's weight; incomplete patches are cut.

    H' = H // p, W' = W // p. A convolution with stride and kernel p is one matrix product with these columns.
    """
    n, channels, height, width = images.shape
    p = patch_size
    rows, columns = height // p, width // p
    whole = images[:, :, : rows * p, : columns * p].reshape(n, channels, rows, p, columns, p)
    return whole.permute(1, 3, 5, 0, 2, 4).reshape(channels * p * p, n * rows * columns)
