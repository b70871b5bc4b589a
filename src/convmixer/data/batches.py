"""Seeded batches from images that live on the device."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from convmixer.data.augment import Augment
from convmixer.data.collection import DatasetInfo
from convmixer.data.datasets import Split
from convmixer.data.mixing import Mixing
from convmixer.data.operations import copy_to_device
from convmixer.data.transform import Batch, concatenate

_ORDER, _AUGMENT, _FLIP_BIT = 0, 1, 2  # streams of random numbers that never meet


def seeded(*key: int) -> torch.Generator:
    """A CPU generator whose numbers depend on all of ``key``, and on nothing that was drawn before."""
    (state,) = np.random.SeedSequence(key).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state >> np.uint64(1)))


class Normalize(nn.Module):
    """uint8 images → float32 with mean 0 and standard deviation 1 for each channel of the training set."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, info: DatasetInfo, device: torch.device, channels_last: bool = False) -> None:
        super().__init__()

        def per_channel(values: tuple[float, ...]) -> torch.Tensor:
            return torch.tensor(values, device=device).mul(255.0).view(1, -1, 1, 1)

        self.register_buffer("mean", per_channel(info.mean))
        self.register_buffer("std", per_channel(info.std))
        self.layout = torch.channels_last if channels_last else torch.contiguous_format

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) uint8 → the same shape in float32."""
        return images.float().sub_(self.mean).div_(self.std).contiguous(memory_format=self.layout)


class BatchSource(Protocol):
    """What the training loop draws its batches from."""

    def __len__(self) -> int:
        """Batches in an epoch."""

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Batches ``start_step``, ``start_step`` + 1, … of an epoch; the same arguments give the same batches.

        Yields:
            (B, C, H, W) float32 images and their targets: (B,) int64 labels or (B, K) float32 probabilities.
        """


_CPU_PIXELS, _GPU_PIXELS = 2**20, 2**23
"""Augmented at once: enough to hide the overhead of launching an operation."""


class TrainBatches:
    """The training images in a new order every epoch, augmented and normalised.

    Order and augmentation of a batch depend on (seed, epoch, step) only: a run can be resumed at any step.

    Args:
        split: Images and labels; moved to ``device``.
        batch_size: Images in a batch; a last, smaller one is left out.
        seed: Of all randomness.
        augment: Changes to the images.
        normalize: From augmented images to the model's input.
        device: Where everything happens.
        mixing: mixup or CutMix, if any.
        size_in: Side in pixels, at most the images' own, that they are scaled down to in an epoch (from 0), after all
            else; by default they keep their size.
        chunk: How many batches are prepared at once, which affects only speed; by default about 1,024 images of
            32×32 on a CPU and 8,192 elsewhere.
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
        size_in: Callable[[int], int] | None = None,
        chunk: int | None = None,
    ) -> None:
        self.images, self.labels = split.images.to(device), split.labels.to(device)
        self.batch_size = min(batch_size, len(split))
        self.seed, self.augment, self.normalize, self.device = seed, augment, normalize, device
        self.mixing, self.size_in = mixing, size_in
        pixels = self.batch_size * self.images.shape[-1] ** 2
        self.chunk = chunk or max(1, (_CPU_PIXELS if device.type == "cpu" else _GPU_PIXELS) // pixels)
        self.flip_bit = torch.randint(2, (len(split),), generator=seeded(seed, _FLIP_BIT)).bool()

    def __len__(self) -> int:
        return len(self.labels) // self.batch_size

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """As :meth:`BatchSource.epoch`; targets are probabilities if images are mixed."""
        order = torch.randperm(len(self.labels), generator=seeded(self.seed, _ORDER, epoch))
        for first in range(start_step, len(self), self.chunk):
            steps = range(first, min(first + self.chunk, len(self)))
            images, labels = self._prepare(order, epoch, steps)
            for batch, targets in zip(images.split(self.batch_size), labels.split(self.batch_size), strict=True):
                yield self._scaled(batch, epoch), targets

    def _scaled(self, images: torch.Tensor, epoch: int) -> torch.Tensor:
        full = images.shape[-1]
        size = full if self.size_in is None else self.size_in(epoch)
        if size == full:
            return images
        return F.interpolate(images, size=(size, size), mode="bilinear", antialias=True)

    def _prepare(self, order: torch.Tensor, epoch: int, steps: range) -> tuple[torch.Tensor, torch.Tensor]:
        """The images and targets of batches that follow each other."""
        members = [order[step * self.batch_size : (step + 1) * self.batch_size] for step in steps]
        batches = [
            Batch(self.flip_bit[indices], epoch, self.images.shape[-1], seeded(self.seed, _AUGMENT, epoch, step))
            for step, indices in zip(steps, members, strict=True)
        ]
        (index,) = copy_to_device([torch.cat(members)], self.device)
        params = [self.augment.sample(batch) for batch in batches]
        images = self.normalize(self.augment.apply(self.images.index_select(0, index), params))
        labels = self.labels.index_select(0, index)
        if self.mixing is None:
            return images, labels
        images, targets = self.mixing.mix(images, labels, concatenate([self.mixing.sample(batch) for batch in batches]))
        return images.contiguous(memory_format=self.normalize.layout), targets
