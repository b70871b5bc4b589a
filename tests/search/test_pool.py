"""Runs that are shared: each is trained once, resumed where it was stopped, waited for where another is at it."""

from __future__ import annotations

import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from convmixer.config import RunConfig
from convmixer.data import Dataset
from convmixer.errors import InputError, Interrupted
from convmixer.runs import RunBusyError, RunDir, Summary
from convmixer.search.pool import RunCrashedError, RunPool
from convmixer.training import train
from convmixer.training import train as train_module
from convmixer.training.observers import EpochWatcher
from tests.helpers.processes import start
from tests.helpers.runs import figures, starts, tiny_config


def test_a_finished_run_is_read_not_repeated(tmp_path: Path, digits: Dataset) -> None:
    pool, config = RunPool(tmp_path), tiny_config()
    assert pool.summary(config) is None
    summary = pool.run(config, dataset=digits)
    assert pool.path(config).parent == tmp_path / "runs"
    assert config.identity_hash() in pool.path(config).name
    written = (pool.path(config) / "model.safetensors").stat().st_mtime_ns
    elsewhere = config.replace(checkpoint_minutes=1.0)  # says nothing about the result
    assert RunPool(tmp_path).run(elsewhere) == RunPool(tmp_path).summary(elsewhere) == summary
    assert (pool.path(config) / "model.safetensors").stat().st_mtime_ns == written
    assert starts(pool.path(config)) == 1


@pytest.mark.slow
def test_the_figures_are_those_of_a_run_of_its_own(tmp_path: Path, digits: Dataset) -> None:
    config = tiny_config(seed=3, dropout=0.2)
    alone = train(config, tmp_path / "alone", dataset=digits)
    pool = RunPool(tmp_path)
    pool.run(tiny_config(seed=2), dataset=digits)  # one run leaves nothing behind that the next would notice
    assert figures(pool.run(config, dataset=digits)) == figures(alone)
    left_out = {"learning_curve.png", "confusion_test.png", "calibration_test.png", "mistakes_test.png", "tensorboard"}
    assert {file.name for file in (tmp_path / "alone").iterdir()} - left_out == {
        file.name for file in pool.path(config).iterdir()
    }


def test_data_are_loaded_once(tmp_path: Path) -> None:
    pool = RunPool(tmp_path)
    first = pool.dataset(tiny_config())
    assert pool.dataset(tiny_config(seed=1, epochs=5)) is first
    assert pool.dataset(tiny_config(val_fraction=0.2)).info.sizes["val"] > first.info.sizes["val"]
    assert "val" not in pool.dataset(tiny_config(protocol="original")).splits


class StopsAfterAnEpoch(Console):
    """Sends this process SIGTERM when the first epoch's line is printed."""

    def print(self, *objects: Any, **options: Any) -> None:
        if str(objects[0]).startswith("epoch 1/"):
            signal.raise_signal(signal.SIGTERM)


def test_an_interrupted_run_is_resumed(tmp_path: Path, digits: Dataset) -> None:
    pool, config = RunPool(tmp_path / "stopped"), tiny_config(epochs=3, dropout=0.2)
    with pytest.raises(Interrupted):
        pool.run(config, dataset=digits, console=StopsAfterAnEpoch())
    assert RunDir(pool.path(config)).status() == "interrupted"
    resumed = pool.run(config, dataset=digits)
    assert starts(pool.path(config)) == 2
    assert figures(resumed) == figures(RunPool(tmp_path / "whole").run(config, dataset=digits))


def test_a_run_that_another_process_trains_is_busy_or_waited_for(tmp_path: Path, digits: Dataset) -> None:
    pool, config = RunPool(tmp_path), tiny_config()
    claim = RunDir(pool.path(config)).locked()
    with claim, pytest.raises(RunBusyError, match="another process is training into it"):
        pool.run(config, dataset=digits, wait=False)

    held, release = threading.Event(), threading.Event()

    def hold() -> None:
        with RunDir(pool.path(config)).locked():
            held.set()
            release.wait()

    holder, answers = threading.Thread(target=hold), []
    holder.start()
    held.wait()
    waiter = threading.Thread(target=lambda: answers.append(pool.run(config, dataset=digits)))
    waiter.start()
    time.sleep(0.5)
    assert not answers
    release.set()
    holder.join()
    waiter.join()
    assert answers == [pool.summary(config)]


def test_what_is_busy_comes_last(tmp_path: Path, digits: Dataset) -> None:
    pool, configs = RunPool(tmp_path), [tiny_config(seed=seed, epochs=1) for seed in range(3)]
    with RunDir(pool.path(configs[0])).locked():
        answers = pool.run_all([*configs, configs[2]], dataset=digits)
        done = [next(answers)[0] for _ in range(2)]
    done += [config for config, _ in answers]
    assert [config.seed for config in done] == [1, 2, 0]


def test_a_run_that_another_process_trains_is_passed_over_without_waiting_for_it(
    tmp_path: Path, digits: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of short runs the other one would end while this process waits, which would then follow it from run to run."""
    tried: list[int] = []

    def train_here(self: RunPool, config: RunConfig, **_: object) -> str:
        tried.append(config.seed)
        return "done"

    monkeypatch.setattr(RunPool, "_train", train_here)
    pool = RunPool(tmp_path)
    configs = [tiny_config(seed=seed) for seed in range(3)]
    with RunDir(pool.path(configs[0])).locked():
        answers = pool.run_all(configs, dataset=digits)
        assert [next(answers)[0] for _ in range(2)] == configs[1:]
        assert tried == [1, 2]
    assert next(answers)[0] == configs[0]
    assert tried == [1, 2, 0]


def test_a_crashed_run_is_reported_and_can_be_retried(
    tmp_path: Path, digits: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool, configs = RunPool(tmp_path), [tiny_config(seed=seed, epochs=1) for seed in range(3)]

    def fails(config: Any, *rest: Any, **options: Any) -> None:
        if config.seed == 1:
            raise RuntimeError("out of\nmemory")
        return loop(config, *rest, **options)  # type: ignore[no-any-return]

    module = sys.modules[train_module.__module__]
    loop = module.TrainingLoop
    with monkeypatch.context() as patch:
        patch.setattr(module, "TrainingLoop", fails)
        _, crash, last = (answer for _, answer in pool.run_all(configs, dataset=digits))
    assert isinstance(last, Summary)
    assert isinstance(crash, RunCrashedError)
    run = RunDir(pool.path(configs[1]))
    assert str(crash).startswith(f"{run.path}: crashed (RuntimeError: out of memory)")
    assert run.status() == "crashed"
    assert run.error().startswith("Traceback")
    assert pool.summary(configs[1]) is None

    assert pool.run(configs[1], dataset=digits).status == "finished"
    assert (run.status(), run.error()) == ("finished", "")


def test_a_diverged_run_has_ended(tmp_path: Path, digits: Dataset) -> None:
    pool, config = RunPool(tmp_path), tiny_config(lr=1e30, clip_norm=0.0, epochs=3, warmup_epochs=0.0)
    assert pool.run(config, dataset=digits).status == "diverged"
    assert pool.run(config, dataset=digits).status == "diverged"
    assert starts(pool.path(config)) == 1


def test_a_pruned_run_is_continued_unless_it_may_stay_so(tmp_path: Path, digits: Dataset) -> None:
    pool, config, seen = RunPool(tmp_path), tiny_config(epochs=3), []

    prune = EpochWatcher(lambda record: "hopeless")
    assert pool.run(config, dataset=digits, observer=prune, keep_pruned=True).status == "pruned"
    assert pool.run(config, dataset=digits, keep_pruned=True).status == "pruned"
    ((_, summary),) = pool.run_all([config], dataset=digits, report=lambda run, record: seen.append(record.epoch))
    assert seen == [1, 2, 3]
    assert figures(summary) == figures(RunPool(tmp_path / "whole").run(config, dataset=digits))


def test_bad_input_leaves_no_trace(tmp_path: Path, digits: Dataset) -> None:
    pool, config = RunPool(tmp_path), tiny_config(patch_size=3)
    with pytest.raises(InputError, match="does not divide"):
        next(pool.run_all([config], dataset=digits))
    assert not pool.path(config).exists()


SHARE = """
import sys
from convmixer.search.pool import RunPool
from tests.helpers.runs import figures, starts, tiny_config
pool = RunPool(sys.argv[1])
for config, summary in pool.run_all(tiny_config(seed=seed, epochs=1) for seed in range(12)):
    print(config.seed, summary.test_accuracy)
"""


@pytest.mark.slow
def test_processes_share_the_work(tmp_path: Path, repository: Path) -> None:
    processes = [start(str(tmp_path), code=SHARE, cwd=repository) for _ in range(3)]
    answers = [set(process.communicate()[0].splitlines()) for process in processes]
    assert [process.wait() for process in processes] == [0, 0, 0]
    assert answers[0] == answers[1] == answers[2]
    assert len(answers[0]) == 12
    assert [starts(folder) for folder in (tmp_path / "runs").iterdir()] == [1] * 12
