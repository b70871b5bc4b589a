"""Sizes that follow from the data."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from convmixer.config import TrainConfig
from convmixer.data import Dataset
from convmixer.errors import InputError
from convmixer.presets import run_config
from convmixer.runs import RunDir
from convmixer.training import train
from convmixer.training.sizes import batch_size_for, check_sizes, fit_batch, image_size_in
from convmixer.training.step import TrainStep
from tests.helpers.cli import Run
from tests.helpers.runs import tiny_config


@given(st.integers(1, 10**7))
def test_an_epoch_has_enough_steps_and_a_batch_enough_images(images: int) -> None:
    size = batch_size_for(images)
    assert size in (16, 32, 64, 128, 256)
    assert size == 16 or images // size >= 40
    assert size == 256 or images // (2 * size) < 40  # the next one would be too large


def test_known_data() -> None:
    assert [batch_size_for(images) for images in (45_000, 50_000, 1_293)] == [256, 256, 32]


def test_what_was_asked_for_is_taken_where_there_are_as_many_images(digits: Dataset) -> None:
    images = digits.info.sizes["train"]
    assert check_sizes(tiny_config(batch_size=None), digits.info) == 32
    assert check_sizes(tiny_config(batch_size=300), digits.info) == 300
    assert check_sizes(tiny_config(batch_size=10**6), digits.info) == images


@pytest.mark.slow
def test_a_recipes_batch_shrinks_to_40_steps_and_a_given_one_stays(convmixer: Run, digits: Dataset) -> None:
    config, hint = fit_batch(run_config(dataset="digits"), digits.info)
    assert config.train.batch_size == 32
    assert "Batches of 32 instead of the recipe's 512: 40 steps an epoch instead of 2 with these 1,293 images" in hint
    small = replace(digits.info, sizes={"train": 150})
    assert fit_batch(run_config(recipe="strong-short"), small)[0].train.batch_size == 16
    for kept in (run_config(), run_config(recipe="strong"), run_config(recipe="reference")):
        assert fit_batch(kept, replace(digits.info, sizes={"train": 45_000})) == (kept, "")

    tiny = ("train", "--dataset", "digits", "--dim", 8, "--depth", 1, "--kernel-size", 3, "--epochs", 1)
    for more, size in (((), 32), (("--batch_size", 512), 512)):
        status, out, err = convmixer(*tiny, *more, "--json")
        assert status == 0
        assert RunDir(json.loads(out)["run"]).config().train.batch_size == size
        assert ("instead of the recipe's 512" in err) == (size == 32)
    status, _, err = convmixer(*tiny, "--resume", "--json")  # the same directory is found
    assert status == 0
    assert len(list(Path("results/runs").iterdir())) == 2


def test_in_python_a_mapping_leaves_the_batch_to_the_data(tmp_path: Path, digits: Dataset) -> None:
    small = {"dataset": "digits", "dim": 8, "depth": 1, "kernel_size": 3, "epochs": 1}
    for _ in range(2):
        train(small, tmp_path / "run", dataset=digits, artifacts=False, resume=True)
        assert RunDir(tmp_path / "run").config().train.batch_size == 32
    train(small | {"batch_size": 512}, tmp_path / "given", dataset=digits, artifacts=False)
    assert RunDir(tmp_path / "given").config().train.batch_size == 512


@given(epochs=st.integers(1, 300), patch=st.integers(1, 7), start=st.integers(1, 20), more=st.integers(0, 20))
def test_images_grow_in_whole_patches(epochs: int, patch: int, start: int, more: int) -> None:
    settings = TrainConfig(epochs=epochs, image_size_start=start * patch)
    full = (start + more) * patch
    sizes = [image_size_in(settings, epoch, full, patch) for epoch in range(epochs)]
    assert sizes[0] == start * patch
    assert sizes == sorted(sizes)
    assert all(size % patch == 0 and size <= full for size in sizes)
    assert all(size == full for epoch, size in enumerate(sizes) if epoch >= 0.6 * epochs)


def test_growth_by_hand() -> None:
    settings = TrainConfig(epochs=10, image_size_start=16)
    assert [image_size_in(settings, epoch, 32, 2) for epoch in range(10)] == [16, 18, 22, 24, 26, 30, 32, 32, 32, 32]
    assert {image_size_in(TrainConfig(epochs=10), epoch, 32, 2) for epoch in range(10)} == {32}


@pytest.mark.slow
def test_growing_images_reach_the_model(tmp_path: Path, digits: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[torch.Tensor] = []
    update = TrainStep.__call__

    def spy(self: TrainStep, images: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        seen.append(images)
        return update(self, images, targets)

    monkeypatch.setattr(TrainStep, "__call__", spy)
    train(tiny_config(epochs=5, image_size_start=4), tmp_path / "grown", dataset=digits)
    assert [images.shape[-1] for images in seen[::3]] == [4, 6, 6, 8, 8]
    small, seen[:] = seen[0], []
    train(tiny_config(epochs=5), tmp_path / "full", dataset=digits)
    means = torch.nn.functional.avg_pool2d(seen[0], 2)
    correlation = torch.corrcoef(torch.stack((small.flatten(), means.flatten())))[0, 1]
    assert correlation > 0.95  # the same images, scaled down


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"patch_size": 3}, "--patch-size: 3 does not divide the 8 pixels of digits"),
        ({"image_size_start": 3}, "--image-size-start: 3 is not .* choose a multiple of 2 up to 8"),
        ({"image_size_start": 10}, "--image-size-start: 10 is not"),
        ({"batch_size": 8, "accumulate": 5}, "--accumulate: 5 parts of a batch of 8 .* choose at most 4"),
    ],
)
def test_what_does_not_fit_is_refused(digits: Dataset, changes: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_sizes(tiny_config(**changes), digits.info)
