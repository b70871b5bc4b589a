"""Batches of images for augmentation, and torchvision's operations on Pillow images as the oracle."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageOps
from torch import Tensor

from convmixer.data.randaugment import OPERATIONS
from convmixer.data.transform import Batch

NAMES = [operation.name for operation in OPERATIONS]


def to_pillow(image: Tensor) -> Image.Image:
    return Image.fromarray(image.permute(1, 2, 0).squeeze(2).numpy())


def from_pillow(image: Image.Image) -> Tensor:
    pixels = torch.from_numpy(np.array(image))
    return pixels.view(*pixels.shape[:2], -1).permute(2, 0, 1)


def picture_batch(seed: int, channels: int, size: int, count: int = 8) -> Tensor:
    """Noise, low contrast, two levels, one level, a ramp, dark, and channels that differ in range; then noise again."""
    images = torch.randint(256, (count, channels, size, size), generator=generator(seed), dtype=torch.uint8)
    kinds: list[Callable[[Tensor], Tensor]] = [
        lambda image: image,
        lambda image: image // 4 + 90,
        lambda image: image % 2 * 255,
        lambda image: image[:, :1, :1].expand_as(image),
        lambda image: (torch.arange(size) * 255 // (size - 1)).to(torch.uint8).expand_as(image),
        lambda image: (image.float() ** 3 / 255**2).to(torch.uint8),
        lambda image: image // torch.tensor([1, 7, 200], dtype=torch.uint8)[:channels, None, None],
    ]
    for image, kind in zip(images, kinds, strict=False):
        image.copy_(kind(image.clone()))
    return images


def batch(count: int, size: int, seed: int = 0, epoch: int = 0) -> Batch:
    """The circumstances of ``count`` images; ``seed`` decides all that is random."""
    source = generator(seed)
    return Batch(torch.randint(2, (count,), generator=source).bool(), epoch, size, source)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def torchvision_affine(
    image: Image.Image, shift: tuple[int, int], shear: tuple[float, float], corner: bool
) -> Image.Image:
    """The affine transform of torchvision without rotation and scale, from the definition in its documentation.

    Forward: translation * centre * shear * centre^-1; Pillow wants the inverse. Shears are in degrees.
    """
    x, y = (math.radians(angle) for angle in shear)
    sheared = np.array([[1, -math.tan(x), 0], [-math.tan(y), 1 + math.tan(x) * math.tan(y), 0], [0, 0, 1]])
    centre, move = np.eye(3), np.eye(3)
    centre[:2, 2] = (0, 0) if corner else (image.width / 2, image.height / 2)
    move[:2, 2] = shift
    inverse = np.linalg.inv(move @ centre @ sheared @ np.linalg.inv(centre))
    # The inverse of so simple a matrix is exact but for the last bits, which would decide pixels at exact ties.
    return image.transform(image.size, Image.Transform.AFFINE, inverse.round(12)[:2].flatten().tolist())


def pillow_operation(name: str, image: Image.Image, value: float) -> Image.Image:
    """One operation as torchvision does it to a Pillow image."""
    degrees = math.degrees(math.atan(value))
    operations: dict[str, Callable[[], Image.Image]] = {
        "Identity": lambda: image,
        "ShearX": lambda: torchvision_affine(image, (0, 0), (degrees, 0.0), corner=True),
        "ShearY": lambda: torchvision_affine(image, (0, 0), (0.0, degrees), corner=True),
        "TranslateX": lambda: torchvision_affine(image, (int(value), 0), (0.0, 0.0), corner=False),
        "TranslateY": lambda: torchvision_affine(image, (0, int(value)), (0.0, 0.0), corner=False),
        "Rotate": lambda: image.rotate(value, Image.Resampling.NEAREST),
        "Brightness": lambda: ImageEnhance.Brightness(image).enhance(1 + value),
        "Color": lambda: ImageEnhance.Color(image).enhance(1 + value),
        "Contrast": lambda: ImageEnhance.Contrast(image).enhance(1 + value),
        "Sharpness": lambda: ImageEnhance.Sharpness(image).enhance(1 + value),
        "Posterize": lambda: ImageOps.posterize(image, int(value)),
        "Solarize": lambda: ImageOps.solarize(image, value),
        "AutoContrast": lambda: ImageOps.autocontrast(image),
        "Equalize": lambda: ImageOps.equalize(image),
    }
    return operations[name]()


def assert_uniform(counts: Tensor) -> None:
    """No count is five standard deviations from the mean of all."""
    mean = counts.double().mean()
    assert (counts - mean).abs().max() < 5 * mean.sqrt(), counts
