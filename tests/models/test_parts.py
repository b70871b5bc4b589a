"""Heads and branches in their registries: new ones, combinations, kernels of several sizes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from convmixer.cli import main
from convmixer.config import ModelConfig, RunConfig
from convmixer.data import Dataset
from convmixer.errors import InputError
from convmixer.models import ConvMixer, create_model
from convmixer.models.engines import auto
from convmixer.parts.branches import BRANCHES, Block, Branch
from convmixer.parts.heads import HEADS
from convmixer.presets import run_config
from convmixer.runs import RunDir
from convmixer.training import train
from tests.helpers.runs import tiny_config


def cosine_head(dim: int, n_classes: int) -> nn.Module:
    """A toy: features of unit length in front of the classifier."""
    return nn.Sequential(nn.LayerNorm(dim, elementwise_affine=False), nn.Linear(dim, n_classes))


def pooling_branch(block: Block) -> nn.Module:
    """A toy: the mean over a window instead of a convolution."""
    return nn.AvgPool2d(block.kernel_size, stride=1, padding=block.kernel_size // 2)


@pytest.mark.slow
def test_one_line_adds_a_head_and_one_a_branch(
    tmp_path: Path, digits: Dataset, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(InputError, match="head: 'cosine' is unknown"):
        run_config(head="cosine")
    monkeypatch.setitem(HEADS, "cosine", cosine_head)
    monkeypatch.setitem(BRANCHES, "pooling", Branch(pooling_branch))
    config = tiny_config(head="cosine", branch="pooling", epochs=1)
    assert train(config, tmp_path / "run", dataset=digits).status == "finished"
    assert RunConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    flags = "--dataset digits --dim 8 --depth 1 --kernel-size 3 --epochs 1 --device cpu --head cosine --branch pooling"
    with pytest.raises(SystemExit) as stop:
        main(["train", *flags.split(), "--out", str(tmp_path / "cli")])
    assert stop.value.code == 0
    assert RunDir(tmp_path / "cli").config().architecture.branch == "pooling"
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main(["models"])
    assert "A toy: the mean over a window" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("branch", BRANCHES)
def test_any_head_goes_with_any_branch(head: str, branch: str, tmp_path: Path, digits: Dataset) -> None:
    model = ConvMixer(8, 2, head=head, branch=branch, n_classes=3)
    model(torch.randn(4, 3, 8, 8)).square().sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    if (head, branch) == ("rh", "bottleneck"):
        train(tiny_config(head=head, branch=branch, epochs=5, batch_size=64), tmp_path / "run", dataset=digits)
        losses = [record.train_loss for record in RunDir(tmp_path / "run").metrics()]
        assert losses[-1] < 0.9 * losses[0]


def test_each_block_has_its_kernel() -> None:
    model = create_model("convmixer_bn", dim=8, depth=4, kernel_size=(9, 9, 5, 3))
    assert [block[0].fn[3].kernel_size[0] for block in model.blocks] == [9, 9, 5, 3]
    assert model(torch.randn(2, 3, 8, 8)).shape == (2, 10)


def test_equal_kernels_are_one_number() -> None:
    several, one = (run_config(dim=8, depth=4, kernel_size=kernel) for kernel in ([5, 5, 5, 5], 5))
    assert several == one
    assert several.identity_hash() == one.identity_hash()
    assert several.identity_hash() != run_config(dim=8, depth=4, kernel_size=(5, 5, 5, 3)).identity_hash()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kernel_size": (9, 9, 5)}, "9,9,5 has 3 numbers, but depth is 4"),
        ({"kernel_size": (9, 9, 5, 4)}, "4 is even"),
        ({"kernel_size": (9, 9, 5, 0)}, "0 is out of range"),
        ({"kernel_size": ()}, "0 numbers"),
        ({"kernel_size": "9,9,5,5"}, "expected int or several values"),
        ({"branch": "depthwse"}, "did you mean 'depthwise'"),
    ],
)
def test_impossible_sizes_get_a_sentence(changes: dict[str, Any], message: str) -> None:
    for make in (ModelConfig, ConvMixer):
        with pytest.raises(InputError, match=message) as caught:
            make(**{"dim": 8, "depth": 4, **changes})
        assert isinstance(caught.value, ValueError)


@pytest.mark.slow
def test_kernels_by_block_train_resume_and_evaluate(tmp_path: Path) -> None:
    flags = "--dataset digits --dim 8 --depth 4 --kernel-size 9,9,5,5 --epochs 1 --device cpu"
    for more in ([], ["--resume"]):
        with pytest.raises(SystemExit) as stop:
            main(["train", *flags.split(), "--out", str(tmp_path / "run"), *more])
        assert stop.value.code == 0
    assert json.loads((tmp_path / "run" / "config.json").read_text())["architecture"]["kernel_size"] == [9, 9, 5, 5]
    with pytest.raises(SystemExit) as stop:
        main(["evaluate", str(tmp_path / "run"), "--device", "cpu"])
    assert stop.value.code == 0


def test_auto_measures_each_kind_of_block_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auto, "_known", {})
    monkeypatch.setattr(auto, "SMALL_WORK", 0)
    seen: list[int] = []

    def measure(network: auto.Probe, x: torch.Tensor, captured: bool) -> dict[str, float]:
        side = network.blocks[0][0].fn[0].kernel_size[0]
        seen.append(side)
        return {"plain": 1.0, "fast": 0.5 if side == 9 else 1.2}  # 2 × 0.5 + 3 × 1.2 = 4.6 of 5

    monkeypatch.setattr(auto, "measure", measure)
    model = create_model("convmixer", dim=8, depth=5, kernel_size=(9, 5, 5, 9, 5))
    assert model.engine_for(torch.randn(2, 3, 8, 8)) == "fast"
    assert seen == [9, 5]
