"""Comparisons over seeds: against scipy, against plain loops, and by simulating how often they are wrong."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from convmixer.utils.comparisons import (
    PairedDifference,
    holm,
    main_effects,
    mean_interval,
    paired_difference,
    pareto_front,
    quarters,
)

seeded = st.dictionaries(st.integers(0, 6), st.floats(0, 1).map(lambda x: round(x, 4)), max_size=6)


@given(seeded, seeded)
def test_paired_difference_is_scipys_over_shared_seeds(values: dict[int, float], base: dict[int, float]) -> None:
    got = paired_difference(values, base)
    shared = sorted(set(values) & set(base))
    if not shared:
        assert got is None
        return
    assert got is not None
    differences = [values[s] - base[s] for s in shared]
    assert got.n == len(shared)
    assert got.mean == pytest.approx(np.mean(differences), abs=1e-12)
    if len({round(d, 9) for d in differences}) == 1:
        assert got.p_value is None
        assert got.verdict(got.p_value) == "no evidence"
        return
    want = scipy.stats.ttest_rel([values[s] for s in shared], [base[s] for s in shared])
    assert got.half_width is not None
    assert got.p_value == pytest.approx(want.pvalue, abs=1e-9)
    low, high = want.confidence_interval(0.95)
    assert (got.mean - got.half_width, got.mean + got.half_width) == pytest.approx((low, high), abs=1e-9)


@given(seeded)
def test_a_row_does_not_differ_from_itself(values: dict[int, float]) -> None:
    got = paired_difference(values, values)
    assert got is None or (got.mean, got.verdict(got.p_value)) == (0.0, "no evidence")


@pytest.mark.parametrize("difference", [0.0, 0.02])
def test_intervals_cover_the_truth_as_often_as_they_say(difference: float) -> None:
    """5 seeds whose own effect is ten times the noise: it cancels, as the seeds are the same in both rows."""
    rng, trials, covered, found = np.random.default_rng(0), 2000, 0, 0
    for _ in range(trials):
        seed_effect = rng.normal(0, 0.05, 5)
        base = dict(enumerate(0.9 + seed_effect + rng.normal(0, 0.005, 5)))
        row = dict(enumerate(0.9 + difference + seed_effect + rng.normal(0, 0.005, 5)))
        pair = paired_difference(row, base)
        assert pair is not None
        assert pair.half_width is not None
        covered += abs(pair.mean - difference) <= pair.half_width
        found += pair.verdict(pair.p_value) != "no evidence"
    noise = 4 * math.sqrt(0.05 * 0.95 / trials)
    assert covered / trials == pytest.approx(0.95, abs=noise)
    assert found / trials == pytest.approx(0.05, abs=noise) if difference == 0 else found / trials > 0.9


def test_mean_intervals_cover_the_truth_as_often_as_they_say() -> None:
    rng, trials = np.random.default_rng(0), 2000
    intervals = [mean_interval(rng.normal(0.9, 0.01, 3)) for _ in range(trials)]
    covered = sum(abs(interval.mean - 0.9) <= (interval.half_width or 0.0) for interval in intervals)
    assert covered / trials == pytest.approx(0.95, abs=4 * math.sqrt(0.05 * 0.95 / trials))


@pytest.mark.parametrize(
    ("mean", "p", "verdict"), [(0.1, 0.049, "better"), (-0.1, 0.049, "worse"), (0.1, 0.05, "no evidence")]
)
def test_verdicts(mean: float, p: float, verdict: str) -> None:
    assert PairedDifference(5, mean, 0.01, 0.01, 0.0).verdict(p) == verdict


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8), st.floats(0.001, 0.5))
def test_holm_rejects_what_the_step_down_procedure_rejects(p_values: list[float], level: float) -> None:
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    rejected = set(
        itertools.takewhile(lambda i: p_values[i] * (len(order) - order.index(i)) < level, order)
    )  # Holm's own wording
    assert {i for i, p in enumerate(holm(p_values)) if p < level} == rejected


def test_holm_keeps_false_findings_rare_where_single_tests_do_not() -> None:
    rng, trials, alone, corrected = np.random.default_rng(1), 2000, 0, 0
    for _ in range(trials):
        p_values = list(rng.random(6))
        alone += min(p_values) < 0.05
        corrected += min(holm(p_values)) < 0.05
    assert alone / trials > 0.2
    assert corrected / trials == pytest.approx(0.05, abs=4 * math.sqrt(0.05 * 0.95 / trials))


def factorial(figure: Any) -> list[tuple[dict[str, int], float]]:
    trials = [dict(zip("abc", values, strict=True)) for values in itertools.product(range(3), repeat=3)]
    return [(values, figure(values)) for values in trials]


def test_main_effects_of_a_sum_are_the_shares_of_its_terms() -> None:
    effects = main_effects(factorial(lambda v: 3.0 * v["a"] + 1.0 * v["b"]))
    assert [effect.name for effect in effects] == ["a", "b", "c"]
    assert [effect.share for effect in effects] == pytest.approx([0.9, 0.1, 0.0])
    assert effects[0].by_chance == pytest.approx(2 / 26)


def test_a_pure_interaction_has_no_main_effect() -> None:
    effects = main_effects(factorial(lambda v: (v["a"] - 1) * (v["b"] - 1)))
    assert [effect.share for effect in effects] == pytest.approx([0, 0, 0], abs=1e-12)


def test_noise_gets_what_chance_gives_on_average() -> None:
    rng = np.random.default_rng(2)
    shares = [effect.share for _ in range(300) for effect in main_effects(factorial(lambda v: rng.normal()))]
    assert np.mean(shares) == pytest.approx(2 / 26, abs=0.01)


@pytest.mark.parametrize("trials", [[], [({"a": 1}, 0.5)], [({"a": 1}, 0.5), ({"a": 2}, 0.5)]])
def test_no_variance_no_effects(trials: list[tuple[dict[str, int], float]]) -> None:
    assert main_effects(trials) == []


@given(st.lists(st.floats(0, 1), max_size=40))
def test_quarters_keep_order_and_are_few(values: list[float]) -> None:
    got = quarters(values)
    assert min(2, len(set(values))) <= len(set(got)) <= 4
    pairs = sorted(zip(values, got, strict=True))
    assert [centre for _, centre in pairs] == sorted(got)
    assert all(a[1] == b[1] for a, b in itertools.pairwise(pairs) if a[0] == b[0])


def test_quarters_by_hand() -> None:
    assert quarters([8, 1, 2, 3, 4, 5, 6, 7]) == [7.5, 1.5, 1.5, 3.5, 3.5, 5.5, 5.5, 7.5]


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=12))
def test_pareto_front_is_what_nothing_beats(points: list[tuple[float, float]]) -> None:
    def beaten(point: tuple[float, float]) -> bool:
        return any(c <= point[0] and v >= point[1] and (c, v) != point for c, v in points)

    front = pareto_front(points)
    assert sorted(front) == [i for i, point in enumerate(points) if not beaten(point)]
    assert [points[i][0] for i in front] == sorted(points[i][0] for i in front)
