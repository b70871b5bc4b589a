"""What a data set is, and where each one comes from."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Self

import torch


@dataclass(frozen=True)
class Split:
    """Images and labels of one part of a data set.

    images: (N, C, H, W) uint8, contiguous.  labels: (N,) int64 in [0, number of classes).
    """

    images: torch.Tensor
    labels: torch.Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, index: torch.Tensor) -> Split:
        """The images and labels at ``index``, (M,) int64, in that order."""
        return Split(self.images[index], self.labels[index])


@dataclass(frozen=True)
class DatasetInfo:
    """What a model has to know of the data it was trained on; a run directory's ``dataset.json``."""

    name: str
    """What the user asked for: digits, cifar10, cifar100, or a folder's name."""
    classes: tuple[str, ...]
    channels: int
    image_size: int
    """Side in pixels; images are square."""
    mean: tuple[float, ...]
    """Per channel, of the training images (validation part included) scaled to [0, 1]."""
    std: tuple[float, ...]
    mirror: bool
    """Whether a mirrored image keeps its label."""
    fingerprint: str
    """SHA-256 of all pixels and labels: equal for equal data, wherever it lies and however it is stored."""
    sizes: dict[str, int]
    """Images in each split: train, val, test."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as ``dataset.json`` holds them."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """The inverse of :meth:`to_dict`."""
        return cls(**{key: tuple(value) if isinstance(value, list) else value for key, value in values.items()})


@dataclass(frozen=True)
class Dataset:
    """A data set in memory: ``splits`` has train and test, and val where a part was held out."""

    info: DatasetInfo
    splits: dict[str, Split]
