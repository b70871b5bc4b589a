"""Seeded batches from images that live on the device."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from convmixer.data.augment import Augment
from convmixer.data.datasets import DatasetInfo, Split

_ORDER, _AUGMENT = 0, 1  # streams of random numbers that never meet


def seeded(*key: int) -> torch.Generator:
    """A CPU generator whose numbers depend on all of ``key``, and on nothing that was drawn before."""
    (state,) = np.random.SeedSequence(key).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state >> np.uint64(1)))


class Normalize:
    """uint8 images → float32 with mean 0 and standard deviation 1 for each channel of the training set."""

    def __init__(self, info: DatasetInfo, device: torch.device, channels_last: bool = False) -> None:
        def per_channel(values: tuple[float, ...]) -> torch.Tensor:
            return torch.tensor(values, device=device).mul(255.0).view(1, -1, 1, 1)

        self.mean, self.std = per_channel(info.mean), per_channel(info.std)
        self.layout = torch.channels_last if channels_last else torch.contiguous_format

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) uint8 → the same shape in float32."""
        return images.float().sub_(self.mean).div_(self.std).contiguous(memory_format=self.layout)


class TrainBatches:
    """The training images in a new order every epoch, augmented and normalised.

    Order and augmentation of a batch follow from (seed, epoch, position) alone, so a run can be continued anywhere.
    """

    def __init__(
        self, split: Split, batch_size: int, seed: int, augment: Augment, normalize: Normalize, device: torch.device
    ) -> None:
        self.images, self.labels = split.images.to(device), split.labels.to(device)
        self.batch_size = min(batch_size, len(split))
        self.seed, self.augment, self.normalize, self.device = seed, augment, normalize, device

    def __len__(self) -> int:
        return len(self.labels) // self.batch_size

    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Batches ``start``, ``start`` + 1, … of an epoch: (B, C, H, W) float32 images and (B,) int64 labels."""
        order = torch.randperm(len(self.labels), generator=seeded(self.seed, _ORDER, epoch)).to(self.device)
        for step in range(start, len(self)):
            index = order[step * self.batch_size : (step + 1) * self.batch_size]
            images = self.augment(self.images[index], seeded(self.seed, _AUGMENT, epoch, step))
            yield self.normalize(images), self.labels[index]


def in_order(split: Split, batch_size: int, normalize: Normalize, device: torch.device) -> Iterator[torch.Tensor]:
    """All images of ``split`` in their order, normalised, (B, C, H, W) float32."""
    for images in split.images.split(batch_size):
        yield normalize(images.to(device))
