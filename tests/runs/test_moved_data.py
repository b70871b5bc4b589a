"""A run outlives the folder of its images, the directory that it was started in, and an interruption."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path

import pytest
import torch
from PIL import Image

from convmixer.data import Dataset
from convmixer.errors import InputError, Interrupted
from convmixer.inference import evaluate_run, load
from convmixer.manifest import Manifest
from convmixer.runs import RunDir
from convmixer.training import train
from convmixer.training.observers import RunObserver
from tests.helpers.cli import Run
from tests.helpers.runs import tiny_config


def draw(folder: Path, per_class: int = 12, classes: tuple[str, ...] = ("blue", "red"), seed: int = 0) -> Path:
    """Pictures of noise, tinted by class."""
    noise = torch.randint(120, (len(classes), per_class, 8, 8, 3), generator=torch.Generator().manual_seed(seed))
    for label, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for index in range(per_class):
            pixels = noise[label, index]
            pixels[..., 2 if name == "blue" else 0] += 120
            Image.fromarray(pixels.to(torch.uint8).numpy()).save(folder / name / f"{index}.png")
    return folder


class StopAtStep(RunObserver):
    """SIGTERM after the ``calls``-th question whether to stop."""

    def __init__(self, calls: int) -> None:
        self.left = calls

    def should_stop(self) -> Interrupted | None:
        self.left -= 1
        return Interrupted(signal.SIGTERM) if self.left == 0 else None


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with a run on ``folder:pictures``, relative to it; the process is in it."""
    home = tmp_path / "home"
    draw(home / "pictures")
    monkeypatch.chdir(home)
    train(tiny_config(dataset="folder:pictures", batch_size=8), "run", artifacts=False)
    return home


def test_the_data_are_found_from_anywhere_and_where_they_were_moved(
    home: Path, tmp_path: Path, convmixer: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = json.loads((home / "run" / "evaluation_test.json").read_text())["accuracy"]
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    draw(elsewhere / "pictures", seed=1)  # of the same name, but not the run's
    monkeypatch.chdir(elsewhere)
    assert evaluate_run(home / "run").figures.accuracy == before

    shutil.move(home / "pictures", tmp_path / "moved")
    status, _, err = convmixer("evaluate", home / "run")
    assert status == 2
    assert f"there is no folder {home / 'pictures'}" in err
    assert "--dataset folder:PATH" in err
    status, out, err = convmixer("evaluate", home / "run", "--dataset", f"folder:{tmp_path / 'moved'}", "--json")
    assert status == 0, err
    assert json.loads(out)["accuracy"] == before
    assert not json.loads(out)["another_data_set"]
    assert "another data set" not in err


def test_another_set_is_evaluated_whole_and_by_the_names_of_its_classes(home: Path, tmp_path: Path) -> None:
    draw(tmp_path / "other", per_class=5, seed=2)
    Image.new("RGB", (20, 30)).save(tmp_path / "other" / "red" / "large.png")
    own = (home / "run" / "evaluation_test.json").read_bytes()
    other = evaluate_run(home / "run", dataset=f"folder:{tmp_path / 'other'}")
    assert (other.images, other.another_data_set, other.name) == (11, True, "test_other")
    assert [row.images for row in other.figures.per_class] == [5, 6]
    assert (home / "run" / "evaluation_test.json").read_bytes() == own

    draw(tmp_path / "wrong", classes=("blue", "green"))
    with pytest.raises(InputError, match=r"other classes than .*'green' \(only the data\), 'red' \(only the run\)"):
        evaluate_run(home / "run", dataset=f"folder:{tmp_path / 'wrong'}")


def test_a_set_with_other_order_of_classes_is_relabelled(home: Path) -> None:
    """As if the run had learned the classes in the other order: the same pictures are right."""
    values = json.loads((home / "run" / "dataset.json").read_text())
    same = evaluate_run(home / "run", dataset="folder:pictures").figures.accuracy
    values["classes"].reverse()
    values["fingerprint"] = "0"
    (home / "run" / "dataset.json").write_text(json.dumps(values))
    Manifest(home / "run").accept()
    with pytest.raises(InputError, match="these are not the images"):
        evaluate_run(home / "run")
    draw(home / "again")
    reversed_ = evaluate_run(home / "run", dataset="folder:again")
    straight = evaluate_run(home / "run", dataset="folder:pictures")
    assert reversed_.figures.accuracy == pytest.approx(1 - straight_accuracy(home)), same
    assert straight.another_data_set


def straight_accuracy(home: Path) -> float:
    """Of all pictures, with the classes in the order that the run was trained with."""
    predictor = load(home / "run")
    files = sorted((home / "pictures").glob("*/*.png"))
    answers = predictor.predict(list(map(str, files)), top_k=1)
    order = {"blue": "red", "red": "blue"}  # dataset.json is reversed by now
    return sum(order[answer.classes[0]] == file.parent.name for answer, file in zip(answers, files, strict=True)) / 24


def test_a_run_is_resumed_after_its_data_moved(home: Path, tmp_path: Path, convmixer: Run) -> None:
    config = tiny_config(dataset="folder:pictures", batch_size=8, epochs=3)
    os.chdir(home)
    whole = train(config, "whole", artifacts=False)
    with pytest.raises(Interrupted):
        train(config, "stopped", artifacts=False, observer=StopAtStep(4))
    shutil.move(home / "pictures", tmp_path / "moved")
    draw(tmp_path / "others", seed=3)
    status, _, err = convmixer(
        "train", "--out", home / "stopped", "--resume", "--dataset", f"folder:{tmp_path / 'others'}"
    )
    assert status == 2
    assert "the images are not those that this run began with" in err
    os.chdir(tmp_path)
    status, out, err = convmixer(
        *("train", "--out", home / "stopped", "--resume", "--dataset", f"folder:{tmp_path / 'moved'}", "--json")
    )
    assert status == 0, err
    assert json.loads(out)["test_accuracy"] == whole.test_accuracy
    assert RunDir(home / "stopped").config() == config
    assert (home / "stopped" / "model.safetensors").read_bytes() == (home / "whole" / "model.safetensors").read_bytes()
    assert evaluate_run(home / "stopped").figures.accuracy == whole.test_accuracy


def test_a_received_run_downloads_nothing_and_makes_no_folder(convmixer: Run, home: Path, tmp_path: Path) -> None:
    values = json.loads((home / "run" / "config.json").read_text())
    values["data"] |= {"dataset": "cifar10", "data_dir": str(tmp_path / "data"), "source": "http://localhost:1/"}
    (home / "run" / "config.json").write_text(json.dumps(values))
    (home / "run" / "environment.json").unlink()
    Manifest(home / "run").accept()
    status, _, err = convmixer("evaluate", home / "run")
    assert status == 2
    assert "nothing was to be downloaded" in err
    assert not (tmp_path / "data").exists()


def test_an_interrupted_run_is_evaluated_and_predicts(convmixer: Run, digits: Dataset, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with pytest.raises(Interrupted):
        train(tiny_config(epochs=9), run, dataset=digits, artifacts=False, observer=StopAtStep(14))
    epochs = len(RunDir(run).metrics())
    best = torch.load(run / "checkpoint.pt", weights_only=True)["position"]["best_epoch"]
    assert 1 <= best <= epochs < 9
    status, out, err = convmixer("evaluate", run, "--split", "val", "--json")
    assert status == 0, err
    assert f"the run is interrupted; these are the weights of epoch {best}, the best of {epochs} of 9" in err
    figures = json.loads(out)
    assert figures["unfinished_epoch"] == best
    assert figures["accuracy"] == pytest.approx(RunDir(run).metrics()[best - 1].val_accuracy)
    assert (run / f"evaluation_val_epoch_{best}.json").is_file()
    assert not (run / "evaluation_val.json").exists()
    Image.new("L", (8, 8)).save(tmp_path / "black.png")
    status, out, err = convmixer("predict", run, tmp_path / "black.png")
    assert status == 0
    assert "black.png: " in out
    assert f"these are the weights of epoch {best}" in err


def test_resuming_what_is_not_there_is_refused(convmixer: Run, home: Path) -> None:
    status, _, err = convmixer("train", "--out", home / "rnu", "--resume")
    assert status == 2
    assert f"--out: there is no run {home / 'rnu'} to resume; did you mean '{home / 'run'}'?" in err
    assert not (home / "rnu").exists()


def test_a_finished_run_is_not_extended_and_the_reason_said(convmixer: Run, home: Path) -> None:
    status, _, err = convmixer("train", "--out", home / "run", "--resume", "--epochs", 5)
    assert status == 2
    assert "its cosine schedule has taken the learning rate to 0 in epoch 2" in err
    assert "--init-from" in err
