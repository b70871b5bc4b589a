"""Experiments survive what happens to them: killed, shared, crashed, continued, they end with the same records."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from convmixer.errors import InputError
from convmixer.experiments import PublishedResult, Search
from convmixer.manifest import Manifest
from convmixer.runs import RunDir
from tests.helpers import processes
from tests.helpers.experiments import RATES, TINY, measured, tiny_suite
from tests.helpers.runs import figures, starts

SEEDS = 4
RUNS = SEEDS * 5  # three rows and three, one of them in both
FORKS = multiprocessing.get_context("forkserver")
# What is imported late would be imported again in each of the many lives below.
LATE = ("torch._dynamo", "torch.utils.flop_counter", "sklearn.datasets", "sklearn.metrics", "scipy.special")
FORKS.set_forkserver_preload(["tests.experiments.test_suite", *LATE])


def work(out: Path) -> None:
    """What the processes of these tests do."""
    tiny_suite(out, SEEDS, replace(TINY, fields={**TINY.fields, "epochs": 3})).run()


def start(out: Path) -> multiprocessing.process.BaseProcess:
    """A process at work, from the moment when it has begun to train."""
    before = counted(out)
    process = FORKS.Process(target=work, args=(out,))
    process.start()
    while counted(out) == before and process.is_alive():
        time.sleep(0.002)
    return process


def counted(out: Path) -> int:
    """How often processes began to train any run of a study."""
    return sum(starts(path.parent) for path in out.glob("runs/*/environment.json"))


def records(out: Path) -> dict[str, Any]:
    """All that a study leaves and that must not depend on how it came about."""
    files = [path for path in (out / "experiments").glob("*.json") if path.name != "manifest.json"]
    kept: dict[str, Any] = {path.name: json.loads(path.read_text()) for path in files}
    for path in (out / "runs").iterdir():
        run = RunDir(path)
        metrics = [{**vars(record), "seconds": 0, "images_per_second": 0} for record in run.metrics()]
        kept[path.name] = (figures(run.summary()), metrics, (path / "model.safetensors").read_bytes())
    return kept


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    """A study that nothing interrupted, and the seconds that its training took."""
    out = tmp_path_factory.mktemp("study") / "whole"
    process = start(out)
    began = time.monotonic()
    process.join()
    assert process.exitcode == 0
    assert len(list((out / "runs").iterdir())) == RUNS
    return out, time.monotonic() - began


@pytest.mark.slow
def test_killed_ten_times_it_ends_with_the_same_records(tmp_path: Path, whole: tuple[Path, float]) -> None:
    (expected, seconds), lives = whole, random.Random(0)
    finished: dict[Path, int] = {}
    for _ in range(10):
        process = start(tmp_path)
        process.join(lives.uniform(0.1, 0.9) * seconds / 10)
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        now = {path: path.stat().st_mtime_ns for path in tmp_path.glob("runs/*/summary.json")}
        assert finished.items() <= now.items()  # what was finished is not touched again
        finished = now
    assert 0 < len(finished) < RUNS
    work(tmp_path)
    assert records(tmp_path) == records(expected)
    again = sum(starts(folder) - 1 for folder in (tmp_path / "runs").iterdir())
    assert 0 < again <= 10  # each kill stopped one run at most, and that one was resumed, not repeated


@pytest.mark.slow
def test_two_processes_share_the_work(tmp_path: Path, whole: tuple[Path, float]) -> None:
    first = start(tmp_path)
    os.kill(first.pid or 0, signal.SIGSTOP)  # or it might leave nothing to the other
    both = [first, start(tmp_path)]
    os.kill(first.pid or 0, signal.SIGCONT)
    for process in both:
        process.join()
    assert [process.exitcode for process in both] == [0, 0]
    assert records(tmp_path) == records(whole[0])
    assert [starts(folder) for folder in (tmp_path / "runs").iterdir()] == [1] * RUNS
    by_process: dict[int, int] = {}
    for folder in (tmp_path / "runs").iterdir():
        identifier = json.loads((folder / "environment.json").read_text())["process"]
        by_process[identifier] = by_process.get(identifier, 0) + 1
    assert sorted(by_process) == sorted(process.pid or 0 for process in both)


@pytest.mark.slow
def test_interrupted_the_same_command_continues(tmp_path: Path) -> None:
    line = ["experiment", "classifier", "--dataset", "digits", "--profile", "smoke", "--seeds", "1"]
    command = (*line, "--out", str(tmp_path))
    process = processes.start(*command)
    while not list(tmp_path.glob("runs/*/metrics.jsonl")) and process.poll() is None:
        time.sleep(0.002)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert (out, "the same command continues" in err) == ("", True)
    assert len(list(tmp_path.glob("runs/*/summary.json"))) < 3

    done = processes.run(*command)
    assert done.returncode == 0, done.stderr
    assert "ConvMixerLC" in done.stdout
    assert len(list(tmp_path.glob("runs/*/summary.json"))) == 3


@pytest.mark.slow
def test_rounds_and_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    suite = tiny_suite(tmp_path)
    record = json.loads((tmp_path / "experiments" / "widths.json").read_text())
    assert (record["base"], record["seeds"], record["profile"], record["dataset"]) == (
        "lr 0.01",
        [0, 1],
        "tiny",
        "digits",
    )
    assert [row["changes"] for row in record["rows"]] == [{}, {"dim": 16}, {"dropout": 0.2}]
    assert not (tmp_path / "runs").exists()  # a listed run may not exist yet
    assert {row.seeds for row in measured(tmp_path).values()} == {()}

    seeds = []
    module = sys.modules["convmixer.search.pool"]
    train = module.train

    def watched(config: Any, *rest: Any, **options: Any) -> Any:
        seeds.append(config.seed)
        return train(config, *rest, **options)

    monkeypatch.setattr(module, "train", watched)
    assert suite.run() == []
    assert seeds == [0] * 5 + [1] * 5
    for row in record["rows"]:
        for run in row["runs"]:
            summary = RunDir.existing(tmp_path / run["path"]).summary()
            assert summary is not None
            assert summary.seed == run["seed"]
    base, same = (measured(tmp_path)[name, "lr 0.01"] for name in ("rates", "widths"))
    assert (base.seeds, base.test_accuracy) == ((0, 1), same.test_accuracy)

    assert tiny_suite(tmp_path, seeds=3).run() == []  # a third seed needs the third round alone
    assert seeds[10:] == [2] * 5


def test_a_crash_does_not_stop_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = sys.modules["convmixer.search.pool"]
    train = module.train

    def failing(config: Any, *rest: Any, **options: Any) -> Any:
        if config.architecture.dim == 16:
            raise MemoryError("no more")
        return train(config, *rest, **options)

    suite = tiny_suite(tmp_path, seeds=1)
    with monkeypatch.context() as patch:
        patch.setattr(module, "train", failing)
        (crash,) = suite.run()
    assert "MemoryError: no more" in str(crash)
    assert [len(row.seeds) for row in measured(tmp_path).values()] == [1, 1, 1, 1, 0, 1]
    assert suite.run() == []
    assert [len(row.seeds) for row in measured(tmp_path).values()] == [1] * 6


def test_a_search_is_part_of_a_study(tmp_path: Path) -> None:
    """Its runs lie beside the others; the test set is read for the best combination alone, and for every row."""
    best = Search(
        name="search",
        question="Which learning rate?",
        published=PublishedResult(test_accuracy=0.9274, train_accuracy=0.9402, epoch_seconds=24.19),
    )
    profile = replace(TINY, grid=("lr=0.003,0.01", "batch_size=200"))
    suite = tiny_suite(tmp_path, 1, profile, (best,))
    assert suite.run() == []
    found = json.loads((tmp_path / "grid_search.json").read_text())
    trials = {trial["values"]["lr"]: trial for trial in found["trials"]}
    summaries = {lr: RunDir(tmp_path / trial["path"]).summary() for lr, trial in trials.items()}
    chosen = max(trials, key=lambda lr: trials[lr]["val_accuracy"])
    assert found["winner"]["values"] == {"lr": chosen, "batch_size": 200}
    assert {lr for lr, summary in summaries.items() if summary and summary.test_accuracy is not None} == {chosen}

    everything = tiny_suite(tmp_path, 1, profile, (RATES, best))  # whose rows lr 0.003 and 0.01 are these trials
    assert everything.run() == []
    assert [row.test_accuracy is None for row in measured(tmp_path).values()] == [False] * 3
    assert len(list((tmp_path / "runs").iterdir())) == 3
    assert {starts(tmp_path / trial["path"]) for trial in trials.values()} == {1}


def test_diverged_runs_are_counted_apart(tmp_path: Path) -> None:
    fields = {**TINY.fields, "clip_norm": 0.0, "epochs": 2, "warmup_epochs": 0.0, "weight_decay": 1e30}
    suite = tiny_suite(tmp_path, 1, replace(TINY, fields=fields))
    assert suite.run() == []
    assert {(row.seeds, row.diverged) for row in measured(tmp_path).values()} == {((), 1)}


def test_another_study_in_the_same_place_is_refused(tmp_path: Path) -> None:
    suite = tiny_suite(tmp_path)
    path = tmp_path / "experiments" / "rates.json"
    path.write_text(path.read_text().replace('"digits"', '"cifar10"'))
    Manifest(path.parent).accept()
    before = path.read_text()
    with pytest.raises(InputError, match="dataset cifar10, not digits"):
        tiny_suite(tmp_path)
    assert path.read_text() == before
    path.write_text("{}")
    Manifest(path.parent).accept()
    with pytest.raises(InputError, match="is not an experiment's record"):
        tiny_suite(suite.study.out)
