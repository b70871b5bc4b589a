"""Random changes to whole batches of training images, on the device that holds them.

Parameters are sampled on the CPU for a whole batch, which makes a seed mean the same on every device. They are applied
afterwards, to several batches at once where that is faster. Rules and roundings are those of torchvision's transforms
on Pillow images.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from convmixer.config import AugmentConfig
from convmixer.data.color import ColorJitter
from convmixer.data.crops import Flip, PadCrop, ResizedCrop
from convmixer.data.erasing import Cutout, RandomErasing
from convmixer.data.randaugment import RandAugment, TrivialAugment
from convmixer.data.transform import Batch, Transform, concatenate


class Augment:
    """Random changes to training images, each image with its own parameters.

    Args:
        config: Which changes, in the order of its fields.
        mean: Of each channel, on a scale of 0 to 1; the colour of erased rectangles.
        mirror: Whether images are flipped where the configuration leaves it to the data.
    """

    def __init__(self, config: AugmentConfig, *, mean: Sequence[float], mirror: bool) -> None:
        self.channels = len(mean)
        self.transforms = tuple(_transforms(config, mean, mirror))

    def sample(self, batch: Batch) -> tuple[Any, ...]:
        """The parameters of every transform for one batch."""
        return tuple(transform.sample(batch) for transform in self.transforms)

    def apply(self, images: Tensor, params: Sequence[tuple[Any, ...]]) -> Tensor:
        """Changed images; the same images and parameters give the same bits on every device and in batches of any size.

        Args:
            images: (N, C, H, H) uint8, H at least 3; not modified.
            params: Results of :meth:`sample`, one for each batch that ``images`` consist of, in order.

        Returns:
            (N, C, H, H) uint8; ``images`` themselves where the configuration asks for nothing.
        """
        channels, height, width = images.shape[1:]
        if images.dtype != torch.uint8 or height != width or channels != self.channels:
            raise ValueError(
                f"expected square uint8 images of {self.channels} channels, "
                f"got {images.dtype} of shape {tuple(images.shape)}"
            )
        for transform, parts in zip(self.transforms, zip(*params, strict=True), strict=True):
            images = transform.apply(images, concatenate(parts))
        return images


def _transforms(config: AugmentConfig, mean: Sequence[float], mirror: bool) -> Iterator[Transform]:
    colour = tuple(round(channel * 255) for channel in mean)
    if config.crop == "pad" and config.crop_padding != 0:
        yield PadCrop(config.crop_padding, config.crop_fill)
    if config.crop == "resized" and config.crop_scale < 1:
        yield ResizedCrop(config.crop_scale)
    if mirror if config.flip is None else config.flip:
        yield Flip(config.flip_mode == "alternating")
    if config.randaugment:
        yield RandAugment(config.randaugment, config.randaugment_magnitude)
    if config.trivialaugment:
        yield TrivialAugment()
    if config.color_jitter:
        yield ColorJitter(config.color_jitter)
    if config.erasing:
        yield RandomErasing(config.erasing, colour)
    if config.cutout:
        yield Cutout(config.cutout, colour)
