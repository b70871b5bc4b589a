"""A run made smaller: what is written, that it is what was asked for, and what is refused."""

from __future__ import annotations

import functools
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from convmixer.config import ModelConfig
from convmixer.data import Dataset
from convmixer.deploy import compress, quantize
from convmixer.deploy.compress import RECORD, compress_run, verdict
from convmixer.deploy.formats import onnx_graph
from convmixer.deploy.measure import Measured, measure_files
from convmixer.deploy.pipeline import Backend, Pipeline
from convmixer.deploy.prune import counts_left, pruned
from convmixer.deploy.source import Source
from convmixer.errors import InputError
from convmixer.inference.model_file import open_model_file
from convmixer.models import build_model
from convmixer.models.pruning import keep_blocks
from convmixer.runs import RunDir
from convmixer.runs.data import load_own_data
from convmixer.training import train
from tests.helpers.cli import Run
from tests.helpers.runs import tiny_config

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, digits: Dataset) -> Path:
    out = tmp_path_factory.mktemp("compress") / "run"
    train(tiny_config(dim=32, depth=2, epochs=4, batch_size=32, lr=0.01), out, dataset=digits, artifacts=False)
    return out


@pytest.fixture
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measures for a moment only."""
    short = functools.partial(measure_files, rounds=1, seconds=0.01)
    monkeypatch.setattr(compress, "measure_files", short)


@pytest.mark.slow
@pytest.mark.usefixtures("quickly")
def test_int8_is_the_run_in_eight_bits_with_ranges_from_training_images(trained: Path, tmp_path: Path) -> None:
    made = compress_run(trained, Pipeline(quantize="int8", calibration=64), tmp_path / "out")
    reference, int8 = made.models
    assert (reference.precision, int8.precision) == ("float32", "int8")
    assert abs(reference.accuracy - int8.accuracy) < 0.02
    info = open_model_file(tmp_path / "out" / "int8.onnx").info
    assert info.changes == (
        {"step": "quantize", "to": "int8", "backend": "onnxruntime", "calibration": 64, "ranges": "min-max"},
    )
    graph = onnx.load(tmp_path / "out" / "int8.onnx").graph
    values = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    original = {
        tensor.name: onnx.numpy_helper.to_array(tensor)
        for tensor in onnx.load(tmp_path / "out" / "original.onnx").graph.initializer
    }
    weights = [name for name in original if name.endswith("weight") and original[name].ndim == 4]
    assert len(weights) == 5
    for name in weights:  # the nearest of 255 steps, each channel with a step of its own
        whole, step = values[f"{name}_quantized"], values[f"{name}_scale"]
        assert whole.dtype == np.int8
        assert step.shape == (len(whole),)
        np.testing.assert_allclose(step, np.abs(original[name]).reshape(len(whole), -1).max(1) / 127, rtol=1e-2)
        error = np.abs(whole * step[:, None, None, None] - original[name])
        assert (error <= 0.51 * step[:, None, None, None]).all()
    assert "against original.onnx" in made.verdicts[0]
    again = json.loads((tmp_path / "out" / RECORD).read_text())
    assert again["pipeline"]["quantize"] == "int8"
    assert [model["accuracy"] for model in again["models"]] == [reference.accuracy, int8.accuracy]


@pytest.mark.slow
@pytest.mark.usefixtures("quickly")
def test_nncf_writes_an_openvino_file_that_rounds_activations_as_well(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("nncf")
    reference, int8 = compress_run(
        trained, Pipeline(quantize="int8", backend="nncf", calibration=64), tmp_path / "out"
    ).models
    assert (Path(int8.file).name, int8.precision) == ("int8.xml", "int8")
    assert abs(reference.accuracy - int8.accuracy) < 0.05
    assert capsys.readouterr().out == ""
    (change,) = open_model_file(tmp_path / "out" / "int8.xml").info.changes
    assert (change["backend"], change["calibration"]) == ("nncf", 64)
    assert "gelu_1/fq_output" in (tmp_path / "out" / "int8.xml").read_text()


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino", "nncf"])
def test_a_missing_package_is_named_before_anything_is_trained(
    backend: Backend, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("openvino")
    monkeypatch.setitem(sys.modules, backend, None)
    pipeline = Pipeline(prune="blocks", finetune=1, quantize="int8", backend=backend)
    with pytest.raises(InputError, match=rf"--backend {backend} needs {backend}; pip install"):
        compress_run(trained, pipeline, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_what_says_nothing_is_not_in_the_file(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = Source.of_run(RunDir(trained))
    images = load_own_data(RunDir(trained)).splits["train"].images[:64].numpy()
    slim = quantize._qdq(onnx_graph(source), images)
    monkeypatch.setattr(quantize, "_slim", lambda graph, helper: None)
    whole = quantize._qdq(onnx_graph(source), images)
    assert slim.ByteSize() < whole.ByteSize()
    answers = [
        onnxruntime.InferenceSession(graph.SerializeToString()).run(["logits"], {"images": images})[0]
        for graph in (slim, whole)
    ]
    # The last bit of a normalisation may decide on a step of an activation.
    assert np.mean(np.abs(answers[0] - answers[1]) > 1e-4) < 0.3
    assert np.mean(answers[0].argmax(1) == answers[1].argmax(1)) > 0.98


def test_the_test_images_are_never_looked_at_to_calibrate(trained: Path) -> None:
    run = RunDir(trained)
    data = load_own_data(run)
    assert compress._samples(run, data, 10_000).images.equal(data.splits["train"].images)


@pytest.mark.slow
@pytest.mark.usefixtures("quickly")
def test_a_pruned_network_is_smaller_trained_and_compared_with_one_from_scratch(trained: Path, tmp_path: Path) -> None:
    pipeline = Pipeline(prune="channels", criterion="taylor", finetune=1, baseline=True, teacher=str(trained))
    made = compress_run(trained, pipeline, tmp_path / "out")
    original, compressed, scratch = made.models
    assert compressed.multiply_adds == scratch.multiply_adds < 0.7 * original.multiply_adds
    assert len(made.verdicts) == 3
    steps = [change["step"] for change in open_model_file(tmp_path / "out" / "compressed.onnx").info.changes]
    assert steps == ["prune", "finetune"]
    finetuned = RunDir(tmp_path / "out" / "finetuned")
    assert finetuned.config().architecture == RunDir(tmp_path / "out" / "scratch").config().architecture
    assert finetuned.teacher() is not None
    start = finetuned.initial_weights()
    assert start is not None
    assert (Path(start.source).name, start.taken) == ("start.safetensors", "all weights")
    written = (finetuned.weights.stat().st_mtime_ns, finetuned.metrics())
    assert compress_run(trained, pipeline, tmp_path / "out").models[1].accuracy == compressed.accuracy
    assert (finetuned.weights.stat().st_mtime_ns, finetuned.metrics()) == written  # what was done is not done again


def test_the_block_goes_without_which_the_loss_is_least(trained: Path) -> None:
    run = RunDir(trained)
    source, samples = Source.of_run(run), compress._samples(run, load_own_data(run), 64)
    losses = []
    for kept in (0, 1):
        config, state = keep_blocks(source.info.architecture, source.answers.deployed.model.state_dict(), [kept])
        model = build_model(config, 10, 1, "plain").eval()
        model.load_state_dict(state)
        with torch.inference_mode():
            logits = model(source.answers.deployed.normalize(samples.images))
        losses.append(float(torch.nn.functional.cross_entropy(logits, samples.labels)))
    smaller = pruned(source, Pipeline(prune="blocks"), 1, samples)
    assert smaller.info.architecture.depth == 1
    own = source.answers.deployed.model.state_dict()
    kept = losses.index(min(losses))
    assert smaller.answers.deployed.model.blocks[0][1].weight.equal(own[f"blocks.{kept}.1.weight"])


@pytest.mark.parametrize(
    ("sizes", "pipeline", "expected"),
    [
        ({"dim": 64}, Pipeline(prune="channels"), [32]),
        ({"dim": 64}, Pipeline(prune="channels", prune_steps=2, finetune=2), [48, 32]),
        ({"dim": 256}, Pipeline(prune="channels", prune_steps=3, finetune=3, ratio=0.75), [160, 104, 64]),
        ({"dim": 16}, Pipeline(prune="channels", prune_steps=9, finetune=9), [8]),
        ({"depth": 8}, Pipeline(prune="blocks", prune_steps=2, finetune=2), [6, 4]),
        ({"depth": 2}, Pipeline(prune="blocks", prune_steps=3, finetune=3), [1]),
        ({}, Pipeline(quantize="int8"), []),
    ],
)
def test_steps_drop_equal_shares_of_what_is_left(
    sizes: dict[str, int], pipeline: Pipeline, expected: list[int]
) -> None:
    assert counts_left(ModelConfig(**sizes), pipeline) == expected


@pytest.mark.slow
@pytest.mark.usefixtures("quickly")
def test_each_step_of_pruning_has_its_share_of_the_training(trained: Path, tmp_path: Path) -> None:
    pipeline = Pipeline(prune="channels", ratio=0.75, prune_steps=2, finetune=3)
    made = compress_run(trained, pipeline, tmp_path / "out")
    changes = open_model_file(tmp_path / "out" / "compressed.onnx").info.changes
    assert [(one["step"], one.get("left"), one.get("epochs")) for one in changes] == [
        ("prune", 16, None),
        ("finetune", None, 1),
        ("prune", 8, None),
        ("finetune", None, 2),
    ]
    first, last = RunDir(tmp_path / "out" / "finetuned-1"), RunDir(tmp_path / "out" / "finetuned")
    assert (first.config().architecture.dim, last.config().architecture.dim) == (16, 8)
    assert made.models[1].parameters < made.models[0].parameters / 4
    assert compress_run(trained, pipeline, tmp_path / "out").models[1].accuracy == made.models[1].accuracy


def measured(**changes: object) -> Measured:
    values = dict.fromkeys(Measured.__dataclass_fields__) | {
        "file": "x/int8.onnx",
        "runtime": "R 1",
        "bytes": 100,
        "accuracy": 0.9,
        "images": 100,
        "difference": 0.0,
        "difference_half_width": 0.01,
        "p_value": 1.0,
        "latency_ratio": 1.0,
        "speed_ratio": 1.0,
    }
    return Measured(**(values | changes))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"speed_ratio": 2.0, "latency_ratio": 0.5}, "It is faster here: worth it."),
        ({"speed_ratio": 0.5, "latency_ratio": 2.0, "bytes": 30}, "It is slower here: worth it only for its size."),
        ({"bytes": 30}, "It is not faster here: worth it only for its size."),
        ({}, "It is not faster here: not worth it."),
        ({"speed_ratio": 2.0, "difference": -0.05}, "worth it only where 5.00 points of accuracy may be lost."),
        ({"speed_ratio": 2.0, "latency_ratio": 2.0}, "faster here in one way of use and slower in the other"),
    ],
)
def test_a_verdict_never_says_faster_where_it_is_not(changes: dict[str, object], words: str) -> None:
    assert words in verdict(measured(file="x/original.onnx"), measured(**changes))


def test_what_cannot_be_done_is_one_sentence_and_leaves_nothing(trained: Path, tmp_path: Path, convmixer: Run) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").touch()
    for arguments, words in {
        (trained,): "nothing is to be done",
        (trained, "--quantize", "int8", "--calibration", 3): "too few",
        (trained, "--prune", "channels", "--ratio", 0.99): "leaves no channel",
        (trained, "--prune", "blocks", "--ratio", 0.1): "drops some",
        (trained, "--prune", "channels", "--ratio", 7): "--ratio",
        (trained, "--quantize", "int8", "--teacher", trained): "--finetune",
        (trained, "--quantize", "int8", "--out", "full"): "holds other files",
        (trained, "--quantize", "int8", "--out", "missing/out"): "is no folder",
        ("nowhere", "--quantize", "int8"): "is not a run directory",
        (trained, "--quantize", "int4"): "int4",
    }.items():
        status, out, err = convmixer("compress", *arguments)
        assert (status, out) == (2, ""), arguments
        assert words in err
        assert "Traceback" not in err
    assert [path.name for path in tmp_path.iterdir()] == ["full"]
    assert not (trained.parent / "run-compressed").exists()


@pytest.mark.usefixtures("quickly")
def test_another_pipelines_folder_is_refused(trained: Path, tmp_path: Path) -> None:
    compress._claim(tmp_path / "out", {"run": {}, "pipeline": {}})
    with pytest.raises(InputError, match="another run's, or another pipeline's"):
        compress_run(trained, Pipeline(quantize="int8"), tmp_path / "out")


def test_a_pipeline_says_what_it_lacks() -> None:
    pipeline = Pipeline(quantize="int8")
    for changes, words in (
        ({"baseline": True}, "needs prune"),
        ({"qat": 1, "backend": "nncf"}, "change backend"),
        ({"quantize": None}, "nothing is to be done"),
    ):
        with pytest.raises(InputError, match=words):
            replace(pipeline, **changes)
