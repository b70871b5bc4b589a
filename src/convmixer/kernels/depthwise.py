"""Depthwise convolution in plain PyTorch on channel-major tensors, in two forms that give the same numbers.

*Direct*: PyTorch's own grouped convolution. *Banded*: each channel's convolution is a product with an H·W × H·W band
matrix; all channels are one batched matrix product. That is more arithmetic, but often at a speed that PyTorch's CPU
convolutions, and above all their weight gradients, do not come near. Which is faster is measured once on a machine.

Shapes: x, g, results (C, N·H·W), any floating dtype; weight (C, k, k), k odd; shape = (N, H, W).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch import Tensor

from convmixer.kernels import measurements
from convmixer.kernels.layout import from_maps, to_maps

BANDED_PIXELS = 400  # largest image, in positions, for which the band matrices can pay
_SMALL = 1 << 11  # elements of a channel for which the choice does not matter
_MEASURED_CHANNELS = 4


def prefers_banded(operation: str, x: Tensor, kernel_size: int, shape: Sequence[int]) -> bool:
    """Whether the banded form of "convolve" or "weight_gradient" is the faster one; only asked on CPUs."""
    if x.device.type != "cpu" or shape[1] * shape[2] > BANDED_PIXELS or x.shape[1] < _SMALL:
        return False
    return _measured(operation, x.dtype, kernel_size, tuple(shape), torch.get_num_threads())


@functools.lru_cache(maxsize=256)
def _measured(operation: str, dtype: torch.dtype, kernel_size: int, shape: tuple[int, int, int], threads: int) -> bool:
    key = f"depthwise {operation} {dtype} k{kernel_size} {'x'.join(map(str, shape))} t{threads}"
    timings = measurements.recall(key)
    if timings is None:
        x = torch.ones(_MEASURED_CHANNELS, shape[0] * shape[1] * shape[2], dtype=dtype)
        weight = torch.ones(_MEASURED_CHANNELS, kernel_size, kernel_size, dtype=dtype)

        def run(banded: bool) -> None:
            if operation == "convolve":
                convolve(x, weight, shape, banded)
            else:
                convolve_weight_gradient(x, x, kernel_size, shape, banded)

        timings = measurements.interleaved({"banded": lambda: run(True), "direct": lambda: run(False)}, 3, 0.1)
        measurements.keep(key, timings)
    return timings["banded"] < timings["direct"]


def convolve(x: Tensor, weight: Tensor, shape: Sequence[int], banded: bool | None = None) -> Tensor:
    """Zero-padded cross-correlation of every channel with its kernel, as ``nn.Conv2d`` computes it, without bias."""
    if banded is None:
        banded = prefers_banded("convolve", x, weight.shape[-1], shape)
    if banded:
        images, height, width = shape
        matrices = band_matrices(weight.to(x.dtype), height, width)
        return torch.bmm(x.view(-1, images, height * width), matrices).view_as(x)
    weight = weight.to(x.dtype).unsqueeze(1)
    y = torch.nn.functional.conv2d(to_maps(x, shape), weight, padding=weight.shape[-1] // 2, groups=weight.shape[0])
    return from_maps(y)


def convolve_input_gradient(g: Tensor, weight: Tensor, shape: Sequence[int], banded: bool | None = None) -> Tensor:
    """Gradient with respect to x: the same convolution with the kernels turned by 180 degrees (k is odd)."""
    return convolve(g, weight.flip(-1, -2), shape, banded)


def convolve_weight_gradient(
    x: Tensor, g: Tensor, kernel_size: int, shape: Sequence[int], banded: bool | None = None
) -> Tensor:
    """Gradient with respect to the weight, (C, k, k), in float32 at least."""
    images, height, width = shape
    channels, pixels = x.shape[0], height * width
    dtype = torch.promote_types(x.dtype, torch.float32)
    if banded is None:
        banded = prefers_banded("weight_gradient", x, kernel_size, shape)
    if banded:
        products = torch.bmm(x.view(channels, images, pixels).transpose(1, 2), g.view(channels, images, pixels))
        entries, inside = _entries(kernel_size, height, width, x.device)
        used = products.view(channels, -1)[:, entries].to(dtype) * inside
        return used.sum(2).view(channels, kernel_size, kernel_size)
    weight = torch.empty(channels, 1, kernel_size, kernel_size, dtype=dtype, device=x.device)
    maps, gradient = to_maps(x, shape).to(dtype), to_maps(g, shape).to(dtype)
    same = [kernel_size // 2] * 2
    result: Tensor = torch.ops.aten.convolution_backward(
        gradient, maps, weight, None, [1, 1], same, [1, 1], False, [0, 0], channels, [False, True, False]
    )[1]
    return result.squeeze(1)


def band_matrices(weight: Tensor, height: int, width: int) -> Tensor:
    """(C, k, k) → (C, H·W, H·W): entry (i, o) is what input position i contributes to output position o.

    That depends only on how far apart their rows and their columns are. So with the kernel turned and zeros around it,
    the entries for one column of i are a slice of its columns, and those for one row of i a slice of its rows: pieces
    that lie together in memory, which is several times as fast as gathering entries one by one.
    """
    across, down = (side - 1 - weight.shape[-1] // 2 for side in (width, height))
    kernel = torch.nn.functional.pad(weight.flip(-1, -2), (across, across, down, down))
    columns = torch.stack([kernel[:, :, x : x + width] for x in reversed(range(width))], dim=1)
    matrices = torch.stack([columns[:, :, y : y + height] for y in reversed(range(height))], dim=1)
    return matrices.view(len(weight), height * width, height * width)


@functools.lru_cache(maxsize=8)
def _entries(kernel_size: int, height: int, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Where in a flattened band matrix the entries of a tap are, (k², H·W), one for each input position.

    The second tensor is False where a tap leads out of the image; the first then points elsewhere.
    """
    radius, positions = kernel_size // 2, torch.arange(height * width, device=device)
    offsets = torch.arange(kernel_size, device=device) - radius
    rows = positions // width - offsets.repeat_interleave(kernel_size)[:, None]
    columns = positions % width - offsets.repeat(kernel_size)[:, None]
    inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    outputs = torch.where(inside, rows * width + columns, 0)
    return positions * (height * width) + outputs, inside
