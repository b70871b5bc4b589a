"""Random changes to whole batches of training images, on the device that holds them.

Each stage draws its parameters for all images on the CPU first, so that a seed means the same on every device, and
applies them second. Rules and roundings are those of torchvision's transforms on Pillow images.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from convmixer.config import AugmentConfig
from convmixer.data.randaugment import (
    RandAugment,
    affine,
    apply_groups,
    brightness,
    contrast,
    fixed_point,
    saturation,
    transfer,
)


class Stage(Protocol):
    """One kind of random change."""

    def draw(self, count: int, size: int, generator: torch.Generator) -> Any:
        """Parameters for ``count`` images of side ``size``, on the CPU."""

    def apply(self, images: Tensor, draw: Any) -> Tensor:
        """Images (N, C, H, H) uint8 on any device, changed as drawn; the input stays."""


class Augment:
    """Random changes to a batch of training images, each image with its own parameters.

    Args:
        config: Which changes, in the order of its fields.
        mean: Of each channel, on a scale of 0 to 1; the colour of erased rectangles.
        mirror: Whether images are flipped where the configuration leaves it to the data.
    """

    def __init__(self, config: AugmentConfig, *, mean: Sequence[float], mirror: bool) -> None:
        self.channels = len(mean)
        self.stages = tuple(_stages(config, mean, mirror))

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Changed images; the same images and state of the generator give the same result on every device.

        Args:
            images: (N, C, H, H) uint8, H at least 3; not modified.
            generator: A CPU generator, the source of all randomness.

        Returns:
            (N, C, H, H) uint8; ``images`` themselves where the configuration asks for nothing.
        """
        count, channels, height, width = images.shape
        if images.dtype != torch.uint8 or height != width or channels != self.channels:
            raise ValueError(
                f"expected square uint8 images of {self.channels} channels, "
                f"got {images.dtype} of shape {tuple(images.shape)}"
            )
        draws = [stage.draw(count, height, generator) for stage in self.stages]
        for stage, draw in zip(self.stages, draws, strict=True):
            images = stage.apply(images, draw)
        return images


def _stages(config: AugmentConfig, mean: Sequence[float], mirror: bool) -> Iterator[Stage]:
    if config.crop == "pad" and config.crop_padding:
        yield PadCrop(config.crop_padding)
    if config.crop == "resized" and config.crop_scale < 1:
        yield ResizedCrop(config.crop_scale)
    if mirror if config.flip is None else config.flip:
        yield Flip()
    if config.randaugment:
        yield RandAugment(config.randaugment, config.randaugment_magnitude)
    if config.color_jitter:
        yield ColorJitter(config.color_jitter)
    if config.erasing:
        yield RandomErasing(config.erasing, tuple(round(channel * 255) for channel in mean))


def _uniform(shape: tuple[int, ...], low: float, high: float, generator: torch.Generator) -> Tensor:
    return low + (high - low) * torch.rand(shape, dtype=torch.float64, generator=generator)


def _position(room: Tensor, generator: torch.Generator) -> Tensor:
    """Uniform integers from 0 to ``room``, (N,) int64, itself."""
    return _uniform(tuple(room.shape), 0, 1, generator).mul(room + 1).long()


@dataclass(frozen=True)
class PadCropDraw:
    """Where the window lies in the image, from -padding to padding: (N,) int64 each."""

    top: Tensor
    left: Tensor


@dataclass(frozen=True)
class PadCrop:
    """A window of the image's size at a random place in the image with ``padding`` black pixels around it."""

    padding: int

    def draw(self, count: int, size: int, generator: torch.Generator) -> PadCropDraw:
        """Offsets, independent and uniform."""
        return PadCropDraw(*torch.randint(-self.padding, self.padding + 1, (2, count), generator=generator))

    def apply(self, images: Tensor, draw: PadCropDraw) -> Tensor:
        """Images shifted by whole pixels."""
        (matrix,) = transfer([fixed_point(1, 0, draw.left, 0, 1, draw.top)], images.device)
        return affine(images, matrix)


@dataclass(frozen=True)
class ResizedCropDraw:
    """A square inside each image: (N,) int64 each."""

    top: Tensor
    left: Tensor
    side: Tensor


@dataclass(frozen=True)
class ResizedCrop:
    """A random square, its area a fraction ``scale`` to 1 of the image's, enlarged to the image's size."""

    scale: float

    def draw(self, count: int, size: int, generator: torch.Generator) -> ResizedCropDraw:
        """Squares: area uniform, then position uniform."""
        side = (_uniform((count,), self.scale, 1, generator).sqrt() * size).round().long().clamp(min=1)
        return ResizedCropDraw(_position(size - side, generator), _position(size - side, generator), side)

    def apply(self, images: Tensor, draw: ResizedCropDraw) -> Tensor:
        """The squares, interpolated linearly along the rows, rounded, and then along the columns."""
        top, left, side = transfer([draw.top, draw.left, draw.side], images.device)
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
class FlipDraw:
    """Which images are mirrored: (N,) bool."""

    mirrored: Tensor


@dataclass(frozen=True)
class Flip:
    """Left and right exchanged in half of the images."""

    def draw(self, count: int, size: int, generator: torch.Generator) -> FlipDraw:
        """A fair coin for each image."""
        return FlipDraw(torch.randint(2, (count,), generator=generator).bool())

    def apply(self, images: Tensor, draw: FlipDraw) -> Tensor:
        """Images, some of them mirrored."""
        (mirrored,) = transfer([draw.mirrored], images.device)
        return torch.where(mirrored.view(-1, 1, 1, 1), images.flip(3), images)


_JITTERS = (brightness, contrast, saturation)


@dataclass(frozen=True)
class ColorJitterDraw:
    """How strong, and in which order, brightness (0), contrast (1) and saturation (2) change."""

    order: Tensor
    """(N, 3) int64: permutations of 0, 1, 2."""
    factor: Tensor
    """(N, 3) float32: of brightness, contrast and saturation."""


@dataclass(frozen=True)
class ColorJitter:
    """Brightness, contrast and saturation, each times a factor from 1 - ``strength`` (at least 0) to 1 + it."""

    strength: float

    def draw(self, count: int, size: int, generator: torch.Generator) -> ColorJitterDraw:
        """Uniform factors, and one of the six orders."""
        factor = _uniform((count, 3), max(0.0, 1 - self.strength), 1 + self.strength, generator)
        return ColorJitterDraw(_uniform((count, 3), 0, 1, generator).argsort(1), factor.float())

    def apply(self, images: Tensor, draw: ColorJitterDraw) -> Tensor:
        """Images after the three changes, each rounded to whole levels."""
        for turn in draw.order.unbind(1):
            members = [(turn == number).nonzero().flatten() for number in range(len(_JITTERS))]
            groups = [
                (kernel, index, draw.factor[index, number])
                for number, (kernel, index) in enumerate(zip(_JITTERS, members, strict=True))
            ]
            images = apply_groups(images, groups)
        return images


@dataclass(frozen=True)
class RandomErasingDraw:
    """A rectangle in each image, of no size where nothing is erased: (N,) int64 each."""

    top: Tensor
    left: Tensor
    height: Tensor
    width: Tensor


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
    """How often a rectangle that does not fit is drawn anew before the image is left alone."""

    def draw(self, count: int, size: int, generator: torch.Generator) -> RandomErasingDraw:
        """Rectangles: area and logarithm of the ratio uniform, then position uniform among those inside the image."""
        wanted = _uniform((count,), 0, 1, generator) < self.probability
        area = _uniform((count, self.tries), *self.area, generator) * size**2
        ratio = _uniform((count, self.tries), math.log(self.ratio[0]), math.log(self.ratio[1]), generator).exp()
        height, width = (area * ratio).sqrt().round().long(), (area / ratio).sqrt().round().long()
        fits = (height < size) & (width < size)
        first = fits.int().argmax(1, keepdim=True)
        erased = wanted & fits.any(1)
        height, width = (side.gather(1, first).squeeze(1) * erased for side in (height, width))
        return RandomErasingDraw(_position(size - height, generator), _position(size - width, generator), height, width)

    def apply(self, images: Tensor, draw: RandomErasingDraw) -> Tensor:
        """Images with the rectangles filled."""
        colour = torch.tensor(self.colour, dtype=torch.uint8)
        top, left, height, width, colour = transfer(
            [draw.top, draw.left, draw.height, draw.width, colour], images.device
        )
        place = torch.arange(images.shape[-1], device=images.device)
        rows, columns = (
            (place >= start[:, None]) & (place < (start + length)[:, None])
            for start, length in ((top, height), (left, width))
        )
        return torch.where(rows[:, None, :, None] & columns[:, None, None, :], colour.view(-1, 1, 1), images)
