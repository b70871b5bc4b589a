"""A lack of memory is said before and after it, with the batches that would fit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from convmixer.data import Dataset
from convmixer.errors import InputError
from convmixer.runs import RunDir
from convmixer.runtime.memory import free_memory
from convmixer.training import train
from convmixer.training.memory import StepMemory, lack_of_memory_hint
from tests.helpers.runs import tiny_config

CPU = torch.device("cpu")
MIB = 2**20


def test_what_is_advised_would_fit(digits: Dataset) -> None:
    config = tiny_config(batch_size=1024, dim=64, depth=2)
    needed = StepMemory.estimate(config, digits.info, CPU)
    assert needed.advice(needed.total) == ""
    free = needed.total // 5
    advice = needed.advice(free)
    assert "--batch-size 128 would fit, or --accumulate" in advice
    assert StepMemory.estimate(config.replace(batch_size=128), digits.info, CPU).total < free
    parts = int(advice.partition("--accumulate ")[2].split(",")[0])
    assert StepMemory.estimate(config.replace(accumulate=parts), digits.info, CPU).total < free
    assert "no --batch-size would fit" in needed.advice(needed.fixed)
    assert "about 14,901 GiB, and 20 GiB were free" in StepMemory(16 * 10**12, 1, 1, 1, 1).advice(20 * 2**30)


def test_half_precision_and_the_fast_engine_take_half(digits: Dataset) -> None:
    config = tiny_config(batch_size=64, dim=64, depth=2)
    whole = StepMemory.estimate(config, digits.info, CPU).for_image
    assert StepMemory.estimate(config, digits.info, CPU, "fast").for_image == pytest.approx(whole / 2, rel=0.01)
    half = config.replace(precision="bfloat16")
    assert StepMemory.estimate(half, digits.info, CPU).for_image == pytest.approx(whole / 2, rel=0.01)


def test_estimating_draws_no_random_number(digits: Dataset) -> None:
    before = torch.get_rng_state()
    StepMemory.estimate(tiny_config(dim=24), digits.info, CPU)
    assert torch.equal(before, torch.get_rng_state())


@pytest.fixture
def little(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("convmixer.training.memory.free_memory", lambda device: MIB)


@pytest.mark.usefixtures("little")
def test_a_run_that_ends_for_lack_of_memory_says_what_would_fit(
    tmp_path: Path, digits: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: object) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 12345 bytes.")

    monkeypatch.setattr("convmixer.training.loop.TrainingLoop.run", fail)
    with pytest.raises(InputError, match=r"training needs more memory than there is; a step takes about .* would fit"):
        train(tiny_config(batch_size=512), tmp_path / "run", dataset=digits)
    assert RunDir(tmp_path / "run").status() == "interrupted"  # not crashed


@pytest.mark.usefixtures("little")
def test_a_run_that_will_hardly_fit_is_warned_of(digits: Dataset) -> None:
    hint = lack_of_memory_hint(tiny_config(batch_size=512), digits.info, CPU, "plain")
    assert hint.startswith("This may need more memory than there is: a step takes about ")


def test_nothing_is_said_where_there_is_enough(digits: Dataset) -> None:
    assert lack_of_memory_hint(tiny_config(batch_size=16), digits.info, CPU, "plain") == ""


@pytest.mark.skipif(not Path("/proc/meminfo").is_file(), reason="Linux says how much is free")
def test_free_memory() -> None:
    free = free_memory(CPU)
    assert free is not None
    assert free > MIB
