"""Predicting with a run needs no PyTorch, and gives what PyTorch gives."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from convmixer.data import Dataset
from convmixer.errors import InputError
from convmixer.inference import load
from convmixer.inference.plan_predictor import PlanPredictor
from convmixer.kernels import plan
from convmixer.runs import RunDir
from convmixer.training import train
from tests.helpers.cli import Run
from tests.helpers.processes import without_torch
from tests.helpers.runs import tiny_config

pytestmark = pytest.mark.skipif(plan.library() is None, reason="no C++ compiler")

NETWORKS: list[dict[str, Any]] = [{}, {"head": "rh", "branch": "bottleneck"}, {"head": "lc", "activation": "relu"}]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, digits: Dataset) -> Path:
    out = tmp_path_factory.mktemp("plan") / "run"
    train(tiny_config(epochs=1), out, dataset=digits, artifacts=False)
    return out


@pytest.mark.slow
@pytest.mark.parametrize("sizes", NETWORKS)
def test_it_answers_as_pytorch_does(sizes: dict[str, Any], tmp_path: Path, digits: Dataset) -> None:
    train(tiny_config(epochs=1, **sizes), tmp_path / "run", dataset=digits, artifacts=False)
    own, images = PlanPredictor.load(RunDir(tmp_path / "run")), digits.splits["test"].images.numpy()
    assert own is not None
    predictor = load(tmp_path / "run", device="cpu", engine="plain")
    assert (own.classes, own.input) == (predictor.classes, predictor.input)
    np.testing.assert_allclose(own.logits(images), predictor.logits(images), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_a_run_predicts_without_pytorch(run: Path, digits: Dataset, tmp_path: Path, convmixer: Run) -> None:
    names = [f"{number}.png" for number in range(5)]
    for number, name in enumerate(names):
        Image.fromarray(digits.splits["test"].images[number, 0].numpy()).resize((11, 9)).save(tmp_path / name)
    done = without_torch("predict", run, *names, "--json", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    answers = [json.loads(line)["top"][0] for line in done.stdout.splitlines()]
    for answer, expected in zip(answers, load(run, engine="plain").predict([tmp_path / n for n in names]), strict=True):
        assert answer["class"] == expected.classes[0]
        assert answer["probability"] == pytest.approx(expected.probabilities[0], abs=1e-5)


def test_pytorch_does_the_rest(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert PlanPredictor.load(RunDir(run), "cpu") is not None
    assert PlanPredictor.load(RunDir(run), "cuda") is None
    monkeypatch.setenv("CONVMIXER_ENGINE", "plain")
    assert PlanPredictor.load(RunDir(run)) is None
    monkeypatch.delenv("CONVMIXER_ENGINE")
    monkeypatch.setattr(plan, "library", lambda: None)
    assert PlanPredictor.load(RunDir(run)) is None


@pytest.mark.parametrize("how", ["nan", "half", "missing", "shape", "flipped"])
def test_weights_that_are_not_as_they_should_be(how: str, tmp_path: Path, digits: Dataset) -> None:
    train(tiny_config(epochs=1), tmp_path, dataset=digits, artifacts=False)
    own = RunDir(tmp_path)
    if how == "flipped":
        content = bytearray(own.weights.read_bytes())
        content[-1] ^= 1
        own.weights.write_bytes(content)
        with pytest.raises(InputError, match=r"model\.safetensors"):
            PlanPredictor.load(own)
        return
    state = load_file(own.weights)
    if how == "nan":
        state["head.weight"][0, 0] = float("nan")
    elif how == "half":
        state["head.weight"] = state["head.weight"].to(torch.bfloat16)
    elif how == "missing":
        del state["head.weight"]
    elif how == "shape":
        state["head.weight"] = state["head.weight"][:, :-1].contiguous()
    save_file(state, own.weights)
    own.manifest.accept()
    assert PlanPredictor.load(own) is None
