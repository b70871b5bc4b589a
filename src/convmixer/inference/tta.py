"""Test-time augmentation: the views of an image whose probabilities are averaged."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch

from convmixer.config import Tta

View = Callable[[torch.Tensor], torch.Tensor]
"""Images (N, C, H, W) of any type → the same shape, type and memory format."""

_SHIFTS = ((-1, 0), (1, 0), (0, -1), (0, 1))


def views(tta: Tta, *, mirror: bool) -> list[View]:
    """The views that belong to ``tta``, the image itself first; mirrored ones only where ``mirror`` allows them."""
    found: list[View] = [itself]
    if tta == "shifts":
        found += [partial(shifted, down=down, right=right) for down, right in _SHIFTS]
    if tta != "none" and mirror:
        found += [partial(mirrored, view=view) for view in found]
    return found


def itself(images: torch.Tensor) -> torch.Tensor:
    """The images as they are."""
    return images


def shifted(images: torch.Tensor, *, down: int, right: int) -> torch.Tensor:
    """The images moved by at most a pixel; the line that becomes free repeats the one beside it."""
    rows, columns = (
        (torch.arange(size, device=images.device) - by).clamp(0, size - 1)
        for size, by in zip(images.shape[2:], (down, right), strict=True)
    )
    return images.index_select(2, rows).index_select(3, columns).contiguous(memory_format=_format(images))


def mirrored(images: torch.Tensor, *, view: View = itself) -> torch.Tensor:
    """A view with left and right exchanged."""
    return view(images).flip(3).contiguous(memory_format=_format(images))


def _format(images: torch.Tensor) -> torch.memory_format:
    return torch.contiguous_format if images.is_contiguous() else torch.channels_last
