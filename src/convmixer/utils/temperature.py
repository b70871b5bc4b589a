"""Temperature scaling: one number that repairs a classifier's confidence and changes no prediction.

Guo et al. 2017, "On Calibration of Modern Neural Networks", arXiv 1706.04599, section 4.2.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from convmixer.utils.metrics import Evaluation, evaluate_predictions

TEMPERATURES = (0.05, 20.0)
"""Range that is searched."""


@dataclass(frozen=True)
class TemperatureScaling:
    """A temperature, and what dividing the logits by it makes of a test set's calibration."""

    temperature: float
    """Above 1 the model was overconfident, below 1 it was underconfident."""
    validation_images: int
    """On which the temperature was fitted."""
    loss_before: float
    """Mean negative log likelihood in nats."""
    loss: float
    expected_calibration_error_before: float
    expected_calibration_error: float

    @classmethod
    def measure(
        cls, validation: tuple[ArrayLike, ArrayLike], test: tuple[ArrayLike, ArrayLike], before: Evaluation
    ) -> Self | None:
        """Fits the temperature on one set of logits (N, K) and labels (N,), and applies it to another.

        Args:
            validation: what the temperature is fitted on.
            test: what it is judged on; no image of it may be among those of ``validation``.
            before: the evaluation of ``test`` as it is.

        Returns:
            None where there is no best temperature, see :func:`fit_temperature`.
        """
        temperature = fit_temperature(*validation)
        if temperature is None:
            return None
        probabilities = np.exp(_log_softmax(np.asarray(test[0], dtype=np.float64) / temperature))
        after = evaluate_predictions(probabilities, test[1], [row.name for row in before.per_class])
        return cls(
            temperature=temperature,
            validation_images=len(np.asarray(validation[1])),
            loss_before=before.loss,
            loss=after.loss,
            expected_calibration_error_before=before.expected_calibration_error,
            expected_calibration_error=after.expected_calibration_error,
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def fit_temperature(logits: ArrayLike, labels: ArrayLike) -> float | None:
    """The temperature that minimises the mean negative log likelihood of softmax(logits / temperature).

    The likelihood is convex in 1 / temperature, so a search along one dimension finds its only minimum.

    Args:
        logits: (N, K), finite.
        labels: (N,) integers in [0, K).

    Returns:
        A number within :data:`TEMPERATURES`; None if all predictions are correct, as the likelihood then rises all
        the way to temperature 0.

    Raises:
        ValueError: no images, shapes that do not match, or logits that are not finite.
    """
    from scipy.optimize import minimize_scalar

    scores, known = np.asarray(logits, dtype=np.float64), np.asarray(labels)
    if scores.ndim != 2 or known.shape != scores.shape[:1] or not len(known) or not np.isfinite(scores).all():
        raise ValueError(f"finite logits (N, K) and labels (N,) are needed, got {scores.shape} and {known.shape}.")
    if (scores.argmax(axis=1) == known).all():
        return None
    rows = np.arange(len(known))

    def loss(log_temperature: float) -> float:
        return -float(_log_softmax(scores / np.exp(log_temperature))[rows, known].mean())

    low, high = np.log(TEMPERATURES)
    found = minimize_scalar(loss, bounds=(low, high), method="bounded", options={"xatol": 1e-6})
    return float(np.exp(found.x).clip(*TEMPERATURES))


def _log_softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    shifted = logits - logits.max(axis=1, keepdims=True)
    result: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return result
