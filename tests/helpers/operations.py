"""Arguments of the fused operations, and how near their results have to be."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def relative(value: Tensor, expected: Tensor) -> float:
    value, expected = value.detach().double(), expected.detach().double()
    return float((value - expected).norm() / expected.norm().clamp_min(1e-12))


def assert_near(value: Tensor, expected: Tensor, what: str = "") -> None:
    """Within 1e-5 of the norm, or 1e-6 a value where these are far below 1: GELU is exact to an absolute error."""
    difference = float((value.double() - expected.double()).norm())
    assert difference < 1e-5 * float(expected.norm()) + 1e-6 * expected.numel() ** 0.5, what


def act_norm_depthwise_arguments(
    shape: tuple[int, ...], *, batch: bool, scaled: bool, activation: str = "gelu", add: bool = True, seed: int = 0
) -> list[Any]:
    """Arguments of registered.act_norm_depthwise in float64."""
    channels, images, height, width, kernel = shape
    make = torch.Generator().manual_seed(seed)

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, generator=make, dtype=torch.float64)

    vectors = [normal(channels) for _ in range(6)]
    statistics = normal(4, channels)
    statistics[1::2] = statistics[1::2].abs() + 0.5
    scale = torch.rand(images, generator=make, dtype=torch.float64) if scaled else None
    size = [images, height, width]
    head = [normal(channels, images * height * width), *vectors[:3], normal(channels, kernel, kernel), *vectors[3:]]
    return [*head, None if batch else statistics, scale, size, activation, [1e-5, 1e-3], add, True]


def cast(arguments: list[Any], dtype: torch.dtype, storage: torch.dtype | None = None) -> list[Any]:
    out = [a.to(dtype) if isinstance(a, Tensor) else a for a in arguments]
    out[0] = arguments[0].to(storage or dtype)
    return out


def gradient_arguments(arguments: list[Any], d: Tensor, result: tuple[Tensor, Tensor, Tensor]) -> list[Any]:
    u, b0, g0, e0, w, _, g1, _, statistics, scale, *settings = arguments
    return [d, u, result[1], b0, g0, e0, w, g1, result[2], scale, *settings[:4], statistics is None]
