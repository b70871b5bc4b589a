"""A run that takes a fraction of a second: a tiny model on the digits."""

from __future__ import annotations

import pytest

from convmixer.config import DataConfig
from convmixer.data import Dataset, load_dataset


@pytest.fixture(scope="session")
def digits() -> Dataset:
    return load_dataset(DataConfig(dataset="digits"))
