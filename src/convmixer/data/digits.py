"""Handwritten digits, 8×8 grey: scikit-learn brings them along, so that they need no download."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from convmixer.config import DataConfig
from convmixer.data.collection import Collection, Part

if TYPE_CHECKING:
    from rich.console import Console


def load(config: DataConfig, console: Console | None) -> Collection:
    """The 1,797 images (1, 8, 8) of scikit-learn's ``load_digits``, their 17 grey levels spread over 0 to 255.

    They come without a test part; a mirrored digit is none, hence ``mirror`` is off.
    """
    from sklearn.datasets import load_digits

    levels, labels = load_digits(return_X_y=True)
    images = np.rint(levels * (255 / 16)).astype(np.uint8).reshape(-1, 1, 8, 8)
    whole = Part(images, labels.astype(np.int64))
    return Collection("digits", tuple("0123456789"), {"train": whole}, mirror=False)
