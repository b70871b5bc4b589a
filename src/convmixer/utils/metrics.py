"""What a classifier's predictions are worth: accuracy, calibration, confusion; how sure figures are, and comparisons.

Pure functions over numpy arrays. Shapes: N images, K classes. Accuracies are fractions in [0, 1].
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from convmixer.errors import InputError
from convmixer.records import build

CALIBRATION_BINS = 15
"""As in Guo et al. 2017, arXiv 1706.04599, table 1."""

# A float32 softmax underflows below it; with it the loss of an image stays finite, at most 87.4.
_SMALLEST = float(np.finfo(np.float32).tiny)
_Z95 = statistics.NormalDist().inv_cdf(0.975)
_LARGEST_OF_TWO = 0.1
_DENSE_CLASSES = 100  # up to which all cells of a confusion matrix are written


@dataclass(frozen=True)
class ClassRow:
    """One class: ``images`` that are of it, and how well they are found; a ratio without a denominator is 0."""

    name: str
    images: int
    precision: float
    recall: float
    f1: float


@dataclass(frozen=True)
class CalibrationBin:
    """The images whose confidence lies in (``low``, ``high``]: their mean confidence and accuracy, None without any."""

    low: float
    high: float
    count: int
    confidence: float | None
    accuracy: float | None


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Everything that is reported about a model on a data set.

    Attributes:
        accuracy: part of the images whose most probable class is theirs; of equal probabilities the first counts.
        top5_accuracy: part whose class is among the 5 most probable; among min(5, K), hence 1, where K < 5.
        loss: mean negative log likelihood in nats.
        expected_calibration_error: see :func:`expected_calibration_error`.
        per_class: a row for each class, in the order of the labels.
        calibration: equal-width bins of confidence, the empty ones too.
        confusion: (K, K) counts; rows are true classes, columns predicted ones.
    """

    accuracy: float
    top5_accuracy: float
    loss: float
    expected_calibration_error: float
    per_class: tuple[ClassRow, ...]
    calibration: tuple[CalibrationBin, ...]
    confusion: NDArray[np.int64]

    @property
    def balanced_accuracy(self) -> float:
        """Mean recall of the classes that have images: what accuracy would be if all classes had equally many."""
        return statistics.fmean(row.recall for row in self.per_class if row.images)

    @property
    def macro_f1(self) -> float:
        """Mean F1 of the classes that have images."""
        return statistics.fmean(row.f1 for row in self.per_class if row.images)

    @property
    def majority_baseline(self) -> float:
        """Accuracy of always answering with the class that has most images here."""
        images = [row.images for row in self.per_class]
        return max(images) / sum(images)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; no NaN and no infinity among them.

        ``confusion`` has K rows of K counts; for more than 100 classes it is a mapping with the cells that are not 0:
        ``true``, ``predicted`` and ``images``, three lists of equal length.
        """
        confusion: Any = self.confusion.tolist() if len(self.confusion) <= _DENSE_CLASSES else _cells(self.confusion)
        return dataclasses.asdict(self) | {"confusion": confusion}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], where: str = "evaluation") -> Self:
        """The inverse of :meth:`to_dict`; other keys are passed over.

        Raises:
            InputError: a missing key or a wrong type, or a confusion matrix of another number of classes.
        """
        known = build(_Written, values, where, others=True)
        k, confusion = len(known.per_class), known.confusion
        dense = np.zeros((k, k), dtype=np.int64)
        try:
            if isinstance(confusion, _Cells):
                dense[confusion.true, confusion.predicted] = confusion.images
            elif [len(row) for row in confusion] == [k] * k:
                dense[:] = confusion
            else:
                raise ValueError(f"{len(confusion)} rows")
        except (IndexError, ValueError, OverflowError) as error:
            raise InputError(f"{where}.confusion: is not a matrix of {k} classes ({error}).") from None
        return cls(**{**vars(known), "confusion": dense})


@dataclass(frozen=True)
class _Cells:
    """The cells of a confusion matrix that are not 0."""

    true: list[int]
    predicted: list[int]
    images: list[int]


@dataclass(frozen=True)
class _Written:
    """An :class:`Evaluation` as its file has it."""

    accuracy: float
    top5_accuracy: float
    loss: float
    expected_calibration_error: float
    per_class: tuple[ClassRow, ...]
    calibration: tuple[CalibrationBin, ...]
    confusion: list[list[int]] | _Cells


def _cells(confusion: NDArray[np.int64]) -> dict[str, list[int]]:
    true, predicted = confusion.nonzero()
    return {
        "true": true.tolist(),
        "predicted": predicted.tolist(),
        "images": confusion[true, predicted].tolist(),
    }


def evaluate_predictions(probabilities: ArrayLike, labels: ArrayLike, classes: Sequence[str]) -> Evaluation:
    """Compares predicted probabilities with the truth.

    Args:
        probabilities: (N, K), each row summing to 1 within the rounding of a half-precision softmax.
        labels: (N,) true classes, integers in [0, K).
        classes: K names.

    Raises:
        ValueError: no images, fewer than 2 classes, shapes that do not match, or values outside their range.
    """
    from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

    p, y = _checked(np.asarray(probabilities), np.asarray(labels), len(classes))
    predicted = p.argmax(axis=1)
    known = np.arange(len(classes))
    precision, recall, f1, images = precision_recall_fscore_support(y, predicted, labels=known, zero_division=0.0)
    bins = calibration_bins(p.max(axis=1), predicted == y)
    true = p[np.arange(len(y)), y]
    return Evaluation(
        accuracy=float(np.mean(predicted == y)),
        top5_accuracy=_top_accuracy(p, y, 5),
        loss=float(-np.log(np.clip(true, _SMALLEST, 1.0)).mean()),
        expected_calibration_error=expected_calibration_error(bins),
        per_class=tuple(
            ClassRow(str(name), int(n), float(a), float(b), float(c))
            for name, n, a, b, c in zip(classes, images, precision, recall, f1, strict=True)
        ),
        calibration=bins,
        confusion=confusion_matrix(y, predicted, labels=known).astype(np.int64),
    )


def calibration_bins(
    confidence: NDArray[np.floating[Any]], correct: NDArray[np.bool_], n_bins: int = CALIBRATION_BINS
) -> tuple[CalibrationBin, ...]:
    """Sorts predictions into ``n_bins`` equal-width bins of confidence, open below and closed above.

    Args:
        confidence: (N,) probability given to the predicted class.
        correct: (N,) whether it was the right one.
        n_bins: how many bins divide (0, 1].
    """
    edges = np.arange(n_bins + 1) / n_bins
    index = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, n_bins - 1)
    rows = []
    for i in range(n_bins):
        inside = index == i
        count = int(inside.sum())
        mean = float(confidence[inside].mean()) if count else None
        accuracy = float(correct[inside].mean()) if count else None
        rows.append(CalibrationBin(float(edges[i]), float(edges[i + 1]), count, mean, accuracy))
    return tuple(rows)


def expected_calibration_error(bins: Iterable[CalibrationBin]) -> float:
    """Mean over images of |accuracy - confidence| of their bin (Guo et al. 2017, arXiv 1706.04599, section 2)."""
    filled = [(row.count, row.accuracy, row.confidence) for row in bins]
    gaps = [(n, abs(a - c)) for n, a, c in filled if a is not None and c is not None]
    total = sum(n for n, _ in gaps)
    return math.fsum(n * gap for n, gap in gaps) / total if total else 0.0


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


_ROUNDING = 1e-12  # differences of fractions that are equal but for their last bits


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


Verdict = Literal["better", "worse", "no evidence"]


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


def _checked(
    probabilities: NDArray[Any], labels: NDArray[Any], n_classes: int
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Both arrays, proved to be what :func:`evaluate_predictions` asks for."""
    if n_classes < 2 or not labels.size or probabilities.shape != (labels.size, n_classes):
        raise ValueError(
            f"probabilities of shape {probabilities.shape} do not fit {labels.size} labels and {n_classes} classes; "
            "at least one image and two classes are needed."
        )
    if labels.ndim != 1 or labels.dtype.kind not in "iu" or labels.min() < 0 or labels.max() >= n_classes:
        raise ValueError(f"labels have to be integers from 0 to {n_classes - 1}.")
    p = probabilities.astype(np.float64)
    # 1e-2 passes a bfloat16 softmax and stops logits.
    if not (np.all(p >= 0) and np.allclose(p.sum(axis=1), 1.0, rtol=0, atol=1e-2)):
        raise ValueError("probabilities have to be at least 0 and to sum to 1 in each row; are they logits?")
    return p, labels.astype(np.int64)


def _top_accuracy(p: NDArray[np.float64], labels: NDArray[np.int64], k: int) -> float:
    """Part of the labels among the ``k`` most probable classes; of equal ones the first count, as with argmax."""
    own = p[np.arange(len(labels)), labels][:, None]
    earlier = np.arange(p.shape[1]) < labels[:, None]
    rank = ((p > own) | ((p == own) & earlier)).sum(axis=1)
    return float((rank < k).mean())
