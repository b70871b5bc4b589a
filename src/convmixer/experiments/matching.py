"""Widths and epochs that make two runs cost the same.

Costs are counted for 32×32 images of 3 channels and 10 classes, as in CIFAR-10, whatever images a run is on: what is
made equal does not depend on them.
"""

from __future__ import annotations

import bisect
from dataclasses import replace
from functools import cache

import torch

from convmixer.config import ModelConfig, RunConfig
from convmixer.models import build_model, count_multiply_adds, count_parameters

_IMAGE_SIZE, _CHANNELS, _CLASSES = 32, 3, 10
_STEP = 8  # between widths: what processors like, and what every bottleneck factor of the suite divides


def dim_for_parameters(config: RunConfig, target: RunConfig) -> int:
    """The multiple of 8 that, as the dim of ``config``, brings its parameters nearest to those of ``target``."""
    goal = _parameters(target.architecture)
    widths = range(_STEP, 8 * target.architecture.dim + 1, _STEP)

    def size(dim: int) -> int:
        return _parameters(replace(config.architecture, dim=dim))

    above = bisect.bisect_left(widths, goal, key=size)
    return min(widths[max(above - 1, 0) : above + 1], key=lambda dim: abs(size(dim) - goal))


def epochs_for_cost(config: RunConfig, target: RunConfig) -> int:
    """The number of epochs after which ``config`` has cost as many multiply-adds as ``target`` in all, at least 1."""
    return max(1, round(training_cost(target) / training_cost(config) * config.train.epochs))


def training_cost(config: RunConfig) -> int:
    """Multiply-adds of the forward passes of a whole training, for each image of the training set."""
    return config.train.epochs * _multiply_adds(config.architecture)


@cache
def _multiply_adds(architecture: ModelConfig) -> int:
    return count_multiply_adds(architecture, _IMAGE_SIZE, _CLASSES, _CHANNELS)


@cache
def _parameters(architecture: ModelConfig) -> int:
    with torch.device("meta"):  # shapes only
        return count_parameters(build_model(architecture, _CLASSES, _CHANNELS, "plain"))
