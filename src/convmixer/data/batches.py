"""Seeded batches from images that live on the device."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from convmixer.data.augment import Augment
from convmixer.data.datasets import DatasetInfo, Split
from convmixer.data.mixing import Mixing
from convmixer.data.operations import transfer
from convmixer.data.stage import Batch, concatenate

_ORDER, _AUGMENT, _COIN = 0, 1, 2  # streams of random numbers that never meet


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


_CPU_PIXELS, _GPU_PIXELS = 2**20, 2**23
"""Of the images that are augmented at once: enough to hide what starting an operation costs."""


class TrainBatches:
    """The training images in a new order every epoch, augmented and normalised.

    Order and augmentation of a batch follow from (seed, epoch, position) alone, so a run can be continued anywhere.

    Args:
        split: Images and labels; moved to ``device``.
        batch_size: Images in a batch; a last, smaller one is left out.
        seed: Of all randomness.
        augment: Changes to the images.
        normalize: What turns them into the model's inputs.
        device: Where everything happens.
        mixing: What makes one image of two, if anything does.
        chunk: How many batches are prepared at once, for which nothing but speed depends on it; by default as
            many as have about 1,024 images of 32×32 on a CPU, and 8,192 elsewhere.
    """

    def __init__(
        self,
        split: Split,
        batch_size: int,
        seed: int,
        augment: Augment,
        normalize: Normalize,
        device: torch.device,
        mixing: Mixing | None = None,
        chunk: int | None = None,
    ) -> None:
        self.images, self.labels = split.images.to(device), split.labels.to(device)
        self.batch_size = min(batch_size, len(split))
        self.seed, self.augment, self.normalize, self.device = seed, augment, normalize, device
        self.mixing = mixing
        pixels = self.batch_size * self.images.shape[-1] ** 2
        self.chunk = chunk or max(1, (_CPU_PIXELS if device.type == "cpu" else _GPU_PIXELS) // pixels)
        self.coin = torch.randint(2, (len(split),), generator=seeded(seed, _COIN)).bool()

    def __len__(self) -> int:
        return len(self.labels) // self.batch_size

    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Batches ``start``, ``start`` + 1, … of an epoch: (B, C, H, W) float32 images and their targets.

        Targets are (B,) int64 labels or, of mixed images, (B, K) float32 probabilities.
        """
        order = torch.randperm(len(self.labels), generator=seeded(self.seed, _ORDER, epoch))
        for first in range(start, len(self), self.chunk):
            steps = range(first, min(first + self.chunk, len(self)))
            images, labels = self._prepare(order, epoch, steps)
            yield from zip(images.split(self.batch_size), labels.split(self.batch_size), strict=True)

    def _prepare(self, order: torch.Tensor, epoch: int, steps: range) -> tuple[torch.Tensor, torch.Tensor]:
        """The images and targets of batches that follow each other."""
        members = [order[step * self.batch_size : (step + 1) * self.batch_size] for step in steps]
        batches = [
            Batch(self.coin[own], epoch, self.images.shape[-1], seeded(self.seed, _AUGMENT, epoch, step))
            for step, own in zip(steps, members, strict=True)
        ]
        (index,) = transfer([torch.cat(members)], self.device)
        draws = [self.augment.draw(batch) for batch in batches]
        images = self.normalize(self.augment.apply(self.images.index_select(0, index), draws))
        labels = self.labels.index_select(0, index)
        if self.mixing is None:
            return images, labels
        images, targets = self.mixing.apply(images, labels, concatenate([self.mixing.draw(batch) for batch in batches]))
        return images.contiguous(memory_format=self.normalize.layout), targets


def in_order(split: Split, batch_size: int, normalize: Normalize, device: torch.device) -> Iterator[torch.Tensor]:
    """All images of ``split`` in their order, normalised, (B, C, H, W) float32."""
    for images in split.images.split(batch_size):
        yield normalize(images.to(device))
