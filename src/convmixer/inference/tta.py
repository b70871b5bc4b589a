"""Test-time augmentation: the views of an image whose probabilities are averaged."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F

from convmixer.config import Tta

View = Callable[[torch.Tensor], torch.Tensor]
"""Images (N, C, H, W) float32 → the same shape, in the same memory format."""

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
    height, width = images.shape[2:]
    padded = F.pad(images, (1, 1, 1, 1), mode="replicate")
    return padded[:, :, 1 - down : 1 - down + height, 1 - right : 1 - right + width].contiguous(
        memory_format=_format(images)
    )


def mirrored(images: torch.Tensor, *, view: View = itself) -> torch.Tensor:
    """A view with left and right exchanged."""
    return view(images).flip(3).contiguous(memory_format=_format(images))


def _format(images: torch.Tensor) -> torch.memory_format:
    return torch.contiguous_format if images.is_contiguous() else torch.channels_last
