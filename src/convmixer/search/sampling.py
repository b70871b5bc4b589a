"""From a search's settings to Optuna's distributions, samplers and pruners."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from convmixer.search.space import Choice, Dimension, SearchConfig


def distributions(space: Sequence[Dimension]) -> dict[str, BaseDistribution]:
    """The fields of a space as Optuna has them."""
    distributions: dict[str, BaseDistribution] = {}
    for dimension in space:
        if isinstance(dimension, Choice):
            distributions[dimension.name] = CategoricalDistribution(dimension.values)
        elif isinstance(dimension.low, int) and isinstance(dimension.high, int):
            distributions[dimension.name] = IntDistribution(dimension.low, dimension.high, log=dimension.log)
        else:
            distributions[dimension.name] = FloatDistribution(dimension.low, dimension.high, log=dimension.log)
    return distributions


def sampler(settings: SearchConfig, seed: int, number: int) -> optuna.samplers.BaseSampler:
    """What draws trial ``number``.

    Each draw has a seed of its own: what is drawn depends on earlier results, and not on who draws, or after how many
    restarts.
    """
    own = int.from_bytes(hashlib.sha256(f"{seed} {number}".encode()).digest()[:4], "big")
    return optuna.samplers.TPESampler(seed=own) if settings.sampler == "tpe" else optuna.samplers.RandomSampler(own)


def pruner(settings: SearchConfig) -> optuna.pruners.BasePruner:
    """What decides between epochs whether a run goes on."""
    if settings.pruner == "median":
        return optuna.pruners.MedianPruner()
    if settings.pruner == "halving":
        return optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=3)
    return optuna.pruners.NopPruner()
