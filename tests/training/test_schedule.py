"""The learning rate of every step, and that it is the one the optimiser uses."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from convmixer.config import TrainConfig
from convmixer.data import Dataset
from convmixer.training import train
from convmixer.training.schedule import learning_rate
from tests.helpers.runs import tiny_config


@given(epochs=st.integers(1, 200), steps=st.integers(1, 50), data=st.data())
def test_triangular_is_piecewise_linear(epochs: int, steps: int, data: st.DataObject) -> None:
    config = TrainConfig(schedule="triangular", lr=0.05, epochs=epochs)
    step = data.draw(st.integers(0, epochs * steps - 1))
    knots = [0, epochs * 2 / 5, epochs * 4 / 5, epochs]
    expected = np.interp((step + 1) / steps, knots, [0, 0.05, 0.05 / 20, 0])
    assert learning_rate(config, step, steps) == pytest.approx(expected, abs=1e-12)


@given(epochs=st.integers(1, 200), steps=st.integers(1, 50), warmup=st.floats(0, 10))
def test_cosine_warms_up_then_falls_to_zero(epochs: int, steps: int, warmup: float) -> None:
    config = TrainConfig(schedule="cosine", lr=0.1, epochs=epochs, warmup_epochs=warmup)
    rates = [learning_rate(config, step, steps) for step in range(epochs * steps)]
    peak = rates.index(max(rates))
    assert rates[: peak + 1] == sorted(rates[: peak + 1])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)
    assert max(rates) <= 0.1
    assert rates[-1] == pytest.approx(0, abs=1e-9)


def test_cosine_by_hand() -> None:
    config = TrainConfig(schedule="cosine", lr=1.0, epochs=5, warmup_epochs=1)
    rates = [learning_rate(config, step, 2) for step in range(10)]
    assert rates[:2] == pytest.approx([0.5, 1.0])
    assert rates[5] == pytest.approx(0.5 * (1 + math.cos(math.pi * 2 / 4)))


@given(epochs=st.integers(1, 200), steps=st.integers(1, 50), warmup=st.floats(0, 10), data=st.data())
def test_linear_is_piecewise_linear(epochs: int, steps: int, warmup: float, data: st.DataObject) -> None:
    config = TrainConfig(schedule="linear", lr=0.05, epochs=epochs, warmup_epochs=warmup)
    step = data.draw(st.integers(0, epochs * steps - 1))
    knots = [0, min(warmup, epochs / 2), epochs]
    expected = np.interp((step + 1) / steps, knots, [0, 0.05, 0])
    assert learning_rate(config, step, steps) == pytest.approx(expected, abs=1e-12)


@given(epochs=st.integers(1, 200), steps=st.integers(1, 50), warmup=st.floats(0, 10), data=st.data())
def test_constant_warms_up_and_stays(epochs: int, steps: int, warmup: float, data: st.DataObject) -> None:
    config = TrainConfig(schedule="constant", lr=0.05, epochs=epochs, warmup_epochs=warmup)
    step = data.draw(st.integers(0, epochs * steps - 1))
    expected = np.interp((step + 1) / steps, [0, min(warmup, epochs / 2), epochs], [0, 0.05, 0.05])
    assert learning_rate(config, step, steps) == pytest.approx(expected, abs=1e-12)


def test_onecycle_is_pytorchs() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    total = 1000
    oracle = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.3, total_steps=total + 1, cycle_momentum=False)
    config = TrainConfig(schedule="onecycle", lr=0.3, epochs=10)
    for step in range(total):
        optimizer.step()
        oracle.step()
        # Ours reads the schedule at the end of a step, and a cycle of ours is a step shorter than PyTorch's.
        assert learning_rate(config, step, total // 10) == pytest.approx(oracle.get_last_lr()[0], rel=0.02, abs=2e-7)


@pytest.mark.slow
@pytest.mark.parametrize("schedule", ["cosine", "triangular", "linear", "onecycle", "constant"])
def test_the_rate_reaches_the_optimiser_at_every_step(
    tmp_path: Path, digits: Dataset, monkeypatch: pytest.MonkeyPatch, schedule: str
) -> None:
    used: list[float] = []
    step = torch.optim.AdamW.step

    def spy(self: torch.optim.AdamW, *arguments: object, **options: object) -> object:
        used.extend(group["lr"] for group in self.param_groups)
        return step(self, *arguments, **options)

    monkeypatch.setattr(torch.optim.AdamW, "step", spy)
    config = tiny_config(lr=0.03, schedule=schedule, epochs=3)
    train(config, tmp_path / "run", dataset=digits)
    per_epoch = len(digits.splits["train"]) // 400
    assert used == [learning_rate(config.train, i, per_epoch) for i in range(3 * per_epoch)]
