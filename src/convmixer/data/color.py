"""Colour jitter."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from convmixer.data.operations import apply_groups, brightness, contrast, saturation
from convmixer.data.transform import Batch, uniform

_JITTERS = (brightness, contrast, saturation)


@dataclass(frozen=True)
class ColorJitterParams:
    """How strong, and in which order, brightness (0), contrast (1) and saturation (2) change."""

    order: Tensor
    """(N, 3) int64: permutations of 0, 1, 2."""
    factor: Tensor
    """(N, 3) float32: of brightness, contrast and saturation."""


@dataclass(frozen=True)
class ColorJitter:
    """Brightness, contrast and saturation, each times a factor from 1 - ``strength`` (at least 0) to 1 + it."""

    strength: float

    def sample(self, batch: Batch) -> ColorJitterParams:
        """Uniform factors, and one of the six orders."""
        shape = (len(batch), len(_JITTERS))
        factor = uniform(shape, max(0.0, 1 - self.strength), 1 + self.strength, batch.generator)
        return ColorJitterParams(uniform(shape, 0, 1, batch.generator).argsort(1), factor.float())

    def apply(self, images: Tensor, params: ColorJitterParams) -> Tensor:
        """Images after the three changes, each rounded to whole levels."""
        for position in params.order.unbind(1):
            members = [(position == number).nonzero().flatten() for number in range(len(_JITTERS))]
            groups = [
                (function, index, params.factor[index, number])
                for number, (function, index) in enumerate(zip(_JITTERS, members, strict=True))
            ]
            images = apply_groups(images, groups)
        return images
