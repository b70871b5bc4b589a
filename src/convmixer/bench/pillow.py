"""The rival of batched augmentation: one Pillow image at a time, as scripts with worker processes do it.

Crop, flip, RandAugment 2/12, normalisation and random erasing, in the order and with the rules of torchvision's
transforms.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageOps
from torch.utils.data import Dataset

PADDING, STEPS, MAGNITUDE, ERASING = 4, 2, 12, 0.25


def _shifted(image: Image.Image, matrix: tuple[float, ...]) -> Image.Image:
    return image.transform(image.size, Image.Transform.AFFINE, matrix, Image.Resampling.NEAREST)


def _operation(image: Image.Image, number: int, sign: int) -> Image.Image:
    """One of RandAugment's operations at the fixed magnitude."""
    level = MAGNITUDE / 30
    slope, factor = sign * 0.3 * level, 1 + sign * 0.9 * level
    move = int(sign * level * 150 / 331 * image.width)
    match number:
        case 0:
            return image
        case 1:
            return _shifted(image, (1, slope, 0, 0, 1, 0))
        case 2:
            return _shifted(image, (1, 0, 0, slope, 1, 0))
        case 3:
            return _shifted(image, (1, 0, -move, 0, 1, 0))
        case 4:
            return _shifted(image, (1, 0, 0, 0, 1, -move))
        case 5:
            return image.rotate(sign * 30 * level)
        case 6:
            return ImageEnhance.Brightness(image).enhance(factor)
        case 7:
            return ImageEnhance.Color(image).enhance(factor)
        case 8:
            return ImageEnhance.Contrast(image).enhance(factor)
        case 9:
            return ImageEnhance.Sharpness(image).enhance(factor)
        case 10:
            return ImageOps.posterize(image, 8 - round(4 * level))
        case 11:
            return ImageOps.solarize(image, round(255 * (1 - level)))
        case 12:
            return ImageOps.autocontrast(image)
        case _:
            return ImageOps.equalize(image)


def rand_augment(image: Image.Image) -> Image.Image:
    """RandAugment (arXiv 1909.13719): random operations with random signs, all of one magnitude."""
    for _ in range(STEPS):
        image = _operation(image, random.randrange(14), random.choice((-1, 1)))
    return image


def augmented(image: Image.Image) -> Image.Image:
    """Crop, flip and RandAugment."""
    size = image.width
    left, top = random.randint(0, 2 * PADDING), random.randint(0, 2 * PADDING)
    image = ImageOps.expand(image, border=PADDING, fill=0).crop((left, top, left + size, top + size))
    return rand_augment(ImageOps.mirror(image) if random.random() < 0.5 else image)


def erase(pixels: torch.Tensor) -> None:
    """Random erasing of a normalised image (C, H, H), in place: zero is the mean colour."""
    size = pixels.shape[-1]
    if random.random() >= ERASING:
        return
    for _ in range(10):
        area = size**2 * random.uniform(0.02, 0.33)
        ratio = math.exp(random.uniform(math.log(0.3), math.log(3.3)))
        height, width = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if height < size and width < size:
            top, left = random.randint(0, size - height), random.randint(0, size - width)
            pixels[:, top : top + height, left : left + width] = 0
            return


Transform = Callable[[Image.Image], torch.Tensor]


@dataclass(frozen=True)
class PillowTransform:
    """The whole pipeline on Pillow alone; ``mean`` and ``std`` of each channel on a scale of 0 to 1."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, image: Image.Image) -> torch.Tensor:
        """(C, H, H) float32: augmented, normalised, erased."""
        levels = torch.from_numpy(np.asarray(augmented(image), dtype=np.float32)).permute(2, 0, 1)
        mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (self.mean, self.std))
        pixels = levels.contiguous().div_(255).sub_(mean).div_(std)
        erase(pixels)
        return pixels


def rival_transform(size: int, mean: tuple[float, ...], std: tuple[float, ...]) -> tuple[str, Transform]:
    """The name of the rival and its pipeline: torchvision's if it can be imported, else the same on Pillow alone."""
    try:
        from torchvision import transforms
    except Exception:  # beside another version of PyTorch it raises RuntimeError
        return "Pillow", PillowTransform(mean, std)
    steps = [
        transforms.RandomCrop(size, padding=PADDING),
        transforms.RandomHorizontalFlip(),
        transforms.RandAugment(STEPS, MAGNITUDE),
        transforms.ToTensor(),
        transforms.Normalize(mean, std),
        transforms.RandomErasing(ERASING),
    ]
    return "torchvision", transforms.Compose(steps)


class RivalImages(Dataset[tuple[torch.Tensor, int]]):
    """Images (N, H, H, 3) uint8 with their labels, transformed one at a time."""

    def __init__(self, images: np.ndarray, labels: list[int], transform: Transform) -> None:
        self.images, self.labels, self.transform = images, labels, transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.transform(Image.fromarray(self.images[index])), self.labels[index]
