"""The interface of a random change to training images, and what it may depend on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """What the random parameters of a batch of N training images may depend on."""

    flip_bit: Tensor
    """(N,) bool: one fair random bit for each image, the same in all epochs."""
    epoch: int
    """From 0."""
    size: int
    """Side of the images in pixels."""
    generator: torch.Generator
    """On the CPU, used for this batch only."""

    def __len__(self) -> int:
        return len(self.flip_bit)


class Transform(Protocol):
    """One kind of random change."""

    def sample(self, batch: Batch) -> Any:
        """Parameters for the images of ``batch``: a dataclass of tensors on the CPU, whose first axis is the image."""

    def apply(self, images: Tensor, params: Any) -> Tensor:
        """Changed copies of (N, C, H, H) uint8 images on any device. Does not wait for the device."""


Params = TypeVar("Params")


def concatenate(parts: Sequence[Params]) -> Params:
    """The parameters of several batches as those of one."""
    kind = type(parts[0])
    names = [item.name for item in fields(kind)]  # type: ignore[arg-type]
    return kind(**{name: torch.cat([getattr(part, name) for part in parts]) for name in names})


def uniform(shape: tuple[int, ...], low: float, high: float, generator: torch.Generator) -> Tensor:
    """Uniform numbers from ``low`` to ``high``, float64."""
    return between(torch.rand(shape, dtype=torch.float64, generator=generator), low, high)


def between(fraction: Tensor, low: float, high: float) -> Tensor:
    """Linear from ``low`` at fraction 0 to ``high`` at 1."""
    return low + (high - low) * fraction


def position(largest: Tensor, generator: torch.Generator) -> Tensor:
    """Uniform integers from 0 to ``largest``, (N,) int64, inclusive."""
    return uniform(tuple(largest.shape), 0, 1, generator).mul(largest + 1).long()
