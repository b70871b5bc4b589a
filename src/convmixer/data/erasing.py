"""Rectangles of training images that are hidden."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from convmixer.data.operations import apply_groups, fill
from convmixer.data.transform import Batch, between


@dataclass(frozen=True)
class Rectangles:
    """A rectangle in each image, empty if nothing is erased: (N,) int64 each."""

    top: Tensor
    left: Tensor
    height: Tensor
    width: Tensor


@dataclass(frozen=True)
class ErasingParams:
    """Random numbers that the rectangles of N images are computed from, for several batches at once to save time."""

    numbers: Tensor
    """(N, 3 + 2 · tries) float64, uniform from 0 to 1: whether to erase, row, column, areas and ratios of all tries."""


@dataclass(frozen=True)
class RandomErasing:
    """With ``probability``, a random rectangle becomes ``colour``, one level for each channel (arXiv 1708.04896)."""

    probability: float
    colour: tuple[int, ...]
    area: tuple[float, float] = (0.02, 0.33)
    """Smallest and largest, as a fraction of the image."""
    ratio: tuple[float, float] = (0.3, 3.3)
    """Smallest and largest height over width."""
    tries: int = 10
    """Attempts to sample a rectangle that fits, before the image is left unchanged."""

    def sample(self, batch: Batch) -> ErasingParams:
        """Uniform numbers."""
        return ErasingParams(
            torch.rand((len(batch), 3 + 2 * self.tries), dtype=torch.float64, generator=batch.generator)
        )

    def rectangles(self, params: ErasingParams, size: int) -> Rectangles:
        """Area and logarithm of the ratio uniform, then position uniform among those inside images of this side."""
        wanted = (params.numbers[:, 0] < self.probability).nonzero().flatten()
        down, across, *_ = numbers = params.numbers[wanted, 1:].T
        area, ratio = numbers[2:].view(2, self.tries, -1)
        area = between(area, *self.area) * size**2
        ratio = between(ratio, math.log(self.ratio[0]), math.log(self.ratio[1])).exp()
        height, width = (area * ratio).sqrt().round(), (area / ratio).sqrt().round()
        fits = (height < size) & (width < size)
        first = fits.int().argmax(0, keepdim=True)
        height, width = ((side * fits).gather(0, first).squeeze(0) for side in (height, width))
        top, left = down * (size - height + 1), across * (size - width + 1)
        rectangles = torch.zeros(4, len(params.numbers), dtype=torch.int64)
        rectangles[:, wanted] = torch.stack([top, left, height, width]).long()
        return Rectangles(*rectangles)

    def apply(self, images: Tensor, params: ErasingParams) -> Tensor:
        """Images with the rectangles filled."""
        return _erased(images, self.rectangles(params, images.shape[-1]), self.colour)


@dataclass(frozen=True)
class Cutout:
    """A square of ``side`` pixels becomes ``colour``, one level for each channel (arXiv 1708.04552).

    Its centre is a pixel of the image; what lies outside the image is cut off.
    """

    side: int
    colour: tuple[int, ...]

    def sample(self, batch: Batch) -> Rectangles:
        """Squares, the centre uniform; of an even side it is the pixel below and right of the middle."""
        start = torch.randint(batch.size, (2, len(batch)), generator=batch.generator) - self.side // 2
        length = (start + self.side).clamp(max=batch.size) - start.clamp(min=0)
        return Rectangles(*start.clamp(min=0), *length)

    def apply(self, images: Tensor, params: Rectangles) -> Tensor:
        """Images with the squares filled."""
        return _erased(images, params, self.colour)


def _erased(images: Tensor, params: Rectangles, colour: tuple[int, ...]) -> Tensor:
    index = params.height.nonzero().flatten()
    sides = torch.stack([params.top, params.left, params.height, params.width], dim=1)[index]
    argument = torch.cat([sides, torch.tensor(colour).expand(len(index), -1)], dim=1)
    return apply_groups(images, [(fill, index, argument)])
