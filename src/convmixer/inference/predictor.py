"""What evaluation and prediction need of a model, however and wherever it is executed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np


@dataclass(frozen=True)
class ImageInput:
    """The images that a model takes: (N, ``channels``, ``image_size``, ``image_size``) uint8."""

    image_size: int
    """Side in pixels."""
    channels: int
    """3 (RGB) or 1 (grey)."""
    resize: str = "shorter side, bicubic, centre crop"
    """How images of other sizes get there; see :func:`convmixer.data.images.prepare_image`."""


class Predictor(Protocol):
    """Images in, logits out, as NumPy arrays: PyTorch is not needed to be one."""

    @property
    def name(self) -> str:
        """What is evaluated: the path of a run directory or of a model file."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the K classes, in the order of the logits."""

    @property
    def input(self) -> ImageInput:
        """What the images have to be like."""

    @property
    def batch_size(self) -> int:
        """How many images to give at once."""

    def logits(self, images: np.ndarray) -> np.ndarray:
        """Images (N, C, H, H) uint8, of the size in :attr:`input` → (N, K) float32; N may vary from call to call."""
