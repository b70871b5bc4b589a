"""What trackers are told of a run: by small stand-ins for their packages, and by the packages where installed."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from convmixer.data import Dataset
from convmixer.errors import InputError, Interrupted
from convmixer.runs import EpochRecord, RunDir, Summary
from convmixer.training import train
from convmixer.training.observers import EpochWatcher, RunObserver
from tests.helpers.cli import Run
from tests.helpers.runs import tiny_config

PICTURES = ["calibration_test", "confusion_test", "learning_curve", "mistakes_test"]


class StopAfter(RunObserver):
    """A signal in the middle of a run."""

    def __init__(self, epochs: int) -> None:
        self.left = epochs

    def on_epoch(self, record: EpochRecord) -> None:
        self.left -= 1

    def should_stop(self) -> Interrupted | None:
        return Interrupted(15) if self.left == 0 else None


class FakeWandb(ModuleType):
    """The part of the API that W&B and trackio share, which writes down its calls."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.calls: list[tuple[str, Any]] = []
        self.broken = ""

    def _called(self, name: str, what: Any) -> None:
        if self.broken == name:
            raise ConnectionError("no route\nto [host]")
        sys.stdout.write(f"{self.__name__}: {name}\n")  # both packages greet on stdout
        self.calls.append((name, what))

    def init(self, **arguments: Any) -> None:
        self._called("init", arguments)

    def log(self, values: dict[str, Any], step: int) -> None:
        self._called("log", (step, values))

    def finish(self, **arguments: Any) -> None:
        self._called("finish", arguments)

    def Image(self, path: str) -> SimpleNamespace:  # noqa: N802 (their name)
        assert Path(path).is_file()
        return SimpleNamespace(path=path)

    def of(self, name: str) -> list[Any]:
        return [what for called, what in self.calls if called == name]


class FakeMlflow(ModuleType):
    """MLflow's client with its store in memory."""

    def __init__(self) -> None:
        super().__init__("mlflow")
        self.runs: dict[str, SimpleNamespace] = {}
        self.experiments: dict[str, str] = {}
        entities = ModuleType("mlflow.entities")
        entities.Param = lambda key, value: (key, value)  # type: ignore[attr-defined]
        entities.Metric = lambda key, value, timestamp, step: (key, value, step)  # type: ignore[attr-defined]
        self.entities = entities

    def MlflowClient(self) -> FakeMlflow:  # noqa: N802 (its name)
        return self

    def get_experiment_by_name(self, name: str) -> SimpleNamespace | None:
        return SimpleNamespace(experiment_id=self.experiments[name]) if name in self.experiments else None

    def create_experiment(self, name: str) -> str:
        return self.experiments.setdefault(name, str(len(self.experiments)))

    def create_run(self, experiment_id: str, run_name: str) -> SimpleNamespace:
        run_id = f"run{len(self.runs)}"
        self.runs[run_id] = SimpleNamespace(name=run_name, status="RUNNING", params={}, metrics=[], files=[])
        return SimpleNamespace(info=SimpleNamespace(run_id=run_id))

    def update_run(self, run_id: str, status: str) -> None:
        self.runs[run_id].status = status

    def log_batch(self, run_id: str, metrics: Any = (), params: Any = ()) -> None:
        self.runs[run_id].metrics += metrics
        self.runs[run_id].params |= dict(params)

    def log_artifact(self, run_id: str, local_path: str) -> None:
        self.runs[run_id].files.append(Path(local_path).stem)

    def set_terminated(self, run_id: str, status: str) -> None:
        self.runs[run_id].status = status


@pytest.fixture(params=["wandb", "trackio"])
def fake(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> FakeWandb:
    module = FakeWandb(request.param)
    monkeypatch.setitem(sys.modules, request.param, module)
    monkeypatch.delenv("WANDB_DIR", raising=False)
    return module


@pytest.fixture
def mlflow(monkeypatch: pytest.MonkeyPatch) -> FakeMlflow:
    module = FakeMlflow()
    monkeypatch.setitem(sys.modules, "mlflow", module)
    monkeypatch.setitem(sys.modules, "mlflow.entities", module.entities)
    for name in ("MLFLOW_DISABLE_TELEMETRY", "MLFLOW_HTTP_REQUEST_MAX_RETRIES"):
        monkeypatch.setenv(name, "")  # set back at the end
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME", raising=False)
    return module


def interrupted(out: Path, digits: Dataset, **changes: Any) -> None:
    with pytest.raises(Interrupted):
        train(tiny_config(epochs=3, **changes), out, dataset=digits, observer=StopAfter(1))


def metrics(record: EpochRecord) -> dict[str, float]:
    return {name: value for name, value in vars(record).items() if name != "epoch" and value is not None}


def final(summary: Summary) -> dict[str, Any]:
    names = ("test_accuracy", "test_loss", "val_accuracy", "train_accuracy", "selected_epoch")
    return {f"final/{name}": summary.to_dict()[name] for name in names}


@pytest.mark.slow
def test_wandb_and_trackio_get_settings_epochs_figures_and_pictures(
    tmp_path: Path, digits: Dataset, fake: FakeWandb, capsys: pytest.CaptureFixture[str]
) -> None:
    name = fake.__name__
    config = tiny_config(track=f"tensorboard,{name}")
    summary = train(config, tmp_path / "my run", dataset=digits)
    (init,) = fake.of("init")
    run_id = json.loads((tmp_path / "my run" / "trackers.json").read_text())[name]
    assert init["project"] == "convmixer"
    assert init["resume"] == "allow"
    assert {"lr": 0.01, "dim": 8, "parameters": summary.parameters}.items() <= init["config"].items()
    if name == "wandb":
        assert (init["name"], init["id"], init["dir"]) == ("my run", run_id, str(tmp_path / "my run"))
    else:
        assert init["name"] == f"my run-{run_id}"
    *epochs, (step, last) = fake.of("log")
    records = RunDir(tmp_path / "my run").metrics()
    assert epochs == [(record.epoch, metrics(record)) for record in records]
    assert step == 2
    assert {key: value for key, value in last.items() if key.startswith("final/")} == final(summary)
    assert sorted(key for key in last if not key.startswith("final/")) == PICTURES
    assert fake.of("finish") == [{"exit_code": 0} if name == "wandb" else {}]
    assert (tmp_path / "my run" / "tensorboard").is_dir()
    assert capsys.readouterr().out == ""


@pytest.mark.slow
def test_a_resumed_run_continues_the_same_record(tmp_path: Path, digits: Dataset, fake: FakeWandb) -> None:
    name = fake.__name__
    interrupted(tmp_path / "run", digits, track=name)
    train(tiny_config(epochs=3, track=name), tmp_path / "run", dataset=digits, resume=True)
    first, second = fake.of("init")
    assert first == second
    assert [step for step, _ in fake.of("log")] == [1, 2, 3, 3]
    assert fake.of("finish") == ([{"exit_code": 1}, {"exit_code": 0}] if name == "wandb" else [{}, {}])


@pytest.mark.slow
def test_a_tracker_that_joins_late_gets_the_earlier_epochs(tmp_path: Path, digits: Dataset, fake: FakeWandb) -> None:
    interrupted(tmp_path / "run", digits, track="none")
    assert not (tmp_path / "run" / "tensorboard").exists()
    train(tiny_config(epochs=3, track=fake.__name__), tmp_path / "run", dataset=digits, resume=True)
    assert [step for step, _ in fake.of("log")] == [1, 2, 3, 3]


@pytest.mark.slow
@pytest.mark.parametrize("broken", ["init", "log", "finish"])
def test_a_tracker_that_fails_is_left_out(tmp_path: Path, digits: Dataset, fake: FakeWandb, broken: str) -> None:
    fake.broken, name = broken, fake.__name__
    console = Console(file=io.StringIO(), record=True, width=200)
    summary = train(tiny_config(track=f"{name},tensorboard"), tmp_path / "run", dataset=digits, console=console)
    assert summary.status == "finished"
    warnings = [line for line in console.export_text().splitlines() if "The tracker" in line]
    assert warnings == [f"The tracker {name} failed (no route to [host]); the run goes on without it."]
    assert (tmp_path / "run" / "trackers.json").exists() == (broken != "init")
    assert len(EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload().Scalars("train_loss")) == 2


@pytest.mark.slow
def test_a_pruned_run_has_ended_well(tmp_path: Path, digits: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeWandb("wandb")
    monkeypatch.setitem(sys.modules, "wandb", fake)
    watcher = EpochWatcher(lambda record: "enough")
    train(tiny_config(track="wandb"), tmp_path / "run", dataset=digits, observer=watcher)
    assert fake.of("finish") == [{"exit_code": 0}]
    assert fake.of("log")[-1][1]["final/selected_epoch"] == 1


@pytest.mark.slow
def test_mlflow(tmp_path: Path, digits: Dataset, mlflow: FakeMlflow) -> None:
    interrupted(tmp_path / "run", digits, track="mlflow")
    (run,) = mlflow.runs.values()
    assert (run.status, run.name) == ("KILLED", "run")
    summary = train(tiny_config(epochs=3, track="mlflow"), tmp_path / "run", dataset=digits, resume=True)
    assert list(mlflow.runs.values()) == [run]
    assert list(mlflow.experiments) == ["convmixer"]
    assert run.status == "FINISHED"
    assert {"lr": "0.01", "dim": "8", "recipe": "baseline"}.items() <= run.params.items()
    records = RunDir(tmp_path / "run").metrics()
    expected = [(key, value, record.epoch) for record in records for key, value in metrics(record).items()]
    assert run.metrics == expected + [(key, float(value), 3) for key, value in final(summary).items()]
    assert run.files == PICTURES


def test_a_diverged_run_has_failed(tmp_path: Path, digits: Dataset, mlflow: FakeMlflow) -> None:
    config = tiny_config(track="mlflow", lr=1e30, clip_norm=0.0, warmup_epochs=0.0, engine="plain")
    assert train(config, tmp_path / "run", dataset=digits).status == "diverged"
    assert [run.status for run in mlflow.runs.values()] == ["FAILED"]


@pytest.mark.slow
def test_tensorboard_has_table_hyperparameters_and_pictures(tmp_path: Path, digits: Dataset) -> None:
    interrupted(tmp_path / "run", digits)
    summary = train(tiny_config(epochs=3), tmp_path / "run", dataset=digits, resume=True)
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("train_loss")] == [1, 2, 3]
    assert events.Scalars("final/test_accuracy")[0].value == pytest.approx(summary.test_accuracy)
    (table,) = events.Tensors("configuration/text_summary")  # once, though the run began twice
    assert "| lr | 0.01 |" in table.tensor_proto.string_val[0].decode()
    assert sorted(events.Tags()["images"]) == PICTURES
    start = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    assert HParamsPluginData.FromString(start).session_start_info.hparams["lr"].number_value == 0.01


def test_without_artifacts_nothing_is_tracked(tmp_path: Path, digits: Dataset, fake: FakeWandb) -> None:
    train(tiny_config(track=f"tensorboard,{fake.__name__}"), tmp_path / "run", dataset=digits, artifacts=False)
    assert fake.calls == []
    assert not (tmp_path / "run" / "tensorboard").exists()


@pytest.mark.parametrize("name", ["wandb", "trackio", "mlflow"])
def test_a_missing_package_is_named_before_training(convmixer: Run, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name, package=None: None)
    monkeypatch.delitem(sys.modules, name, raising=False)
    status, out, err = convmixer("train", "--dataset", "digits", "--track", f"tensorboard,{name}", "--out", "run")
    assert (status, out) == (2, "")
    assert f"--track: the package {name} is not installed; pip install {name}" in err
    assert "epoch 1" not in err
    assert not Path("run").exists()


def test_trackers_are_checked_by_name_and_no_part_of_the_identity() -> None:
    with pytest.raises(InputError, match="'wandbb' is not a tracker; did you mean 'wandb'"):
        tiny_config(track="tensorboard,wandbb")
    config = tiny_config()
    assert config.train.trackers() == ("tensorboard",)
    assert config.replace(track="none").train.trackers() == ()
    assert config.replace(track="wandb, mlflow,wandb").train.trackers() == ("wandb", "mlflow")
    assert config.replace(track="wandb").identity_hash() == config.identity_hash()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["wandb", "trackio", "mlflow"])
def test_the_package_itself(
    tmp_path: Path, digits: Dataset, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], name: str
) -> None:
    """Offline, interrupted and resumed; where the package is installed."""
    pytest.importorskip(name)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    monkeypatch.chdir(tmp_path)
    console = Console(file=io.StringIO(), record=True, width=200)
    with pytest.raises(Interrupted):
        train(
            tiny_config(epochs=3, track=name), tmp_path / "run", dataset=digits, console=console, observer=StopAfter(1)
        )
    train(tiny_config(epochs=3, track=name), tmp_path / "run", dataset=digits, console=console, resume=True)
    assert "failed" not in console.export_text()
    assert capfd.readouterr().out == ""
    run_id = json.loads((tmp_path / "run" / "trackers.json").read_text())[name]
    if name == "wandb":
        assert len(list((tmp_path / "run" / "wandb").glob(f"offline-run-*-{run_id}"))) == 2
    if name == "mlflow":
        from mlflow import MlflowClient

        client = MlflowClient()
        assert client.get_run(run_id).info.status == "FINISHED"
        assert [metric.step for metric in client.get_metric_history(run_id, "train_loss")] == [1, 2, 3]
        assert sorted(Path(file.path).stem for file in client.list_artifacts(run_id)) == PICTURES
    if name == "trackio":
        from trackio import Api

        (run,) = Api().runs("convmixer")
        assert run.name == f"run-{run_id}"
