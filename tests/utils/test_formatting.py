"""Numbers as text, against what they should read like."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convmixer.utils.comparisons import MeanInterval, accuracy_interval, mean_interval
from convmixer.utils.formatting import (
    accuracy,
    count,
    duration,
    mean_accuracy,
    number,
    percent,
    plural,
    points,
    settings,
)


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ([0.9], "90.00%"),
        ([0.69, 0.70, 0.71], "70.00\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}2.48%"),
        ([0.97, 0.98, 0.999], "98.30% (94.6 to 100)"),  # t would say 102
        ([0.001, 0.01, 0.03], "1.37% (0.0 to 5.1)"),
        ([0.7771, 0.9137], "84.54% (2 seeds)"),  # ± 86.8 points
        ([0.8942, 0.8942], "89.42% (2 seeds)"),  # chance, not certainty
        ([0.9002, 0.9004], "90.03\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}0.13%"),
        ([0.2, 0.5, 0.8], "50.00% (0.0 to 100)"),
    ],
)
def test_means_over_seeds_never_claim_the_impossible(values: list[float], text: str) -> None:
    assert mean_accuracy(mean_interval(values)) == text


def test_no_mean() -> None:
    assert mean_accuracy(None) == "–"
    assert not MeanInterval(1, 0.5, None, None).informative


def test_a_run_is_given_with_what_its_images_leave_open() -> None:
    assert accuracy(17 / 18, 18) == "94.44% (74.2 to 99.0)"  # Wilson, by hand: 0.7424, 0.9901
    assert accuracy(1.0, 18) == "100.00% (82.4 to 100)"
    assert accuracy(0.5, None) == "50.00%"
    assert accuracy(None, 18) == "–"


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_its_ends_are_wilsons(counts: tuple[int, int]) -> None:
    correct, n = counts
    low, high = (float(end) for end in accuracy(correct / n, n).split("(")[1].rstrip(")").split(" to "))
    assert (low, high) == pytest.approx([100 * end for end in accuracy_interval(correct, n)], abs=0.0501)


@pytest.mark.parametrize(
    ("made", "text"),
    [
        (percent(0.9224), "92.24%"),
        (percent(None), "–"),
        (points(0.0081), "+0.81"),
        (points(-0.0004), "−0.04"),
        (points(0.00001), "0.00"),
        (duration(32.59), "32.6\N{NO-BREAK SPACE}s"),
        (duration(1234.4), "1,234\N{NO-BREAK SPACE}s"),
        (count(594186), "594,186"),
        (number(0.04663060489775), "0.04663"),
        (number((9, 9, 5, 5)), "9,9,5,5"),
        (number(False), "off"),
        (number(None), "–"),
        (settings({"lr": 0.01, "batch_size": 64}), "lr 0.01, batch_size 64"),
        (plural(1, "seed"), "1 seed"),
        (plural(2, "run"), "2 runs"),
    ],
)
def test_texts(made: Any, text: str) -> None:
    assert made == text
