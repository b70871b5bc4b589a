"""What a random change to training images is, and what it may depend on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """What the parameters of a batch of N training images are drawn from."""

    coin: Tensor
    """(N,) bool: of each image, fair, and the same in all epochs."""
    epoch: int
    """From 0."""
    size: int
    """Side of the images in pixels."""
    generator: torch.Generator
    """On the CPU; of this batch alone."""

    def __len__(self) -> int:
        return len(self.coin)


class Stage(Protocol):
    """One kind of random change."""

    def draw(self, batch: Batch) -> Any:
        """Parameters for the images of ``batch``: a dataclass of tensors on the CPU, whose first axis is the image."""

    def apply(self, images: Tensor, draw: Any) -> Tensor:
        """Images (N, C, H, H) uint8 on any device, changed as drawn; the input stays. Does not wait for the device."""


Draw = TypeVar("Draw")


def concatenate(draws: Sequence[Draw]) -> Draw:
    """One draw for the images of several batches."""
    kind = type(draws[0])
    names = [item.name for item in fields(kind)]  # type: ignore[arg-type]
    return kind(**{name: torch.cat([getattr(draw, name) for draw in draws]) for name in names})


def uniform(shape: tuple[int, ...], low: float, high: float, generator: torch.Generator) -> Tensor:
    """Uniform numbers from ``low`` to ``high``, float64."""
    return between(torch.rand(shape, dtype=torch.float64, generator=generator), low, high)


def between(share: Tensor, low: float, high: float) -> Tensor:
    """From ``low``, where ``share`` is 0, to ``high``, where it is 1."""
    return low + (high - low) * share


def position(room: Tensor, generator: torch.Generator) -> Tensor:
    """Uniform integers from 0 to ``room``, (N,) int64, itself."""
    return uniform(tuple(room.shape), 0, 1, generator).mul(room + 1).long()
