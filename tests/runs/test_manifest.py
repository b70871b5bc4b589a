"""A run's records are what was written, or named."""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from convmixer import files
from convmixer.data import Dataset
from convmixer.errors import InputError
from convmixer.inference import evaluate_run, load
from convmixer.manifest import MARK, Manifest
from convmixer.report.collect import collect
from convmixer.report.write import write_report
from convmixer.runs import EpochRecord, RunBusyError, RunDir
from convmixer.runs.verify import verify
from convmixer.training import train
from convmixer.training.observers import RunObserver
from convmixer.training.tracking.tensorboard import TensorBoard
from convmixer.training.tracking.tracker import TrackedRun
from tests.helpers.cli import Run
from tests.helpers.runs import tiny_config


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, digits: Dataset) -> Path:
    """Two finished runs, with seeds 0 and 1."""
    out = tmp_path_factory.mktemp("runs")
    for seed in range(2):
        train(tiny_config(seed=seed, epochs=1), out / str(seed), dataset=digits, artifacts=False)
    return out


@pytest.fixture
def runs(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "runs"))


RECORDS = [
    "config.json",
    "dataset.json",
    "environment.json",
    "evaluation_test.json",
    "metrics.jsonl",
    "model.safetensors",
    "summary.json",
]


def read_everything(run: RunDir) -> None:
    for read in (run.config, run.dataset, run.summary, run.metrics, run.evaluation, run.environment):
        read()
    load(run.path)


def flip(run: Path, name: str) -> None:
    content = bytearray((run / name).read_bytes())
    content[len(content) // 2] ^= 1
    (run / name).write_bytes(content)


def truncate(run: Path, name: str) -> None:
    (run / name).write_bytes((run / name).read_bytes()[:-2])


def swap(run: Path, name: str) -> None:
    shutil.copy(run.parent / "1" / name, run / name)


def lose(run: Path, name: str) -> None:
    (run / name).unlink()


@pytest.mark.parametrize("harm", [flip, truncate, swap, lose])
@pytest.mark.parametrize("name", RECORDS)
def test_a_record_that_is_not_what_was_written_is_named(
    runs: Path, name: str, harm: Callable[[Path, str], None]
) -> None:
    run = runs / "0"
    read_everything(RunDir(run))
    before = (run / name).read_bytes()
    harm(run, name)
    if harm is swap and (run / name).read_bytes() == before:
        pytest.skip("both runs have the same")
    with pytest.raises(InputError) as refusal:
        read_everything(RunDir(run))
    said = str(refusal.value)
    assert said.startswith(f"{run / name}: is ")
    assert said.endswith(f"convmixer verify {run} --accept.")
    (found,) = verify(run)
    assert (found.missing if harm is lose else found.changed) == [name]
    assert [*found.problems] == [said]
    (run / name).write_bytes(before)
    read_everything(RunDir(run))


def test_damage_to_the_manifest_itself_is_named(runs: Path) -> None:
    manifest = runs / "0" / "manifest.json"
    content = manifest.read_bytes()
    for position in range(0, len(content), 37):
        manifest.write_bytes(content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :])
        with pytest.raises(InputError, match=r"manifest\.json: is damaged"):
            RunDir(runs / "0").config()
    manifest.unlink()
    with pytest.raises(InputError, match=r"manifest\.json: is missing"):
        RunDir(runs / "0").config()
    assert verify(runs / "0")[0].problems
    assert not verify(runs / "0", accept=True)[0].problems
    read_everything(RunDir(runs / "0"))


def test_directories_of_earlier_versions_are_read_and_taken_up(runs: Path, digits: Dataset) -> None:
    run = runs / "0"
    (run / "manifest.json").unlink()
    values = json.loads((run / "environment.json").read_text())
    (run / "environment.json").write_text(json.dumps({key: values[key] for key in values.keys() - MARK}))
    read_everything(RunDir(run))
    assert [found.sealed for found in verify(run)] == [False]
    Manifest(run).write({"evaluation_val.json": "{}"})
    (found,) = verify(run)
    assert found.sealed
    assert {*RECORDS, "evaluation_val.json", "checkpoint.pt"} <= set(found.whole)
    assert not found.problems


def test_a_report_shows_such_a_run_and_reports_the_rest(runs: Path) -> None:
    flip(runs / "0", "summary.json")
    study = collect(runs)
    assert study.runs["0"].row.status == "unreadable"
    assert "summary.json: is not what was written" in study.runs["0"].row.message
    assert study.runs["1"].row.status == "finished"


def test_verify_counts_and_accepts(runs: Path, convmixer: Run) -> None:
    assert convmixer("verify", runs)[0] == 0
    flip(runs / "0", "metrics.jsonl")
    lose(runs / "1", "summary.json")
    (runs / "1" / "evaluation_train.json").write_text("{}")
    flip(runs / "1", "checkpoint.pt")
    status, out, err = convmixer("verify", runs)
    assert status == 2
    assert ", 2 changed, 1 missing, 1 unknown." in out
    assert len(err.strip().splitlines()) == 4
    (runs / "1" / "checkpoint.pt").unlink()
    status, out, err = convmixer("verify", runs, "--accept")
    assert (status, err) == (0, "")
    assert ", 0 changed, 0 missing, 0 unknown." in out


def test_the_checkpoint_of_another_run_is_named(runs: Path) -> None:
    lose(runs / "0", "model.safetensors")
    Manifest(runs / "0").accept()
    swap(runs / "0", "checkpoint.pt")
    assert "seed 1 instead of 0" in verify(runs / "0")[0].problems[0]
    with pytest.raises(InputError, match="seed 1 instead of 0"):
        load(runs / "0")


@pytest.mark.parametrize("steps", range(12))
def test_a_kill_at_any_write_is_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    """Each replacement of a name is where the process may end."""

    class Killed(BaseException):
        pass

    left, replace = steps, Path.replace

    def counted(self: Path, target: Path) -> Path:
        nonlocal left
        if left == 0:
            raise Killed
        left -= 1
        return replace(self, target)

    manifest = Manifest(tmp_path)
    monkeypatch.setattr(Path, "replace", counted)
    try:
        manifest.write({"config.json": "1", "summary.json": "1"})
        manifest.write({"metrics.jsonl": "1"}, again_soon=True)
        manifest.write({"metrics.jsonl": "2"}, again_soon=True)
        manifest.remove("summary.json")
        manifest.write({"config.json": "2"})
    except Killed:
        pass
    monkeypatch.setattr(Path, "replace", replace)
    assert not manifest.verify().problems
    manifest.write({"config.json": "3", "init.json": "3"})
    assert not manifest.verify().problems
    (tmp_path / "config.json").write_text("4")
    assert manifest.verify().changed == ["config.json"]


def test_writers_at_once_lose_nothing_and_readers_see_no_damage(tmp_path: Path) -> None:
    names = [f"evaluation_{number}.json" for number in range(4)]

    def write(name: str) -> None:
        for content in range(15):
            Manifest(tmp_path).write({name: str(content)})

    threads = [threading.Thread(target=write, args=[name]) for name in names]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        for name in names:
            Manifest(tmp_path).read(name)
    assert Manifest(tmp_path).verify().whole == names


def test_a_write_costs_few_waits_for_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Path] = []
    monkeypatch.setattr(files, "sync", calls.append)
    Manifest(tmp_path).write({"metrics.jsonl": "1"}, again_soon=True)
    assert len(calls) == 4


def test_figures_are_printed_before_they_are_kept(runs: Path, convmixer: Run) -> None:
    (runs / "0" / ".manifest.lock").unlink()
    (runs / "0" / ".manifest.lock").mkdir()  # which root cannot write to either
    status, out, err = convmixer("evaluate", runs / "0")
    assert status == 2
    assert "balanced accuracy" in out
    assert "could not be kept" in err


def test_evaluating_again_mends_a_damaged_evaluation(runs: Path, digits: Dataset) -> None:
    from convmixer.inference import write_evaluation

    flip(runs / "0", "evaluation_test.json")
    write_evaluation(evaluate_run(runs / "0", dataset=digits), pictures=False)
    assert not verify(runs / "0")[0].problems


def test_a_process_killed_before_its_first_record_leaves_a_folder_that_can_be_used(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("{}")  # the manifest comes before what it allows
    assert RunDir(tmp_path).check_can_use(tiny_config(), resume=True) is None
    (tmp_path / "mine.txt").touch()
    with pytest.raises(InputError, match="holds other files"):
        RunDir(tmp_path).check_can_use(tiny_config(), resume=True)


def test_whoever_lost_the_lock_stops_before_it_writes(tmp_path: Path, digits: Dataset) -> None:
    run = RunDir(tmp_path / "run")
    kept: list[bytes] = []

    class Remover(RunObserver):
        def on_epoch(self, record: EpochRecord) -> None:
            (run.path / ".lock").unlink()
            kept.append((run.path / "checkpoint.pt").read_bytes())
            self.other = RunDir(run.path).locked()
            self.other.__enter__()

    observer = Remover()
    with pytest.raises(RunBusyError, match="this one stops"):
        train(tiny_config(epochs=3), run.path, dataset=digits, artifacts=False, observer=observer)
    assert [(run.path / "checkpoint.pt").read_bytes()] == kept
    assert run.status() == "running"  # the other's lock is untouched
    observer.other.__exit__(None, None, None)
    assert train(tiny_config(epochs=3), run.path, dataset=digits, artifacts=False, resume=True).status == "finished"


@pytest.mark.parametrize("kind", ["open", "fsync", "replace"])
def test_of_a_folder_that_vanishes_nothing_is_left_that_keeps_the_run_from_starting_anew(
    tmp_path: Path, digits: Dataset, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, out, config = getattr(os, kind), tmp_path / "run", tiny_config(epochs=2)
    left: list[int] = []

    def vanishing(*arguments: Any, **options: Any) -> Any:
        left[0] -= (out / "metrics.jsonl").exists()
        if left[0] == 0:
            shutil.rmtree(out)
        return original(*arguments, **options)

    monkeypatch.setattr(os, kind, vanishing)
    for calls in (1, 2, 5, 11):
        left[:] = [calls]
        with pytest.raises((FileNotFoundError, InputError)):
            train(config, out, dataset=digits, artifacts=False)
        assert not out.exists() or RunDir(out).check_can_use(config, resume=True) is None
        shutil.rmtree(out, ignore_errors=True)


@pytest.mark.parametrize("name", [".lock", ".manifest.lock"])
def test_a_lock_that_is_a_link_is_not_followed(tmp_path: Path, digits: Dataset, name: str) -> None:
    (tmp_path / "precious").write_text("precious")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / name).symlink_to(tmp_path / "precious")
    with pytest.raises(InputError, match="run"):
        train(tiny_config(epochs=1), tmp_path / "run", dataset=digits, artifacts=False)
    assert (tmp_path / "precious").read_text() == "precious"


def test_links_out_of_a_run_are_not_written_through(runs: Path, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    for name in ("report", "tensorboard"):
        (runs / "0" / name).symlink_to(tmp_path / "outside")
    (runs / "0" / ".x.tmp").mkdir()
    with pytest.raises(InputError, match="is a link"):
        write_report(runs / "0")
    with pytest.raises(InputError, match="is a link"):
        TensorBoard().start(TrackedRun(runs / "0", None, 0, {}))
    assert not list((tmp_path / "outside").iterdir())
    with RunDir(runs / "0").locked():
        pass
