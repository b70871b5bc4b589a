"""A run that takes a fraction of a second: a tiny model on the digits."""

from __future__ import annotations

from typing import Any

import pytest

from convmixer.config import DataConfig, RunConfig
from convmixer.data import Dataset, load_dataset
from convmixer.presets import run_config


def tiny_config(**changes: Any) -> RunConfig:
    tiny = {
        "dataset": "digits",
        "dim": 8,
        "depth": 1,
        "kernel_size": 3,
        "batch_size": 400,
        "epochs": 2,
        "device": "cpu",
    }
    return run_config(**{**tiny, **changes})


@pytest.fixture(scope="session")
def digits() -> Dataset:
    return load_dataset(DataConfig(dataset="digits"))
