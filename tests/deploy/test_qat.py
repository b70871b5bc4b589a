"""Training with 8-bit rounding: that it rounds as the file does, where the file does, and that training keeps to it."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import pytest
import torch

from convmixer.data import Dataset
from convmixer.deploy import compress, qat
from convmixer.deploy.compress import compress_run
from convmixer.deploy.measure import measure_files
from convmixer.deploy.pipeline import Pipeline
from convmixer.deploy.qat import WEIGHTS, Activation, Rounded, Weight
from convmixer.deploy.quantize import write_int8
from convmixer.deploy.source import Source
from convmixer.errors import InputError
from convmixer.inference.model_file import open_model_file
from convmixer.runs import RunDir
from convmixer.training import train
from tests.helpers.runs import tiny_config

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

NETWORKS = [("depthwise", "linear"), ("bottleneck", "rh"), ("depthwise", "lc")]


def run_of(folder: Path, digits: Dataset, branch: str = "depthwise", head: str = "linear") -> RunDir:
    config = tiny_config(dim=16, depth=2, epochs=2, batch_size=64, lr=0.01, branch=branch, head=head)
    train(config, folder, dataset=digits, artifacts=False)
    return RunDir(folder)


@pytest.mark.slow
@pytest.mark.parametrize(("branch", "head"), NETWORKS)
def test_the_file_computes_what_was_trained(branch: str, head: str, tmp_path: Path, digits: Dataset) -> None:
    source = Source.of_run(run_of(tmp_path / "run", digits, branch, head))
    images = digits.splits["train"].images[:64]
    rounded, normalize = Rounded(source), source.answers.deployed.normalize
    rounded.take_ranges(normalize(images))
    write_int8(source, tmp_path / "int8.onnx", "onnxruntime", images.numpy())
    tested = digits.splits["test"].images[:200]
    expected = open_model_file(tmp_path / "int8.onnx", trusted=True).logits(tested.numpy())
    with torch.no_grad():
        found, plain = rounded(normalize(tested)).numpy(), source.answers(tested)[0].numpy()

    def differing(own: np.ndarray) -> float:
        return float(np.mean(np.abs(own - expected) > 1e-4))

    # A last bit may decide on a step of an activation, and that on more behind it; all other logits are the same.
    assert differing(found) < 0.4
    assert np.abs(found - expected).mean() < 0.4 * np.abs(plain - expected).mean()
    assert differing(plain) > 0.9
    activations = [module for module in rounded.modules() if isinstance(module, Activation)]
    activations[len(activations) // 2].watching = True  # and one place is not rounded
    with torch.no_grad():
        assert differing(rounded(normalize(tested)).numpy()) > differing(found) + 0.2


def nearest(value: float, step: float, low: float, high: float) -> float:
    """The slow way: of all values that there are, the nearest."""
    grid = np.arange(low, high + 1) * step
    return float(grid[np.abs(grid - value).argmin()])


def test_an_activation_is_the_nearest_of_256_values_and_passes_gradients_within_its_range() -> None:
    module, values = Activation(), torch.linspace(-0.5, 2.0, 41)
    module.watching = True
    module(values)
    module.watching = False
    x = torch.tensor([-3.0, -0.41, 0.0, 0.1234, 1.99, 7.0], requires_grad=True)
    rounded = module(x)
    step = 2.5 / 255
    zero = round(-128 + 0.5 / step)
    expected = [nearest(value, step, -128 - zero, 127 - zero) for value in x.tolist()]
    torch.testing.assert_close(rounded.detach(), torch.tensor(expected))
    assert rounded[2] == 0  # exactly, as padding is
    rounded.sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [0, 1, 1, 1, 1, 0]


def test_a_weight_has_a_step_of_its_own_for_each_output_channel() -> None:
    weight = torch.randn(3, 4, 1, 1, generator=torch.Generator().manual_seed(0)) * torch.tensor([0, 1, 9]).view(
        3, 1, 1, 1
    )
    weight.requires_grad_(True)
    rounded = Weight()(weight)
    for channel, made in zip(weight.detach(), rounded.detach(), strict=True):
        step = float(channel.abs().max()) / 127 or 1.0
        expected = [nearest(value, step, -127, 127) for value in channel.flatten().tolist()]
        torch.testing.assert_close(made.flatten(), torch.tensor(expected))
    rounded.sum().backward()
    assert weight.grad is not None
    assert weight.grad.equal(torch.ones_like(weight))


@pytest.mark.slow
def test_training_ends_in_an_int8_file_and_is_not_done_twice(
    tmp_path: Path, digits: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compress, "measure_files", functools.partial(measure_files, rounds=1, seconds=0.01))
    run, out = run_of(tmp_path / "run", digits), tmp_path / "out"
    before = run.weights.read_bytes()
    pipeline = Pipeline(quantize="int8", qat=1, calibration=64)
    made = compress_run(run.path, pipeline, out)
    assert [model.precision for model in made.models] == ["float32", "int8", "int8"]
    steps = {
        name: [change["step"] for change in open_model_file(out / name).info.changes]
        for name in ("int8.onnx", "int8-qat.onnx")
    }
    assert steps == {"int8.onnx": ["quantize"], "int8-qat.onnx": ["qat", "quantize"]}
    own, trained = Source.of_run(run).answers.deployed.model.state_dict(), open_model_file(out / WEIGHTS)
    state = trained.program.deployed.model.state_dict()  # type: ignore[attr-defined]
    assert not state["stem.0.weight"].equal(own["stem.0.weight"])
    statistics = [name for name in own if "running" in name]
    assert statistics
    assert all(state[name].equal(own[name]) for name in statistics)
    assert run.weights.read_bytes() == before
    written = (out / WEIGHTS).stat().st_mtime_ns
    assert compress_run(run.path, pipeline, out).models[2].accuracy == made.models[2].accuracy
    assert (out / WEIGHTS).stat().st_mtime_ns == written


def test_without_int8_there_is_nothing_to_train_for() -> None:
    with pytest.raises(InputError, match="trains for 8 bits"):
        Pipeline(finetune=1, qat=1)


def test_a_loss_that_is_no_number_ends_it_with_advice(
    tmp_path: Path, digits: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(qat, "LR_SCALE", 1e30)
    with pytest.raises(InputError, match=r"--qat: the loss is .* leave out --qat"):
        compress_run(
            run_of(tmp_path / "run", digits).path, Pipeline(quantize="int8", qat=2, calibration=64), tmp_path / "out"
        )
    assert not (tmp_path / "out" / WEIGHTS).exists()
