"""Statistics of batch normalisation that are estimated anew for an evaluation."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

from convmixer.config import Engine, TrainConfig
from convmixer.data import Dataset
from convmixer.models import ConvMixer
from convmixer.runs import RunDir
from convmixer.training import train
from convmixer.training.batch_norm import is_precise, with_precise_statistics
from tests.helpers.runs import tiny_config


def network(engine: Engine = "plain") -> ConvMixer:
    torch.manual_seed(0)
    return ConvMixer(8, 2, kernel_size=3, in_channels=1, head="lc", dropout=0.5, drop_path=0.5, engine=engine)


def images(count: int) -> torch.Tensor:
    return torch.randint(0, 256, (count, 1, 8, 8), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)


def scaled(pixels: torch.Tensor) -> torch.Tensor:
    return pixels.float() / 100 - 1


@pytest.mark.parametrize("engine", ["plain", "fast"])
def test_they_are_those_of_the_images(engine: Engine) -> None:
    """One batch is the population: in evaluation every normalisation's output has mean β and deviation γ."""
    model, pixels = network(engine), images(300)
    precise = with_precise_statistics(model, pixels, scaled)
    precise.set_engine("plain")
    seen: dict[str, torch.Tensor] = {}
    for name, module in precise.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            module.register_forward_hook(lambda m, args, out, name=name: seen.__setitem__(name, out))
    with torch.no_grad():
        precise(scaled(pixels))
    assert len(seen) == 5
    for output in seen.values():
        torch.testing.assert_close(output.mean((0, 2, 3)), torch.zeros(8), rtol=0, atol=1e-3)  # unbiased variance
        torch.testing.assert_close(output.var((0, 2, 3)), torch.ones(8), rtol=2e-2, atol=0)  # ε in the denominator


def test_batches_are_taken_together() -> None:
    """Of the first normalisation, whose input depends on nothing before it, against all positions at once."""
    model, pixels = network(), images(1201)
    pixels[:400] //= 4  # so that batches differ
    before, random = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    precise = with_precise_statistics(model, pixels, scaled)
    with torch.no_grad():
        maps = model.stem[1](model.stem[0](scaled(pixels)))
    torch.testing.assert_close(precise.stem[2].running_mean, maps.mean((0, 2, 3)), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(precise.stem[2].running_var, maps.var((0, 2, 3)), rtol=1e-3, atol=1e-5)
    assert not precise.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)


def test_frozen_parts_keep_theirs() -> None:
    model = network().freeze("stem,blocks.0")
    precise = with_precise_statistics(model, images(50), scaled)
    changed = {name for name, t in precise.state_dict().items() if not torch.equal(t, model.state_dict()[name])}
    assert {name.split(".running")[0] for name in changed if "running" in name} == {
        "blocks.1.0.fn.2",
        "blocks.1.3",
        "head.0",
    }


def test_when() -> None:
    assert is_precise(TrainConfig(epochs=3), 13)
    assert not is_precise(TrainConfig(epochs=4), 10)
    assert is_precise(TrainConfig(epochs=400, precise_bn=True), 100)
    assert not is_precise(TrainConfig(epochs=1, precise_bn=False), 1)


@pytest.mark.parametrize("more", [{}, {"ema_decay": 0.5}])
def test_a_short_run_is_better_with_them_and_trains_as_without(
    tmp_path: Path, digits: Dataset, more: dict[str, float]
) -> None:
    accuracies, losses = {}, {}
    for precise in (None, False):
        run = RunDir(tmp_path / str(precise))
        sizes = {"dim": 32, "depth": 2, "batch_size": 64, "epochs": 1, "lr": 0.02, "randaugment": 0, "crop": "none"}
        config = tiny_config(**sizes, **more, precise_bn=precise)
        summary = train(config, run.path, dataset=digits, artifacts=False)
        accuracies[precise] = summary.test_accuracy or 0.0
        losses[precise] = [record.train_loss for record in run.metrics()]
        assert run.evaluation() is not None
    assert losses[None] == losses[False]
    assert accuracies[None] > accuracies[False] + 0.1


def test_the_field_at_its_default_is_no_part_of_the_identity() -> None:
    config = tiny_config()
    assert config.identity_hash() != config.replace(precise_bn=True).identity_hash()
    assert "precise_bn" in config.identity()
