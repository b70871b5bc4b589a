"""Temperature scaling finds the temperature that made-up labels were drawn with, and repairs what it should."""

from __future__ import annotations

import numpy as np
import pytest

from convmixer.utils.metrics import Evaluation, evaluate_predictions
from convmixer.utils.temperature import TEMPERATURES, TemperatureScaling, fit_temperature


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def drawn(count: int, temperature: float, seed: int, classes: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """Logits, and labels drawn from softmax(logits / temperature): this temperature is the right one."""
    random = np.random.default_rng(seed)
    logits = random.normal(0, 3, (count, classes))
    labels = [random.choice(classes, p=row) for row in softmax(logits / temperature)]
    return logits, np.array(labels)


def judged(logits: np.ndarray, labels: np.ndarray) -> Evaluation:
    return evaluate_predictions(softmax(logits), labels, [str(k) for k in range(logits.shape[1])])


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5, 6.0])
def test_a_known_temperature_is_recovered(temperature: float) -> None:
    assert fit_temperature(*drawn(20_000, temperature, seed=0)) == pytest.approx(temperature, rel=0.05)


def test_it_is_the_best_on_a_fine_grid() -> None:
    logits, labels = drawn(300, 2.0, seed=1)
    grid = np.geomspace(*TEMPERATURES, 4001)
    losses = [-np.log(softmax(logits / t)[np.arange(300), labels]).mean() for t in grid]
    assert fit_temperature(logits, labels) == pytest.approx(grid[int(np.argmin(losses))], rel=2e-3)


def test_an_overconfident_predictor_is_repaired() -> None:
    validation, test = drawn(2000, 3.0, seed=2), drawn(4000, 3.0, seed=3)
    before = judged(*test)
    result = TemperatureScaling.measure(validation, test, before)
    assert result.temperature > 2.5
    assert result.validation_images == 2000
    assert (result.loss_before, result.expected_calibration_error_before) == (
        before.loss,
        before.expected_calibration_error,
    )
    after = judged(test[0] / result.temperature, test[1])
    assert (result.loss, result.expected_calibration_error) == pytest.approx(
        (after.loss, after.expected_calibration_error)
    )
    assert before.expected_calibration_error > 0.2
    assert after.expected_calibration_error < 0.04
    assert after.loss < before.loss
    assert after.accuracy == before.accuracy
    assert (after.confusion == before.confusion).all()


def test_without_a_mistake_there_is_no_best_temperature() -> None:
    logits = np.array([[2.0, 0.0], [0.0, 2.0]])
    assert fit_temperature(logits, [0, 1]) is None
    assert TemperatureScaling.measure((logits, [0, 1]), (logits, [0, 0]), judged(logits, np.array([0, 0]))) is None


def test_it_stays_within_the_range() -> None:
    assert fit_temperature([[2.0, 0.0], [0.0, 2.0]], [1, 0]) == pytest.approx(TEMPERATURES[1], rel=1e-3)


def test_huge_logits_are_no_obstacle() -> None:
    assert fit_temperature([[1e4, 0.0], [1e4, 0.0], [0.0, 1e4]], [0, 1, 1]) == pytest.approx(TEMPERATURES[1], rel=1e-3)


@pytest.mark.parametrize(
    ("logits", "labels"),
    [(np.zeros((0, 3)), []), (np.zeros((2, 3)), [0]), ([[np.nan, 0.0]], [0]), ([1.0, 2.0], [0, 1])],
)
def test_what_is_no_set_of_logits_is_refused(logits: object, labels: object) -> None:
    with pytest.raises(ValueError, match="finite logits"):
        fit_temperature(logits, labels)
