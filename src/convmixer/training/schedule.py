"""Learning rate of every step."""

from __future__ import annotations

import itertools
import math

from convmixer.config import TrainConfig


def learning_rate(config: TrainConfig, step: int, steps_per_epoch: int) -> float:
    """The learning rate of step ``step`` (from 0, over the whole run)."""
    return config.lr * lr_scale(config, step, steps_per_epoch)


def lr_scale(config: TrainConfig, step: int, steps_per_epoch: int) -> float:
    """What peak learning rates are multiplied by at step ``step`` (from 0, over the whole run), from 0 to 1.

    The schedule is read at the end of the step, so that the first step moves and the last ends the schedule.
    """
    epoch = (step + 1) / steps_per_epoch
    return _SCHEDULES[config.schedule](config, epoch)


def _cosine(config: TrainConfig, epoch: float) -> float:
    """Linear warm-up, at most half of the run, then half a cosine to 0 (arXiv 1608.03983, equation 5, one period)."""
    warmup = min(config.warmup_epochs, config.epochs / 2)
    if epoch < warmup:
        return epoch / warmup
    return _half_cosine((epoch - warmup) / (config.epochs - warmup), 1.0, 0.0)


def _linear(config: TrainConfig, epoch: float) -> float:
    """Linear warm-up, at most half of the run, then a straight line to 0."""
    warmup = min(config.warmup_epochs, config.epochs / 2)
    return epoch / warmup if epoch < warmup else (config.epochs - epoch) / (config.epochs - warmup)


def _triangular(config: TrainConfig, epoch: float) -> float:
    """The authors' short recipe: straight lines from 0 to the peak, to a twentieth of it, and to 0."""
    knots = ((0.0, 0.0), (0.4, 1.0), (0.8, 0.05), (1.0, 0.0))
    position = epoch / config.epochs
    for (left, low), (right, high) in itertools.pairwise(knots):
        if position <= right:
            return low + (high - low) * (position - left) / (right - left)
    return 0.0


def _onecycle(config: TrainConfig, epoch: float) -> float:
    """One cycle (arXiv 1708.07120) in the shape and with the defaults of ``torch.optim.lr_scheduler.OneCycleLR``."""
    start, peak_at, end = 1 / 25, 0.3, 1 / 25 / 1e4
    position = epoch / config.epochs
    if position < peak_at:
        return _half_cosine(position / peak_at, start, 1.0)
    return _half_cosine((position - peak_at) / (1 - peak_at), 1.0, end)


def _constant(config: TrainConfig, epoch: float) -> float:
    """Linear warm-up, at most half of the run, then the peak."""
    return min(epoch / min(config.warmup_epochs, config.epochs / 2), 1.0) if config.warmup_epochs else 1.0


def _half_cosine(position: float, start: float, end: float) -> float:
    """From ``start`` at 0 to ``end`` at 1, level at both."""
    return end + (start - end) * 0.5 * (1.0 + math.cos(math.pi * position))


_SCHEDULES = {
    "cosine": _cosine,
    "linear": _linear,
    "triangular": _triangular,
    "onecycle": _onecycle,
    "constant": _constant,
}
