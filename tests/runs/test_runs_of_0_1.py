"""Run directories that version 0.1 wrote (commit 9f18f15): loaded, evaluated and resumed under today's names.

``identity.json`` is not one of a run's files: it has the hash that the version gave the configuration, and the keys and
shapes of the weights that it wrote.
"""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from convmixer.config import RunConfig
from convmixer.data import Dataset
from convmixer.inference import evaluate_run
from convmixer.models import build_model
from convmixer.runs import RunDir
from convmixer.training import train

OLD = Path(__file__).parents[1] / "fixtures" / "runs-0.1"
PARTS = {"base": ("linear", "depthwise"), "rh": ("rh", "depthwise"), "lc": ("lc", "depthwise")}
PARTS["bn"] = ("linear", "bottleneck")


@pytest.fixture(params=PARTS)
def old(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, RunDir, dict[str, Any]]:
    folder = tmp_path / "run"
    shutil.copytree(OLD / request.param, folder, ignore=shutil.ignore_patterns("identity.json"))
    return request.param, RunDir(folder), json.loads((OLD / request.param / "identity.json").read_text())


def test_the_configuration_means_the_same(old: tuple[str, RunDir, dict[str, Any]]) -> None:
    name, run, recorded = old
    config = run.config()
    assert (config.architecture.head, config.architecture.branch) == PARTS[name]
    assert config.identity_hash() == recorded["identity_hash"]
    assert RunConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    if name == "base":  # of the recipe strong-short
        assert (config.train.muon_lr, config.train.init_residual_gamma) == (0.03, 0.3)
    assert len(run.metrics()) == config.train.epochs
    assert run.status() == "finished"


def test_its_weights_fit_and_are_evaluated(old: tuple[str, RunDir, dict[str, Any]]) -> None:
    _, run, recorded = old
    info = run.dataset()
    model = build_model(run.config().architecture, len(info.classes), info.channels)
    assert {key: list(value.shape) for key, value in model.state_dict().items()} == recorded["weights"]
    weights = {key: torch.zeros(shape) for key, shape in recorded["weights"].items()}
    save_file(weights, run.path / "model.safetensors")
    evaluation = evaluate_run(run.path, device="cpu")
    assert evaluation.images == info.sizes["test"]
    assert evaluation.figures.loss == pytest.approx(math.log(10))  # without weights all classes are equally likely


def test_resuming_it_finds_that_it_is_finished(old: tuple[str, RunDir, dict[str, Any]], digits: Dataset) -> None:
    name, run, _ = old
    changed = {"head": PARTS[name][0], "branch": PARTS[name][1]}
    summary = train(run.config().replace(**changed), run.path, resume=True, dataset=digits)
    assert summary == run.summary()
    assert summary.test_accuracy == json.loads((OLD / name / "summary.json").read_text())["test_accuracy"]
