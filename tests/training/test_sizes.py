"""Sizes that follow from the data."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convmixer.data import Dataset
from convmixer.errors import InputError
from convmixer.training.sizes import batch_size_for, check_sizes
from tests.training.conftest import tiny_config


@given(st.integers(1, 10**7))
def test_an_epoch_has_enough_steps_and_a_batch_enough_images(images: int) -> None:
    size = batch_size_for(images)
    assert size in (16, 32, 64, 128, 256, 512)
    assert size == 16 or images // size >= 40
    assert size == 512 or images // (2 * size) < 40  # the next one would be too large


def test_known_data() -> None:
    assert [batch_size_for(images) for images in (45_000, 50_000, 1_293)] == [512, 512, 32]


def test_what_was_asked_for_is_taken_where_there_are_as_many_images(digits: Dataset) -> None:
    images = digits.info.sizes["train"]
    assert check_sizes(tiny_config(batch_size=None), digits.info) == 32
    assert check_sizes(tiny_config(batch_size=300), digits.info) == 300
    assert check_sizes(tiny_config(batch_size=10**6), digits.info) == images


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"patch_size": 3}, "--patch-size: 3 does not divide the 8 pixels of digits"),
        ({"batch_size": 8, "accumulate": 5}, "--accumulate: 5 parts of a batch of 8 .* choose at most 4"),
    ],
)
def test_what_does_not_fit_is_refused(digits: Dataset, changes: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_sizes(tiny_config(**changes), digits.info)
