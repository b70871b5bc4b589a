"""Some images of every class, as they are and as training sees them."""

from __future__ import annotations

from dataclasses import replace

import torch

from convmixer.config import AugmentConfig
from convmixer.data.augment import Augment
from convmixer.data.batches import Normalize, TrainBatches
from convmixer.data.datasets import Dataset, Split
from convmixer.data.mixing import Mixing


def class_samples(split: Split, n_classes: int, per_class: int) -> list[list[int]]:
    """Indices of up to ``per_class`` images of each class, evenly spaced among those of the class."""
    order = split.labels.argsort(stable=True)
    chosen = []
    for members in order.split(split.labels.bincount(minlength=n_classes).tolist()):
        count = min(per_class, len(members))
        places = torch.arange(count) * len(members) // max(count, 1)
        chosen.append(members[places].tolist())
    return chosen


def augmented(dataset: Dataset, index: torch.Tensor, config: AugmentConfig, seed: int = 0) -> torch.Tensor:
    """Training images as a first epoch would show them to the model, in one batch: :class:`TrainBatches` makes them.

    Args:
        dataset: whose training part is shown.
        index: (M,) int64, which of its images.
        config: the augmentation, mixup and CutMix included.
        seed: of all randomness.

    Returns:
        (M, C, H, W) uint8 in the order of ``index``; what the model gets, with the normalisation undone.
    """
    info, count = dataset.info, len(index)
    # Numbers in place of labels say where each image of the shuffled batch comes from.
    numbered = replace(dataset.splits["train"].take(index), labels=torch.arange(count))
    normalize = Normalize(info, torch.device("cpu"))
    augment = Augment(config, mean=info.mean, mirror=info.mirror)

    def batch(mixing: Mixing | None) -> tuple[torch.Tensor, torch.Tensor]:
        batches = TrainBatches(numbered, count, seed, augment, normalize, torch.device("cpu"), mixing)
        return next(iter(batches.epoch(0)))

    images, order = batch(None)
    if mixing := Mixing.of(config, count):
        images, _ = batch(mixing)
    pixels = images.mul(normalize.std).add(normalize.mean).round().clamp(0, 255).to(torch.uint8)
    return pixels[order.argsort()]
