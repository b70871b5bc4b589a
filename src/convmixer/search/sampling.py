"""Points of a search space: all of a grid, random ones drawn up front, and what Optuna needs to propose others."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from convmixer.search.space import Choice, Dimension, SearchConfig, Values


def points_up_front(settings: SearchConfig, seed: int, known: Mapping[int, Values]) -> dict[int, Values]:
    """The points of a grid or of a random search, by number; nothing for TPE, whose points depend on results.

    Args:
        settings: what to search.
        seed: of random points.
        known: random points of an earlier start that are still in the space; they keep their numbers.
    """
    if settings.sampler == "grid":
        return dict(enumerate(settings.grid()))
    if settings.sampler == "tpe":
        return {}
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study, points = optuna.create_study(), dict(known)
    for number in range(settings.count()):
        if number not in points:
            study.sampler = optuna.samplers.RandomSampler(_sampler_seed(seed, number))
            points[number] = study.ask(distributions(settings.space())).params
    return dict(sorted(points.items()))


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


def sampler(seed: int, number: int) -> optuna.samplers.BaseSampler:
    """TPE for trial ``number``: its proposal depends on earlier results, but not on which process asks or restarts."""
    return optuna.samplers.TPESampler(seed=_sampler_seed(seed, number))


def pruner(settings: SearchConfig) -> optuna.pruners.BasePruner:
    """What decides after an epoch whether a run goes on."""
    if settings.pruner == "median":
        return optuna.pruners.MedianPruner()
    if settings.pruner == "halving":
        return optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=3)
    return optuna.pruners.NopPruner()


def _sampler_seed(seed: int, number: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed} {number}".encode()).digest()[:4], "big")
