"""What a classifier's predictions are worth: accuracy, calibration, confusion.

Pure functions over numpy arrays. Shapes: N images, K classes. Accuracies are fractions in [0, 1].
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from convmixer.errors import InputError
from convmixer.records import build

CALIBRATION_BINS = 15
"""As in Guo et al. 2017, arXiv 1706.04599, table 1."""

# A float32 softmax underflows below it; with it the loss of an image stays finite, at most 87.4.
_SMALLEST = float(np.finfo(np.float32).tiny)
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
