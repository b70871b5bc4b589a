"""Learning rate of every step."""

from __future__ import annotations

import itertools
import math

from convmixer.config import TrainConfig


def learning_rate(config: TrainConfig, step: int, steps_per_epoch: int) -> float:
    """The learning rate of step ``step`` (from 0, over the whole run).

    The schedule is read at the end of the step, so that the first step moves and the last ends the schedule.
    """
    epoch = (step + 1) / steps_per_epoch
    return config.lr * {"cosine": _cosine, "triangular": _triangular}[config.schedule](config, epoch)


def _cosine(config: TrainConfig, epoch: float) -> float:
    """Linear warm-up, at most half of the run, then half a cosine to 0 (arXiv 1608.03983, equation 5, one period)."""
    warmup = min(config.warmup_epochs, config.epochs / 2)
    if epoch < warmup:
        return epoch / warmup
    return 0.5 * (1.0 + math.cos(math.pi * (epoch - warmup) / (config.epochs - warmup)))


def _triangular(config: TrainConfig, epoch: float) -> float:
    """The authors' short recipe: straight lines from 0 to the peak, to a twentieth of it, and to 0."""
    knots = ((0.0, 0.0), (0.4, 1.0), (0.8, 0.05), (1.0, 0.0))
    position = epoch / config.epochs
    for (left, low), (right, high) in itertools.pairwise(knots):
        if position <= right:
            return low + (high - low) * (position - left) / (right - left)
    return 0.0
