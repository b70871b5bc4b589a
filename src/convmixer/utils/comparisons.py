"""How sure figures are, and comparisons of them: intervals, paired differences, effects of parameters, Pareto fronts.

Pure functions over plain numbers. Accuracies are fractions in [0, 1].
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

Verdict = Literal["better", "worse", "no evidence"]

_Z95 = statistics.NormalDist().inv_cdf(0.975)
_LARGEST_OF_TWO = 0.1
_ROUNDING = 1e-12  # differences of fractions that are equal but for their last bits


def accuracy_interval(correct: int, total: int) -> tuple[float, float]:
    """95 % Wilson score interval of an accuracy: what one evaluation on ``total`` images leaves open.

    It covers the choice of the test images, not the choice of the seed; see :func:`mean_interval` for that.
    Source: E. B. Wilson, JASA 22 (1927), pages 209-212.

    Raises:
        ValueError: ``total`` below 1, or ``correct`` outside [0, total].
    """
    if not 0 <= correct <= total or total < 1:
        raise ValueError(f"{correct} correct of {total} images is impossible.")
    share, z2 = correct / total, _Z95**2
    centre = (share + z2 / (2 * total)) / (1 + z2 / total)
    half = _Z95 / (1 + z2 / total) * math.sqrt(share * (1 - share) / total + z2 / (4 * total**2))
    # Exactly 0 and 1 in theory, but for rounding.
    return (0.0 if correct == 0 else centre - half), (1.0 if correct == total else centre + half)


@dataclass(frozen=True)
class MeanInterval:
    """A mean over ``n`` seeds. ``std`` has n - 1 in its denominator; the 95 % interval is mean ± ``half_width``."""

    n: int
    mean: float
    std: float | None
    half_width: float | None

    @property
    def informative(self) -> bool:
        """Whether there is an interval that says anything about an accuracy, or a difference of accuracies.

        Student's t is 12.7 for two seeds: two points apart, their interval is 25 points wide. Seeds that are all equal
        tell of the coarseness of the metric and not of certainty.
        """
        if self.half_width is None or self.std is None or self.std <= _ROUNDING:
            return False
        return self.n > 2 or self.half_width <= _LARGEST_OF_TWO


def mean_interval(values: Iterable[float]) -> MeanInterval:
    """Mean, standard deviation and 95 % Student t interval of a figure over seeds; of one seed only the mean.

    Raises:
        ValueError: no values, or one that is not finite.
    """
    from scipy.special import stdtrit

    numbers = [float(value) for value in values]
    if not numbers or not all(math.isfinite(number) for number in numbers):
        raise ValueError(f"a mean needs finite values, got {numbers}.")
    n, mean = len(numbers), statistics.fmean(numbers)
    if n == 1:
        return MeanInterval(1, mean, None, None)
    std = statistics.stdev(numbers)
    return MeanInterval(n, mean, std, float(stdtrit(n - 1, 0.975)) * std / math.sqrt(n))


@dataclass(frozen=True)
class PairedDifference(MeanInterval):
    """A figure minus the base's, seed by seed, over the ``n`` seeds that both have, with its interval.

    ``p_value`` is that of the two-sided paired t test; None where there is no spread to judge by: of one seed, or of
    differences that are all equal, which tell of the coarseness of the figure and not of certainty.
    """

    p_value: float | None

    def verdict(self, p_value: float | None, level: float = 0.05) -> Verdict:
        """What can be said at this level; ``p_value`` is this one's, or what a correction made of it."""
        if p_value is None or p_value >= level:
            return "no evidence"
        return "better" if self.mean > 0 else "worse"


def paired_difference(values: Mapping[int, float], base: Mapping[int, float]) -> PairedDifference | None:
    """Compares two sets of runs over equal seeds, which share what the seed decides, such as the order of images.

    Mean, 95 % interval and test of the differences are Student's ("The probable error of a mean", Biometrika 6 (1908),
    pages 1-25).

    Args:
        values: seed → figure, larger is better.
        base: likewise.

    Returns:
        None if they have no seed in common.
    """
    from scipy.special import stdtr

    seeds = sorted(values.keys() & base.keys())
    if not seeds:
        return None
    interval = mean_interval(values[seed] - base[seed] for seed in seeds)
    p_value = None
    if interval.std is not None and interval.std > _ROUNDING:
        t = interval.mean / (interval.std / math.sqrt(interval.n))
        p_value = float(2 * stdtr(interval.n - 1, -abs(t)))
    return PairedDifference(**vars(interval), p_value=p_value)


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values of several comparisons, adjusted so that the chance of any false finding among them stays at the level.

    The k-th smallest of m is multiplied by m - k + 1, and none is smaller than the one before it. Source: S. Holm,
    Scandinavian Journal of Statistics 6 (1979), pages 65-70.
    """
    adjusted, smallest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        smallest = max(smallest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = smallest
    return adjusted


@dataclass(frozen=True)
class MainEffect:
    """How much of the variance of a figure over trials the choice of one parameter alone explains.

    Attributes:
        name: of the parameter.
        share: part of the variance, in [0, 1].
        by_chance: what ``share`` is on average if the parameter has no effect at all.
    """

    name: str
    share: float
    by_chance: float


def main_effects(trials: Sequence[tuple[Mapping[str, Any], float]]) -> list[MainEffect]:
    """Variance of the means per value of each parameter, divided by the variance of all trials, the largest first.

    share = Σ_v n_v (m_v - m)² / Σ_i (y_i - m)², with n_v trials of mean m_v at value v, and m the mean of all: the
    first-order index of I. M. Sobol' (Mathematical Modelling and Computational Experiments 1 (1993), pages 407-414) of
    the trials themselves; Hutter et al. (ICML 2014, "functional ANOVA") take it of a model fitted to them. With k
    values and n trials it is (k - 1) / (n - 1) on average where the trials are exchangeable. What the shares leave is
    noise and interaction; where values were not tried equally often the shares overlap.

    Args:
        trials: parameter → value, and the figure; all trials have the same parameters.

    Returns:
        Nothing if the figures do not vary.
    """
    if not trials:
        return []
    figures = np.array([figure for _, figure in trials])
    total = float(((figures - figures.mean()) ** 2).sum())
    if total <= _ROUNDING**2:
        return []
    effects = []
    for name in trials[0][0]:
        groups: dict[Any, list[float]] = {}
        for values, figure in trials:
            groups.setdefault(values[name], []).append(figure)
        between = math.fsum(len(group) * (statistics.fmean(group) - figures.mean()) ** 2 for group in groups.values())
        effects.append(MainEffect(name, between / total, (len(groups) - 1) / (len(trials) - 1)))
    return sorted(effects, key=lambda effect: -effect.share)


def quarters(values: Sequence[float]) -> list[float]:
    """Values drawn from a range, each replaced by the median of its quarter of them, so that they form groups.

    Equal values stay together.
    """
    ordered = sorted(values)
    quarter = {value: 4 * index // len(ordered) for index, value in enumerate(ordered)}
    medians = {number: statistics.median(v for v in ordered if quarter[v] == number) for number in quarter.values()}
    return [medians[quarter[value]] for value in values]


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of the (cost, value) pairs that no other pair beats, by rising cost.

    One pair beats another if it costs at most as much and is worth at least as much, and is not equal to it.
    """
    front: list[int] = []
    for index in sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1])):
        if not front or points[index][1] > points[front[-1]][1] or points[index] == points[front[-1]]:
            front.append(index)
    return front
