"""RandAugment (arXiv 1909.13719) and TrivialAugment (arXiv 2103.10158) on whole batches.

The operations, their ranges and their 31 steps of magnitude are torchvision's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache

import torch
from torch import Tensor

from convmixer.data.operations import (
    ImageFunction,
    affine,
    apply_groups,
    autocontrast,
    brightness,
    contrast,
    equalize,
    fixed_point,
    posterize,
    saturation,
    sharpness,
    solarize,
)
from convmixer.data.transform import Batch

MAGNITUDES = 31
"""Steps between no effect (0) and the strongest one (30)."""


def _identity(images: Tensor, _: Tensor) -> Tensor:
    return images


def _rotation(degrees: Tensor, size: int) -> Tensor:
    """Counter-clockwise about the centre of the image."""
    angle, centre = -degrees * (math.pi / 180), size / 2
    cos, sin = angle.cos(), angle.sin()
    return fixed_point(cos, sin, centre - (cos + sin) * centre, -sin, cos, centre - (cos - sin) * centre)


def _none(size: int) -> Tensor:
    return torch.zeros(MAGNITUDES)


def _up_to(largest: float) -> Callable[[int], Tensor]:
    return lambda size: torch.linspace(0.0, largest, MAGNITUDES)


def _shift(size: int) -> Tensor:
    return torch.linspace(0.0, 150.0 / 331.0 * size, MAGNITUDES)


def _bits(dropped: int) -> Callable[[int], Tensor]:
    return lambda size: 8 - (torch.arange(MAGNITUDES) / ((MAGNITUDES - 1) / dropped)).round()


def _threshold(size: int) -> Tensor:
    return torch.linspace(255.0, 0.0, MAGNITUDES)


def _factor(value: Tensor, size: int) -> Tensor:
    return (1.0 + value).float()


@dataclass(frozen=True)
class Operation:
    """One row of a table of operations."""

    name: str
    function: ImageFunction
    signed: bool = False
    """Whether half of the images get the negative of the magnitude's value."""
    values: Callable[[int], Tensor] = _none
    """Side of the images -> value at every magnitude, (31,) float32."""
    argument: Callable[[Tensor, int], Tensor] = lambda value, size: value.float()
    """Signed values, (M,) float64, and side of the images -> the function's argument, on the CPU."""


OPERATIONS = (
    Operation("Identity", _identity),
    Operation("ShearX", affine, True, _up_to(0.3), lambda value, size: fixed_point(1, value, 0, 0, 1, 0)),
    Operation("ShearY", affine, True, _up_to(0.3), lambda value, size: fixed_point(1, 0, 0, value, 1, 0)),
    Operation("TranslateX", affine, True, _shift, lambda value, size: fixed_point(1, 0, -value.trunc(), 0, 1, 0)),
    Operation("TranslateY", affine, True, _shift, lambda value, size: fixed_point(1, 0, 0, 0, 1, -value.trunc())),
    Operation("Rotate", affine, True, _up_to(30.0), _rotation),
    Operation("Brightness", brightness, True, _up_to(0.9), _factor),
    Operation("Color", saturation, True, _up_to(0.9), _factor),
    Operation("Contrast", contrast, True, _up_to(0.9), _factor),
    Operation("Sharpness", sharpness, True, _up_to(0.9), _factor),
    Operation("Posterize", posterize, False, _bits(4), lambda value, size: (256 - 2 ** (8 - value)).to(torch.uint8)),
    Operation("Solarize", solarize, False, _threshold, lambda value, size: value.ceil().to(torch.uint8)),
    Operation("AutoContrast", autocontrast),
    Operation("Equalize", equalize),
)


_WIDE: dict[str, Callable[[int], Tensor]] = {
    **dict.fromkeys(("ShearX", "ShearY", "Brightness", "Color", "Contrast", "Sharpness"), _up_to(0.99)),
    **dict.fromkeys(("TranslateX", "TranslateY"), _up_to(32.0)),
    "Rotate": _up_to(135.0),
    "Posterize": _bits(6),
}
WIDE_OPERATIONS = tuple(replace(row, values=_WIDE.get(row.name, row.values)) for row in OPERATIONS)
"""TrivialAugment's table: the same operations with wider ranges; translations are in pixels, whatever the size."""

_SIGNED = torch.tensor([row.signed for row in OPERATIONS])


@cache
def _values(table: tuple[Operation, ...], size: int) -> Tensor:
    """What each operation does to images of side ``size`` at each magnitude: (14, 31) float64."""
    # float32 steps, as torchvision has them: where a value is cut to an integer their rounding can decide.
    return torch.stack([row.values(size) for row in table]).double()


@dataclass(frozen=True)
class OperationParams:
    """The operations for each of N images."""

    operation: Tensor
    """(N, steps) int64: rows of OPERATIONS."""
    value: Tensor
    """(N, steps) float64: strength in the operation's own unit, with its sign."""


def _sample(table: tuple[Operation, ...], steps: int, magnitude: int | None, batch: Batch) -> OperationParams:
    """Uniform operations and signs, with replacement; uniform magnitudes as well if none is given."""
    shape = (len(batch), steps)
    operation = torch.randint(len(table), shape, generator=batch.generator)
    negative = torch.randint(2, shape, generator=batch.generator).bool() & _SIGNED[operation]
    values = _values(table, batch.size)
    if magnitude is None:
        value = values[operation, torch.randint(MAGNITUDES, shape, generator=batch.generator)]
    else:
        value = values[:, magnitude][operation]
    return OperationParams(operation, torch.where(negative, -value, value))


@dataclass(frozen=True)
class RandAugment:
    """``steps`` operations for each image, uniform with replacement, all of one magnitude, 0 to 30."""

    steps: int
    magnitude: int

    def sample(self, batch: Batch) -> OperationParams:
        """Operations and signs."""
        return _sample(OPERATIONS, self.steps, self.magnitude, batch)

    def apply(self, images: Tensor, params: OperationParams) -> Tensor:
        """Images (N, C, H, H) uint8 after their operations."""
        return apply_operations(images, params)


@dataclass(frozen=True)
class TrivialAugment:
    """One operation for each image; operation and magnitude are uniform over the wide table."""

    def sample(self, batch: Batch) -> OperationParams:
        """Operations, signs and magnitudes."""
        return _sample(WIDE_OPERATIONS, 1, None, batch)

    def apply(self, images: Tensor, params: OperationParams) -> Tensor:
        """Images (N, C, H, H) uint8 after their operations."""
        return apply_operations(images, params)


def apply_operations(images: Tensor, params: OperationParams) -> Tensor:
    """Images (N, C, H, H) uint8 after their operations, applied in order."""
    for operation, value in zip(params.operation.unbind(1), params.value.unbind(1), strict=True):
        images = apply_groups(images, _groups(operation, value, images.shape[-1]))
    return images


def _groups(operation: Tensor, value: Tensor, size: int) -> Iterator[tuple[ImageFunction, Tensor, Tensor]]:
    """The images of one step by function: all geometric operations are one map, and run at once."""
    members = operation.argsort().split(operation.bincount(minlength=len(OPERATIONS)).tolist())
    groups: dict[ImageFunction, list[tuple[Operation, Tensor]]] = {}
    for row, index in zip(OPERATIONS, members, strict=True):
        groups.setdefault(row.function, []).append((row, index))
    del groups[_identity]
    for function, rows in groups.items():
        arguments = [row.argument(value[index], size) for row, index in rows]
        yield function, torch.cat([index for _, index in rows]), torch.cat(arguments)
