"""Crops and mirror images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from convmixer.data.operations import copy_to_device, framed_windows, reflected_windows, where_u8
from convmixer.data.transform import Batch, position, uniform


@dataclass(frozen=True)
class PadCropParams:
    """Where the window lies in the image, from -padding to padding: (N,) int64 each."""

    top: Tensor
    left: Tensor


@dataclass(frozen=True)
class PadCrop:
    """A window of the image's size at a random place in the image with ``padding`` pixels around it.

    They are black, or the image mirrored about its outermost pixels (numpy's ``reflect``). Without ``padding`` they are
    an eighth of the image's side.
    """

    padding: int | None
    fill: Literal["black", "reflect"] = "black"

    def sample(self, batch: Batch) -> PadCropParams:
        """Offsets, independent and uniform."""
        shape, padding = (2, len(batch)), self._pixels(batch.size)
        return PadCropParams(*torch.randint(-padding, padding + 1, shape, generator=batch.generator))

    def apply(self, images: Tensor, params: PadCropParams) -> Tensor:
        """Images shifted by whole pixels."""
        top, left = copy_to_device([params.top, params.left], images.device)
        if self.fill == "reflect":
            return reflected_windows(images, top, left)
        padding = self._pixels(images.shape[-1])
        return framed_windows(images, top + padding, left + padding, padding)

    def _pixels(self, size: int) -> int:
        return size // 8 if self.padding is None else self.padding


@dataclass(frozen=True)
class ResizedCropParams:
    """A square inside each image: (N,) int64 each."""

    top: Tensor
    left: Tensor
    side: Tensor


@dataclass(frozen=True)
class ResizedCrop:
    """A random square, its area a fraction ``scale`` to 1 of the image's, enlarged to the image's size."""

    scale: float

    def sample(self, batch: Batch) -> ResizedCropParams:
        """Squares: area uniform, then position uniform."""
        size, generator = batch.size, batch.generator
        side = (uniform((len(batch),), self.scale, 1, generator).sqrt() * size).round().long().clamp(min=1)
        return ResizedCropParams(position(size - side, generator), position(size - side, generator), side)

    def apply(self, images: Tensor, params: ResizedCropParams) -> Tensor:
        """The squares, interpolated linearly along the rows, rounded, and then along the columns."""
        top, left, side = copy_to_device([params.top, params.left, params.side], images.device)
        return _enlarge(_enlarge(images, left, side, 3), top, side, 2).contiguous()


_WEIGHT_BITS = 22  # of Pillow's interpolation weights


def _enlarge(images: Tensor, start: Tensor, side: Tensor, axis: int) -> Tensor:
    """The positions ``start`` to ``start + side`` of an axis, (N,) int64 each, stretched over its whole length.

    All in integers. Between the centres of two pixels the weights are linear; beyond the first and the last one the
    level is theirs. The squares are never larger than the image, so that no smoothing is called for.
    """
    size = images.shape[axis]
    place = (2 * torch.arange(size, device=images.device) + 1) * side[:, None] - size  # in units of 1 / (2 size)
    near = place // (2 * size)
    weight = (((place - near * (2 * size)) << _WEIGHT_BITS) + size) // (2 * size)

    # Whole lines across the axis are fetched at once, which is much faster than a gather of pixels.
    lines = images.movedim(axis, 1).flatten(0, 1)
    origin = start + size * torch.arange(len(images), device=images.device)
    first, second = (
        lines.index_select(0, (torch.minimum(tap.clamp(min=0), side[:, None] - 1) + origin[:, None]).flatten())
        for tap in (near, near + 1)
    )
    mixed = second.int().sub_(first).mul_(weight.int().view(-1, 1, 1))
    mixed += first.int().mul_(1 << _WEIGHT_BITS).add_(1 << (_WEIGHT_BITS - 1))
    levels = mixed.bitwise_right_shift_(_WEIGHT_BITS).to(torch.uint8)
    return levels.view(len(images), size, *levels.shape[1:]).movedim(1, axis)


@dataclass(frozen=True)
class FlipParams:
    """Which images are mirrored: (N,) bool."""

    mirrored: Tensor


@dataclass(frozen=True)
class Flip:
    """Left and right exchanged in half of the images.

    ``alternating``: each image in every other epoch, so that any two epochs in a row show both of its orientations; the
    first one is random (arXiv 2404.00498).
    """

    alternating: bool = False

    def sample(self, batch: Batch) -> FlipParams:
        """A fair coin for each image: a new one, or its own turned over in every other epoch."""
        if self.alternating:
            return FlipParams(batch.flip_bit ^ bool(batch.epoch % 2))
        return FlipParams(torch.randint(2, (len(batch),), generator=batch.generator).bool())

    def apply(self, images: Tensor, params: FlipParams) -> Tensor:
        """Images, some of them mirrored."""
        (mirrored,) = copy_to_device([params.mirrored], images.device)
        return where_u8(mirrored.view(-1, 1, 1, 1), images.flip(3), images)
