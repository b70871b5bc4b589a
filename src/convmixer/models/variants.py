"""The study's three variants: what each exchanges in the paper's network, and nothing else.

Arguments are those of :class:`ConvMixer`, which also refuses any it does not know.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import nn

from convmixer.errors import InputError
from convmixer.models.blocks import conv_unit, depthwise
from convmixer.models.classifiers import linear_classifier_head, representation_head
from convmixer.models.convmixer import ConvMixer


def bottleneck_branch(dim: int, kernel_size: int, activation: type[nn.Module], *, factor: int) -> nn.Module:
    """Residual branch that does its depthwise convolution on dim // factor channels, between two 1×1 convolutions."""
    if factor < 1 or dim % factor:
        raise InputError(f"bottleneck_factor is {factor}; give a divisor of dim, which is {dim}.")
    narrow = dim // factor
    return nn.Sequential(
        *conv_unit(nn.Conv2d(dim, narrow, kernel_size=1), activation),
        *conv_unit(depthwise(narrow, kernel_size), activation),
        *conv_unit(nn.Conv2d(narrow, dim, kernel_size=1), activation),
    )


class ConvMixerRH(ConvMixer):
    """ConvMixer with the RepresentationHead."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, head=representation_head, **options)


class ConvMixerLC(ConvMixer):
    """ConvMixer with the LinearClassifier head."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, head=linear_classifier_head, **options)


class ConvMixerBN(ConvMixer):
    """ConvMixer with a bottleneck in every residual branch.

    Raises:
        InputError: ``bottleneck_factor`` does not divide ``dim``.
    """

    def __init__(self, *args: Any, bottleneck_factor: int = 2, **options: Any) -> None:
        super().__init__(*args, branch=partial(bottleneck_branch, factor=bottleneck_factor), **options)
