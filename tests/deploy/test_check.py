"""When two models count as one but for rounding."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest
from numpy.typing import NDArray

from convmixer.deploy.check import BATCHES, CheckImages, Comparison, compare
from convmixer.errors import InputError
from convmixer.inference.predictor import ImageInput


@dataclass
class Fixed:
    """Answers with the row of ``answers`` that an image's first pixel names."""

    answers: NDArray[np.float32]
    seen: list[int] = field(default_factory=list)
    name: str = "fixed"
    batch_size: int = 3
    classes: tuple[str, ...] = ("a", "b", "c")
    input: ImageInput = field(default_factory=lambda: ImageInput(1, 1))

    def logits(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        self.seen.append(len(images))
        return self.answers[images[:, 0, 0, 0]]


LOGITS = np.array([[3, 1, 0], [0, 2, 1], [0, 1, 1.00001], [5, 0, -5]], dtype=np.float32)
GIVEN = CheckImages("four", np.arange(4, dtype=np.uint8).reshape(4, 1, 1, 1), np.array([0, 1, 1, 2]))


def compared(other: NDArray[np.float64], scale: float = 1) -> Comparison:
    return compare(Fixed(LOGITS * np.float32(scale)), Fixed((other * scale).astype(np.float32)), GIVEN)


def test_the_same_model_is_equal_and_every_batch_size_is_tried() -> None:
    other = Fixed(LOGITS)
    found = compare(Fixed(LOGITS), other, GIVEN)
    assert (found.equal, found.largest_difference, found.same_answers, found.ties) == (True, 0, 4, 0)
    assert (found.accuracy, found.reference_accuracy) == (0.5, 0.5)
    assert other.seen == [*BATCHES, 3, 1]


def test_a_tie_that_rounding_decides_is_no_difference() -> None:
    other = LOGITS.astype(np.float64)
    other[2, 1] += 2e-5
    found = compared(other)
    assert (found.equal, found.same_answers, found.ties) == (True, 3, 1)
    assert found.accuracy == 0.75


@pytest.mark.parametrize("where", [(0, 2), (3, 1)])
def test_logits_that_differ_are_another_model_even_if_the_classes_agree(where: tuple[int, int]) -> None:
    other = LOGITS.astype(np.float64)
    other[where] += 2e-4
    found = compared(other)
    assert (found.equal, found.same_answers) == (False, 4)
    assert found.largest_difference == pytest.approx(2e-4, rel=1e-2)


def test_large_logits_have_a_relative_tolerance_and_no_number_is_none() -> None:
    assert compared(LOGITS * (1 + 5e-7), scale=1000).equal
    assert not compared(LOGITS * (1 + 1e-5), scale=1000).equal
    other = LOGITS.astype(np.float64)
    other[1, 1] = np.nan
    assert not compared(other).equal


def test_another_number_of_classes_is_refused() -> None:
    with pytest.raises(InputError, match=r"fixed: gives \(1, 2\) for 1 images, not \(1, 3\)"):
        compare(Fixed(LOGITS), Fixed(LOGITS[:, :2]), GIVEN)


@pytest.mark.parametrize(("error", "equal"), [(3e-4, True), (7e-4, True), (9e-4, False)])
def test_where_float32_is_less_exact_than_the_tolerance_its_own_error_counts(error: float, equal: bool) -> None:
    other, exact = LOGITS.astype(np.float64), LOGITS.astype(np.float64)
    exact[3, 0] += 2e-4
    other[3, 0] += 2e-4 + error
    reference, file = Fixed(LOGITS), Fixed(other.astype(np.float32))
    found = compare(reference, file, GIVEN, exact=lambda images: exact[images[:, 0, 0, 0]])
    assert found.equal is equal
    assert found.rounding == pytest.approx(2e-4, rel=1e-2)
    assert found.error == pytest.approx(error, rel=1e-2)
    assert not compare(reference, file, GIVEN).equal
