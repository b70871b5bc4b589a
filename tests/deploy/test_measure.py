"""Runs and model files are measured in turns, each in a process with nothing but its runtime."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from convmixer.data import Dataset
from convmixer.deploy import measure
from convmixer.deploy.export import export_run
from convmixer.deploy.measure import measure_files, size_of
from convmixer.deploy.processes import Worker
from convmixer.deploy.source import describe_run
from convmixer.deploy.worker import Opened, Subject
from convmixer.errors import InputError
from convmixer.inference import evaluate_run
from convmixer.inference.model_file import ModelInfo
from convmixer.inference.paired import mcnemar
from convmixer.inference.predict import softmax
from convmixer.inference.torch_predictor import load
from convmixer.models import ConvMixer, count_multiply_adds, count_parameters
from convmixer.runs import RunDir
from convmixer.training import train
from convmixer.utils.comparisons import accuracy_interval
from tests.helpers.runs import tiny_config


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, digits: Dataset) -> Path:
    out = tmp_path_factory.mktemp("measure") / "my-run"
    train(tiny_config(epochs=1, batch_size=100, lr=0.02), out, dataset=digits, artifacts=False)
    export_run(out, "safetensors")
    return out


@dataclass
class Played:
    """Instead of a process: answers with what ``script`` has for its name, and keeps the order of questions."""

    name: str
    script: dict[str, Any]
    asked: list[tuple[str, str]]
    turn: int = 0

    def open(self, threads: int) -> Opened:
        self.asked.append((self.name, f"open {threads}"))
        return Opened(self.script[self.name]["info"], "made", 7)

    def ask(self, method: str, *arguments: Any) -> Any:
        self.asked.append((self.name, method))
        own = self.script[self.name]
        if method == "peak_memory":
            return 9
        if method == "logits":
            return own["logits"](arguments[0])
        self.turn += 1
        return own["seconds" if len(arguments[0][0]) == 1 else "batches"][self.turn - 1]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None: ...


@dataclass
class Stage:
    script: dict[str, Any] = field(default_factory=dict)
    asked: list[tuple[str, str]] = field(default_factory=list)

    def worker(self, name: str) -> Played:
        return Played(name, self.script, self.asked)


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Stage:
    made = Stage()
    monkeypatch.setattr(measure, "Worker", made.worker)
    return made


def described(run: Path, **changes: Any) -> ModelInfo:
    return replace(describe_run(RunDir(run)), **changes)


def always(number: int) -> Any:
    """A model that answers with one class."""

    def logits(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        return np.eye(10, dtype=np.float32)[[number] * len(images)]

    return logits


def test_figures_by_hand_on_a_machine_that_slows_down(run: Path, digits: Dataset, stage: Stage) -> None:
    """The second one takes half the time in every round, though its slowest turn is as slow as the first's median."""
    file = str(run / "my-run.safetensors")
    info = described(run)
    stage.script = {
        str(run): {
            "info": info,
            "logits": always(0),
            "seconds": [[0.1, 0.1, 0.3], [0.2, 0.2], [0.4, 0.4]],
            "batches": [[1.0], [2.0], [4.0]],
        },
        file: {
            "info": replace(info, classes=(*info.classes[1:], info.classes[0]), precision="int8"),
            "logits": always(0),  # its first class is our second
            "seconds": [[0.05, 0.05], [0.1, 0.1, 0.1], [0.2, 0.2]],
            "batches": [[0.25], [0.5], [1.0]],
        },
    }
    first, second = measure_files([run, file], rounds=3, batch_size=50, threads=2)
    labels = digits.splits["test"].labels.numpy()
    for found, number in ((first, 0), (second, 1)):
        right = int((labels == number).sum())
        assert (found.correct == (labels == number)).all()
        assert (found.images, found.accuracy) == (359, right / 359)
        assert found.accuracy_interval == accuracy_interval(right, 359)
    tested = mcnemar(torch.from_numpy(labels == 0), torch.from_numpy(labels == 1))
    assert (first.difference, first.p_value) == (0.0, 1.0)
    assert (second.difference, second.p_value) == (tested.difference, tested.p_value)
    assert second.difference_half_width == tested.half_width > 0
    assert (first.format, second.format, second.precision) == ("run", "safetensors", "int8")
    assert (first.latency_p50, first.calls, first.latency_ratio) == (0.2, 7, 1.0)
    assert first.latency_p99 == pytest.approx(np.quantile([0.1, 0.1, 0.3, 0.2, 0.2, 0.4, 0.4], 0.99))
    assert (second.latency_ratio, second.speed_ratio) == (0.5, 4.0)
    assert (first.images_per_second, first.slowest, first.fastest) == (25.0, 12.5, 50.0)
    assert (first.batch_size, first.threads, first.peak_memory, first.runtime_memory) == (50, 2, 9, 7)
    config = RunDir(run).config()
    model = load(run, device="cpu").deployed.model
    assert isinstance(model, ConvMixer)
    assert first.parameters == count_parameters(model)
    assert first.multiply_adds == count_multiply_adds(config.architecture, 8, 10, 1)
    assert (first.bytes, second.bytes) == (size_of(run), Path(file).stat().st_size)
    assert {"file", "accuracy_interval", "device_name"} <= set(first.to_dict())
    assert "correct" not in first.to_dict()


def test_all_have_their_turn_in_each_round(run: Path, stage: Stage) -> None:
    file = str(run / "my-run.safetensors")
    one = {"info": described(run), "logits": always(1), "seconds": [[1.0]] * 2, "batches": [[1.0]] * 2}
    stage.script = {str(run): one, file: one}
    measure_files([run, file], rounds=2, batch_size=400, threads=3)
    assert [what for _, what in stage.asked] == [
        *("open 1", "open 1", "times", "times", "times", "times", "peak_memory", "peak_memory"),
        *("open 3", "logits", "open 3", "logits", "times", "times", "times", "times"),
    ]
    assert [name for name, what in stage.asked if what == "times"] == [str(run), file] * 4


def test_what_cannot_be_compared_is_said(run: Path, tmp_path: Path, stage: Stage) -> None:
    def said(*paths: Any, **options: Any) -> str:
        with pytest.raises(InputError) as caught:
            measure_files(paths, **options)
        return str(caught.value)

    assert "no run or model file is given" in said()
    assert "threads: 0 is out of range" in said(run, threads=0)
    assert "is neither a run directory nor a model file (.onnx, .xml, .safetensors)" in said(run, run / "config.json")
    assert "is not a run directory" in said(run, tmp_path)
    alone = tmp_path / "alone.safetensors"
    stage.script = {str(run): {"info": described(run)}, str(alone): {"info": described(run)}}
    assert "lies in no run's directory; say with --data" in said(alone)
    stage.script[str(alone)] = {"info": described(run, classes=("cat", "dog"))}
    assert "alone.safetensors: knows other classes than the images of digits" in said(run, alone)
    stage.script[str(alone)] = {"info": described(run, image_size=16)}
    assert "takes images of shape (1, 16, 16), those of digits have (1, 8, 8)" in said(run, alone)


@pytest.mark.parametrize("file", ["", "my-run.safetensors"])
def test_a_subject_answers_as_the_run_does(run: Path, digits: Dataset, file: str) -> None:
    subject, before = Subject(), torch.get_num_threads()
    opened = subject.open(str(run / file), 1)
    torch.set_num_threads(before)
    assert opened.info.classes == tuple("0123456789")
    assert opened.runtime.startswith("PyTorch")
    images = digits.splits["test"].images[:5].numpy()
    expected = softmax(load(run, device="cpu").logits(images))
    assert np.allclose(softmax(subject.logits(images)), expected, atol=1e-4)
    assert len(subject.times([images], 0.0, 4, 9)) == 4
    assert len(subject.times([images], 10.0, 1, 3)) == 3
    assert (subject.peak_memory() or 0) >= 0


def test_a_process_says_what_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "damaged.safetensors").write_bytes(b"no model")
    with pytest.raises(InputError, match=r"nothing\.onnx: no such file"), Worker("nothing.onnx") as worker:
        worker.open(1)
    with pytest.raises(RuntimeError, match="AttributeError: 'Subject' object"), Worker("nothing.onnx") as worker:
        worker.ask("logits", None)
    with Worker("x.onnx") as worker:
        worker.process.kill()
        with pytest.raises(InputError, match="as it does where memory is short"):
            worker.open(1)


@pytest.mark.slow
def test_in_a_process_without_torch(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    file = export_run(run, "onnx", tmp_path / "m.onnx").file
    (tmp_path / "torch.py").write_text("raise RuntimeError('torch was imported')")
    monkeypatch.syspath_prepend(tmp_path)
    (found,) = measure_files([file], data=run, rounds=2, seconds=0.05)
    assert found.runtime.startswith("ONNX Runtime")
    assert found.accuracy == evaluate_run(run, device="cpu").figures.accuracy
    assert found.calls >= 80
    assert 0 < found.latency_p50 <= found.latency_p99
    if sys.platform == "linux":
        assert (found.peak_memory or 0) >= (found.runtime_memory or 0) > 0
