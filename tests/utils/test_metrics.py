"""Metrics against plain loops, hand-computed cases and independent implementations."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from convmixer.utils.comparisons import accuracy_interval, mean_interval
from convmixer.utils.metrics import Evaluation, calibration_bins, evaluate_predictions, expected_calibration_error

# The first example imports scikit-learn, which takes longer than the deadline.
patient = settings(deadline=None, max_examples=60)

Problem = tuple[NDArray[np.float64], NDArray[np.int64]]


@st.composite
def problems(draw: st.DrawFn) -> Problem:
    """Probabilities (N, K) and labels; coarse ones among them, for ties and classes that never occur."""
    n, k = draw(st.integers(1, 40)), draw(st.integers(2, 9))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    p = rng.dirichlet(np.full(k, 0.3), size=n)
    if draw(st.booleans()):
        p = np.floor(p * 4) + np.eye(k)[rng.integers(0, k, n)]
        p /= p.sum(axis=1, keepdims=True)
    return p, rng.integers(0, draw(st.integers(1, k)), n)


def names(k: int) -> list[str]:
    return [f"class {i}" for i in range(k)]


def evaluated(problem: Problem) -> Evaluation:
    p, y = problem
    return evaluate_predictions(p, y, names(p.shape[1]))


def slow(problem: Problem) -> dict[str, Any]:
    """The definitions, an image at a time."""
    p, y = problem
    n, k = p.shape
    confusion = [[0] * k for _ in range(k)]
    top5, loss = 0, 0.0
    bins: dict[int, list[tuple[float, bool]]] = {}
    for row, label in zip(p.tolist(), y.tolist(), strict=True):
        order = sorted(range(k), key=lambda c: (-row[c], c))
        confusion[label][order[0]] += 1
        top5 += label in order[:5]
        loss -= math.log(max(row[label], float(np.finfo(np.float32).tiny)))
        confidence = max(row)
        number = next((m for m in range(15) if m / 15 < confidence <= (m + 1) / 15), 14)
        bins.setdefault(number, []).append((confidence, order[0] == label))
    gaps = [abs(sum(ok for _, ok in members) - sum(c for c, _ in members)) for members in bins.values()]
    rows = []
    for c in range(k):
        hits, truly, called = confusion[c][c], sum(confusion[c]), sum(row[c] for row in confusion)
        precision, recall = (hits / called if called else 0.0), (hits / truly if truly else 0.0)
        f1 = 2 * precision * recall / (precision + recall) if hits else 0.0
        rows.append((truly, precision, recall, f1))
    accuracy = sum(confusion[c][c] for c in range(k)) / n
    return {
        "accuracy": accuracy,
        "top5": top5 / n,
        "loss": loss / n,
        "ece": sum(gaps) / n,
        "rows": rows,
        "c": confusion,
    }


@patient
@given(problems())
def test_agrees_with_the_definitions(problem: Problem) -> None:
    got, want = evaluated(problem), slow(problem)
    assert got.accuracy == pytest.approx(want["accuracy"])
    assert got.top5_accuracy == pytest.approx(want["top5"])
    assert got.loss == pytest.approx(want["loss"])
    assert got.expected_calibration_error == pytest.approx(want["ece"], abs=1e-12)
    assert got.confusion.tolist() == want["c"]
    rows = [(row.images, row.precision, row.recall, row.f1) for row in got.per_class]
    np.testing.assert_allclose(rows, want["rows"], atol=1e-12)


@patient
@given(problems())
def test_what_always_holds(problem: Problem) -> None:
    got, n = evaluated(problem), len(problem[1])
    assert got.confusion.sum() == n == sum(row.count for row in got.calibration) == sum(r.images for r in got.per_class)
    assert got.accuracy == pytest.approx(np.trace(got.confusion) / n)
    assert 0 <= got.expected_calibration_error <= 1
    assert got.accuracy <= got.top5_accuracy <= 1
    assert got.loss >= 0
    assert len(got.calibration) == 15


@patient
@given(problems(), st.randoms(use_true_random=False))
def test_the_order_of_images_does_not_matter(problem: Problem, random: Any) -> None:
    p, y = problem
    order = list(range(len(y)))
    random.shuffle(order)
    first, second = evaluated(problem).to_dict(), evaluated((p[order], y[order])).to_dict()
    assert first["confusion"] == second["confusion"]
    for key in ("accuracy", "top5_accuracy", "loss", "expected_calibration_error"):
        assert first[key] == pytest.approx(second[key], abs=1e-12)


@patient
@given(problems())
def test_json_has_no_nan_and_comes_back(problem: Problem) -> None:
    values = evaluated(problem).to_dict()
    text = json.dumps(values, allow_nan=False)
    assert Evaluation.from_dict(json.loads(text)).to_dict() == values


def test_three_images_by_hand() -> None:
    p = [[0.7, 0.2, 0.1], [0.5, 0.4, 0.1], [0.1, 0.3, 0.6]]
    got = evaluate_predictions(p, [0, 1, 2], ["cat", "dog", "eel"])
    assert got.accuracy == pytest.approx(2 / 3)
    assert got.top5_accuracy == 1.0  # five of three classes
    assert got.loss == pytest.approx(-(math.log(0.7) + math.log(0.4) + math.log(0.6)) / 3)
    assert got.confusion.tolist() == [[1, 0, 0], [1, 0, 0], [0, 0, 1]]
    # Each alone in its bin: right at 0.7, wrong at 0.5, right at 0.6.
    assert got.expected_calibration_error == pytest.approx((0.3 + 0.5 + 0.4) / 3)
    cat, dog, eel = got.per_class
    assert (cat.name, cat.images, cat.precision, cat.recall) == ("cat", 1, 0.5, 1.0)
    assert cat.f1 == pytest.approx(2 / 3)
    assert (dog.precision, dog.recall, dog.f1) == (0.0, 0.0, 0.0)
    assert (eel.precision, eel.recall, eel.f1) == (1.0, 1.0, 1.0)


@given(problems())
@patient
def test_unequal_classes_are_judged_as_scikit_learn_does(problem: Problem) -> None:
    p, y = problem
    found, predicted = evaluated(problem), p.argmax(axis=1)
    options = {"labels": np.unique(y), "average": "macro", "zero_division": 0.0}
    assert found.balanced_accuracy == pytest.approx(sklearn.metrics.recall_score(y, predicted, **options))
    assert found.macro_f1 == pytest.approx(sklearn.metrics.f1_score(y, predicted, **options))
    constant = np.full_like(y, np.bincount(y).argmax())
    assert found.majority_baseline == pytest.approx(np.mean(constant == y))


def test_top5_with_more_than_five_classes() -> None:
    p = np.array([[0.3, 0.2, 0.15, 0.13, 0.12, 0.1]] * 6)
    assert evaluate_predictions(p, np.arange(6), names(6)).top5_accuracy == pytest.approx(5 / 6)


def test_an_impossible_image_keeps_the_loss_finite() -> None:
    got = evaluate_predictions(np.eye(2, dtype=np.float32), [1, 0], names(2))
    assert got.accuracy == 0.0
    assert got.loss == pytest.approx(87.3365, abs=1e-3)
    assert got.expected_calibration_error == 1.0


def test_bins_are_closed_above() -> None:
    bins = calibration_bins(np.array([3 / 15, 3 / 15 + 1e-9, 1.0]), np.array([True, False, True]))
    assert [row.count for row in bins] == [0, 0, 1, 1] + [0] * 10 + [1]
    assert (bins[2].low, bins[2].high) == (2 / 15, 3 / 15)
    assert (bins[0].confidence, bins[0].accuracy) == (None, None)
    assert expected_calibration_error(bins[:2]) == 0.0


def test_calibrated_predictions_have_a_small_error() -> None:
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.ones(4), size=20_000)
    labels = (p.cumsum(axis=1) > rng.random((20_000, 1))).argmax(axis=1)
    assert evaluate_predictions(p, labels, names(4)).expected_calibration_error < 0.015


@pytest.mark.parametrize(
    ("p", "y", "message"),
    [
        ([[0.5, 0.5]], [0, 1], "do not fit"),
        (np.empty((0, 2)), np.empty(0, dtype=int), "at least one image"),
        ([[1.0]], [0], "two classes"),
        ([[0.5, 0.5]], [2], "from 0 to 1"),
        ([[0.5, 0.5]], [-1], "from 0 to 1"),
        ([[0.5, 0.5]], [0.0], "integers"),
        ([[3.0, -2.0]], [0], "logits"),
        ([[2.0, 3.0]], [0], "logits"),
        ([[math.nan, 1.0]], [0], "logits"),
    ],
)
def test_nonsense_is_refused(p: Any, y: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        evaluate_predictions(p, y, names(np.asarray(p).shape[1]))


@patient
@given(st.integers(1, 20_000), st.data())
def test_accuracy_interval_is_wilsons(total: int, data: st.DataObject) -> None:
    correct = data.draw(st.integers(0, total))
    low, high = accuracy_interval(correct, total)
    want = scipy.stats.binomtest(correct, total).proportion_ci(method="wilson")
    assert (low, high) == pytest.approx((want.low, want.high), abs=1e-9)
    assert 0.0 <= low <= correct / total <= high <= 1.0


@pytest.mark.parametrize(("correct", "total"), [(1, 0), (-1, 5), (6, 5)])
def test_accuracy_interval_refuses_the_impossible(correct: int, total: int) -> None:
    with pytest.raises(ValueError, match="impossible"):
        accuracy_interval(correct, total)


def test_mean_interval_by_hand() -> None:
    got = mean_interval([1.0, 2.0, 3.0])
    assert (got.n, got.mean, got.std) == (3, 2.0, 1.0)
    assert got.half_width == pytest.approx(4.302652730 / math.sqrt(3))  # t(0.975, 2) from a printed table


@patient
@given(st.lists(st.floats(0, 1), min_size=2, max_size=12))
def test_mean_interval_is_students(values: list[float]) -> None:
    got = mean_interval(values)
    assert got.std == pytest.approx(np.std(values, ddof=1), abs=1e-12)
    want = scipy.stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / math.sqrt(len(values))
    assert got.half_width == pytest.approx(want, abs=1e-12)


def test_one_seed_says_nothing_of_the_spread() -> None:
    got = mean_interval([0.5])
    assert (got.n, got.mean, got.std, got.half_width) == (1, 0.5, None, None)


@pytest.mark.parametrize("values", [[], [0.5, math.nan], [math.inf]])
def test_mean_interval_refuses_what_has_no_mean(values: list[float]) -> None:
    with pytest.raises(ValueError, match="finite"):
        mean_interval(values)


def test_importing_loads_nothing_heavy() -> None:
    code = (
        "import sys, convmixer.utils.metrics, convmixer.utils.visualization;"
        "print([m for m in ('torch', 'sklearn', 'scipy', 'matplotlib', 'seaborn', 'pandas') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
