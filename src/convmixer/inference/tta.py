"""Test-time augmentation: the views of an image whose probabilities are averaged."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convmixer.config import Tta

Images = NDArray[Any]
View = Callable[[Images], Images]
"""Images (N, C, H, W) of any type → the same shape and type, contiguous."""

_SHIFTS = ((-1, 0), (1, 0), (0, -1), (0, 1))


def views(tta: Tta, *, mirror: bool) -> list[View]:
    """The views that belong to ``tta``, the image itself first; mirrored ones only where ``mirror`` allows them."""
    found: list[View] = [itself]
    if tta == "shifts":
        found += [partial(shifted, down=down, right=right) for down, right in _SHIFTS]
    if tta != "none" and mirror:
        found += [partial(mirrored, view=view) for view in found]
    return found


def itself(images: Images) -> Images:
    """The images as they are."""
    return images


def shifted(images: Images, *, down: int, right: int) -> Images:
    """The images moved by at most a pixel; the line that becomes free repeats the one beside it."""
    rows, columns = (
        (np.arange(size) - by).clip(0, size - 1) for size, by in zip(images.shape[2:], (down, right), strict=True)
    )
    return np.ascontiguousarray(images.take(rows, 2).take(columns, 3))


def mirrored(images: Images, *, view: View = itself) -> Images:
    """A view with left and right exchanged."""
    return np.ascontiguousarray(view(images)[..., ::-1])
