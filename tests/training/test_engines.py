"""Training with either engine on real images: the same curve, as far as chance lets it be."""

from __future__ import annotations

import os

import pytest
import torch
from torch import Tensor

from convmixer.config import Engine
from convmixer.data import Dataset, Split, load_dataset
from convmixer.kernels import dispatch
from convmixer.presets import run_config
from convmixer.training.build import new_model
from convmixer.training.loop import TrainingLoop

STEPS, WINDOW = 200, 20
IMAGES = os.environ.get("CONVMIXER_TEST_IMAGES")


@pytest.fixture(scope="module")
def images() -> Dataset:
    if not IMAGES:
        pytest.skip("CONVMIXER_TEST_IMAGES names no folder of images")
    dataset = load_dataset(run_config(dataset=f"folder:{IMAGES}").data)
    order = torch.randperm(len(dataset.splits["train"]), generator=torch.Generator().manual_seed(0))
    few: Split = dataset.splits["train"].take(order[: STEPS * 32])
    return Dataset(dataset.info, {**dataset.splits, "train": few})


def losses(dataset: Dataset, engine: Engine, seed: int, precision: str) -> Tensor:
    """Means of the losses of every WINDOW steps."""
    sizes = {"dim": 32, "depth": 3, "kernel_size": 5, "patch_size": 4, "batch_size": 32, "epochs": 1}
    config = run_config("convmixer", "reference", **sizes, engine=engine, seed=seed, precision=precision)
    cpu = torch.device("cpu")
    loop = TrainingLoop(config, dataset, new_model(config, dataset.info, cpu), cpu)
    loop.model.train()
    loop.update.set_lr_scale(0.2)
    with dispatch.record() as fused:
        loss = [loop.update(images, labels)[0] for images, labels in loop.batches.epoch(0)]
    assert len(loss) == STEPS
    assert bool(fused) == (engine == "fast")
    return torch.stack(loss).view(-1, WINDOW).mean(1)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_fast_follows_plain_within_the_spread_of_seeds(images: Dataset, precision: str) -> None:
    plain = torch.stack([losses(images, "plain", seed, "float32") for seed in range(3)])
    fast = torch.stack([losses(images, "fast", seed, precision) for seed in range(3)])
    assert (plain[:, -1] < plain[:, 0] - 0.2).all()  # something was learnt
    spread = (plain.amax(0) - plain.amin(0)).mean()
    assert (fast - plain).abs().mean() < spread
