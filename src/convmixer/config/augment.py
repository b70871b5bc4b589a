"""The random changes to the training images of a run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from msgspec import Meta

from convmixer.config.fields import Amount, Count, Crop, CropFill, FlipMode, Fraction
from convmixer.records import Checked


@dataclass(frozen=True, kw_only=True)
class AugmentConfig(Checked):
    """Random changes to training images, in the order of these fields."""

    crop: Crop = "none"
    """none; pad (shift by up to --crop-padding pixels); resized (a square of random area)."""
    crop_padding: Count | None = None
    """Pixels of padding for --crop pad; by default an eighth of the image's side."""
    crop_fill: CropFill = "black"
    """What --crop pad shows beyond the edge: black, or the image mirrored there (reflect)."""
    crop_scale: Annotated[float, Meta(ge=0.01, le=1)] = 1.0
    """Smallest area of a --crop resized, as a fraction of the image; 1 leaves the image as it is."""
    flip: bool | None = None
    """Mirror half of the images; by default on, except for data whose mirror images mean something else (digits)."""
    flip_mode: FlipMode = "random"
    """random (a coin for each image in every epoch) or alternating (each image in every other epoch, its first
    orientation random; arXiv 2404.00498)."""
    randaugment: Count = 0
    """Number of RandAugment operations for each image (arXiv 1909.13719); 0 is off."""
    randaugment_magnitude: Annotated[int, Meta(ge=0, le=30)] = 12
    """Strength of these operations, 0 to 30."""
    trivialaugment: bool = False
    """One operation of random strength for each image, from wider ranges (TrivialAugmentWide, arXiv 2103.10158)."""
    color_jitter: Amount = 0.0
    """Relative range of random brightness, contrast and saturation; 0 is off."""
    erasing: Fraction = 0.0
    """Probability that a random rectangle of an image is replaced by the mean colour (arXiv 1708.04896)."""
    cutout: Count = 0
    """Side in pixels of a square that is replaced by the mean colour, its centre anywhere (arXiv 1708.04552); 0 is
    off."""

    mixup: Amount = 0.0
    """Parameter of the beta distribution that says how two images and their labels are mixed, the same for a whole
    batch (arXiv 1710.09412); 0 is off."""
    cutmix: Amount = 0.0
    """Parameter of the beta distribution of the area that is cut out of another image, the same for a whole batch
    (arXiv 1905.04899); 0 is off. With --mixup as well a coin decides for each batch."""
    mix_probability: Fraction = 1.0
    """Probability that a batch is mixed, where --mixup or --cutmix is on."""
