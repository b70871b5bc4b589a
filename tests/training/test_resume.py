"""A run that was stopped ends as if it had not been: at every step in this process, and with real signals."""

from __future__ import annotations

import copy
import importlib
import io
import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from convmixer.config import Engine
from convmixer.data import Dataset
from convmixer.errors import InputError, Interrupted
from convmixer.runs import EpochRecord, RunDir
from convmixer.runs.checkpoint import load_checkpoint
from convmixer.runs.paths import CURRENT
from convmixer.training import train
from convmixer.training.build import new_model
from convmixer.training.loop import TrainingLoop
from convmixer.training.observers import Observers, RunObserver, RunWriter
from tests.helpers import processes
from tests.helpers.processes import Process
from tests.helpers.runs import tiny_config

# Dropout and stochastic depth make the run depend on the global random state, what happens to the images on that of the
# batches and, where flips alternate, on the epoch.
RANDOM: dict[str, Any] = {"dropout": 0.2, "drop_path": 0.5, "depth": 2, "epochs": 3, "batch_size": 350}
RANDOM |= {"flip": True, "flip_mode": "alternating", "trivialaugment": True, "cutout": 3, "crop_fill": "reflect"}
RANDOM |= {"mixup": 0.4, "cutmix": 1.0, "mix_probability": 0.8}


class StopAfter(RunObserver):
    """Behaves as if a signal had arrived when it is asked for the ``calls``-th time."""

    def __init__(self, calls: int) -> None:
        self.left = calls

    def should_stop(self) -> Interrupted | None:
        self.left -= 1
        return Interrupted(signal.SIGTERM) if self.left == 0 else None


def run_loop(
    folder: Path,
    digits: Dataset,
    observer: RunObserver,
    forget: tuple[str, ...] = (),
    engine: Engine = "plain",
    **changes: Any,
) -> TrainingLoop:
    """Runs the loop in ``folder`` from its checkpoint, if there is one, without the parts of it named in ``forget``."""
    folder.mkdir(exist_ok=True)
    config = tiny_config(**RANDOM, engine=engine).replace(**changes)
    cpu = torch.device("cpu")
    observers = Observers(RunWriter(RunDir(folder)), observer)
    loop = TrainingLoop(config, digits, new_model(config, digits.info, cpu), cpu, observers)
    state, _ = load_checkpoint(folder)
    if state is not None:
        fresh = {"rng": torch.get_rng_state(), "best": {}, **copy.deepcopy(loop.update.state_dict())}
        loop.restore(state | {part: fresh[part] for part in forget})
    try:
        loop.run()
    except Interrupted:
        loop.save()
    return loop


def outcome(loop: TrainingLoop) -> dict[str, Any]:
    """All that must not depend on interruptions: weights, moments, random state, best weights, metrics."""
    records = [{**vars(record), "seconds": 0, "images_per_second": 0} for record in loop.state.records]
    update = loop.update.state_dict()
    return {
        "update": update | {"optimizer": update["optimizer"]["state"]},  # learning rates are set before each step
        "rng": torch.get_rng_state(),
        "best": loop.state.best.weights,
        "best_epoch": loop.state.best.epoch,
        "records": records,
    }


def equal(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(equal, a, b))
    return bool(a == b)


@pytest.mark.slow
def test_stopped_at_any_step_it_ends_with_the_same_bits(tmp_path: Path, digits: Dataset) -> None:
    """Three epochs, three steps and an evaluation each: a stop before every epoch and evaluation, and after steps."""
    expected = outcome(run_loop(tmp_path / "whole", digits, RunObserver()))
    for calls in range(1, 16):
        folder = tmp_path / str(calls)
        assert len(run_loop(folder, digits, StopAfter(calls)).state.records) < 3
        assert equal(outcome(run_loop(folder, digits, RunObserver())), expected), f"stopped at call {calls}"


@pytest.mark.parametrize("engine", ["plain", "fast"])
def test_stopped_at_every_step_it_ends_with_the_same_bits(tmp_path: Path, digits: Dataset, engine: Engine) -> None:
    """The engine of the beginning is kept, although the later pieces are started with "auto"."""
    expected = outcome(run_loop(tmp_path / "whole", digits, RunObserver(), engine=engine))
    loop = run_loop(tmp_path / "pieces", digits, StopAfter(2), engine=engine)
    for _ in range(30):
        if len(loop.state.records) == 3:
            break
        loop = run_loop(tmp_path / "pieces", digits, StopAfter(2), engine="auto")
        assert loop.model.engine == loop.state.engine == engine
    assert equal(outcome(loop), expected)


# Each with what else a checkpoint has to hold, or with another way through the loop.
OPTIONS: dict[str, dict[str, Any]] = {
    "sgd": {"optimizer": "sgd", "lr": 0.1, "schedule": "onecycle"},
    "muon": {"optimizer": "muon", "decay_norms": False, "schedule": "linear", "ema_decay": 0.9},
    "parts": {"ema_decay": 0.5, "accumulate": 3, "eval_every": 2},
    "growing": {"image_size_start": 4},
}


@pytest.mark.parametrize("options", OPTIONS)
def test_every_option_resumes_with_the_same_bits(tmp_path: Path, digits: Dataset, options: str) -> None:
    changes = OPTIONS[options]
    expected = outcome(run_loop(tmp_path / "whole", digits, RunObserver(), **changes))
    loop = run_loop(tmp_path / "pieces", digits, StopAfter(3), **changes)  # an average is evaluated as well
    for _ in range(30):
        if len(loop.state.records) == 3:
            break
        loop = run_loop(tmp_path / "pieces", digits, StopAfter(3), **changes)
    assert equal(outcome(loop), expected)


@pytest.mark.parametrize("forgotten", ["optimizer", "average"])
def test_options_without_a_part_of_the_checkpoint_end_differently(
    tmp_path: Path, digits: Dataset, forgotten: str
) -> None:
    changes = OPTIONS["muon"]
    expected = outcome(run_loop(tmp_path / "whole", digits, RunObserver(), **changes))
    run_loop(tmp_path / "stopped", digits, StopAfter(9), **changes)
    with_loss = run_loop(tmp_path / "stopped", digits, RunObserver(), forget=(forgotten,), **changes)
    assert not equal(outcome(with_loss), expected)


def test_engines_agree(tmp_path: Path, digits: Dataset) -> None:
    losses = [
        [
            record.train_loss
            for record in run_loop(tmp_path / engine, digits, RunObserver(), engine=engine).state.records
        ]
        for engine in ("plain", "fast")
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


@pytest.mark.parametrize("forgotten", ["rng", "optimizer", "best"])
def test_without_a_part_of_the_checkpoint_the_end_differs(tmp_path: Path, digits: Dataset, forgotten: str) -> None:
    """The control: the comparison above does notice what is lost."""
    expected = outcome(run_loop(tmp_path / "whole", digits, RunObserver()))
    run_loop(tmp_path / "stopped", digits, StopAfter(11))
    with_loss = run_loop(tmp_path / "stopped", digits, RunObserver(), forget=(forgotten,))
    if forgotten == "best" and with_loss.state.best.epoch == 3:
        pytest.skip("the last epoch was the best: nothing to lose")
    assert not equal(outcome(with_loss), expected)


def test_a_damaged_checkpoint_falls_back_and_ends_the_same(tmp_path: Path, digits: Dataset) -> None:
    expected = outcome(run_loop(tmp_path / "whole", digits, RunObserver()))
    run_loop(tmp_path / "stopped", digits, StopAfter(11))
    checkpoint = tmp_path / "stopped" / CURRENT
    checkpoint.write_bytes(checkpoint.read_bytes()[:-1000])
    assert equal(outcome(run_loop(tmp_path / "stopped", digits, RunObserver())), expected)


def test_a_finished_run_of_a_constant_schedule_goes_on_to_more_epochs(tmp_path: Path, digits: Dataset) -> None:
    """It ends as one that had all epochs from the beginning."""
    config = tiny_config(batch_size=64, schedule="constant", warmup_epochs=1, epochs=5, ema_decay=0.9)
    train(config, tmp_path / "whole", dataset=digits, artifacts=False)
    first = train(config.replace(epochs=3), tmp_path / "run", dataset=digits, artifacts=False)
    assert (first.status, first.epochs) == ("finished", 3)
    train(config, tmp_path / "run", dataset=digits, resume=True, artifacts=False)
    assert_same_result(tmp_path / "run", tmp_path / "whole")
    assert RunDir(tmp_path / "run").config() == config
    evaluations = [json.loads((tmp_path / name / "evaluation_test.json").read_text()) for name in ("run", "whole")]
    unlike = {"run": "", "images_per_second": 0}
    assert evaluations[0] | unlike == evaluations[1] | unlike


@pytest.mark.parametrize(
    ("changes", "epochs", "reason"),
    [
        ({"schedule": "cosine"}, 3, "cosine schedule has taken the learning rate to 0 in epoch 2"),
        ({"schedule": "constant"}, 1, "has trained 2 epochs already"),
        ({"schedule": "constant", "warmup_epochs": 1.5}, 3, "its warm-up was cut to 1 epochs"),
        ({"schedule": "constant", "image_size_start": 4}, 3, "sizes of its images"),
        ({"schedule": "constant", "batch_size": 100}, 4, "evaluated with statistics of batch normalisation"),
    ],
)
def test_a_finished_run_that_cannot_go_on_stays_as_it_is(
    tmp_path: Path, digits: Dataset, changes: dict[str, Any], epochs: int, reason: str
) -> None:
    config = tiny_config(**changes)
    train(config, tmp_path, dataset=digits, artifacts=False)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    with pytest.raises(InputError, match=reason):
        train(config.replace(epochs=epochs), tmp_path, dataset=digits, resume=True)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


# Real processes

ARGUMENTS = [
    *(
        "train",
        "--dataset",
        "digits",
        "--seed",
        "1",
        "--epochs",
        "4",
        "--dim",
        "8",
        "--depth",
        "2",
        "--kernel-size",
        "3",
    ),
    *("--batch-size", "64", "--dropout", "0.1", "--device", "cpu"),
]


def start(out: Path, *more: str, code: str = "") -> Process:
    return processes.start(*ARGUMENTS, "--out", str(out), *more, code=code)


def finish(process: Process) -> tuple[int, str, str]:
    stdout, stderr = process.communicate(timeout=120)
    return process.wait(), stdout, stderr


def wait_for(condition: Callable[[], bool], process: Process) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing interrupted."""
    out = tmp_path_factory.mktemp("whole") / "run"
    status, _, stderr = finish(start(out))
    assert status == 0, stderr
    return out


def assert_same_result(run: Path, whole: Path) -> None:
    assert (run / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    timings = {"seconds": 0, "images_per_second": 0}
    records = [[{**vars(record), **timings} for record in RunDir(path).metrics()] for path in (run, whole)]
    assert records[0] == records[1]
    summaries = [json.loads((path / "summary.json").read_text()) for path in (run, whole)]
    for summary in summaries:
        del summary["epoch_seconds"], summary["images_per_second"]
    assert summaries[0] == summaries[1]


@pytest.mark.slow
def test_killed_twice_and_resumed(tmp_path: Path, whole: Path) -> None:
    out = tmp_path / "run"
    process = start(out, "--checkpoint-minutes", "0")  # after every step
    wait_for((out / CURRENT).exists, process)
    time.sleep(0.05)
    process.kill()
    assert finish(process)[0] == -signal.SIGKILL
    assert RunDir(out).status() == "interrupted"

    process = start(out, "--resume")
    wait_for(lambda: len(RunDir(out).metrics()) >= 2, process)
    process.kill()
    finish(process)
    status, _, stderr = finish(start(out, "--resume"))
    assert status == 0, stderr
    assert "continuing in epoch" in stderr
    assert_same_result(out, whole)


# Kills itself at the n-th renaming of a file: within a save, between its two renamings, between two files of the end.
KILL_AT_RENAME = """
import os, pathlib, signal
calls, rename = [0], pathlib.Path.replace
def replace(self, target):
    calls[0] += 1
    if calls[0] == {n}:
        os.kill(os.getpid(), signal.SIGKILL)
    return rename(self, target)
pathlib.Path.replace = replace
from convmixer.cli import main
main()
"""


@pytest.mark.slow
@pytest.mark.parametrize("n", [1, 6, 7, 15, 17])
def test_killed_while_a_file_is_put_in_place(tmp_path: Path, whole: Path, n: int) -> None:
    out = tmp_path / "run"
    assert finish(start(out, code=KILL_AT_RENAME.format(n=n)))[0] == -signal.SIGKILL
    status, _, stderr = finish(start(out, "--resume"))
    assert status == 0, stderr
    assert_same_result(out, whole)
    assert not list(out.glob("*.tmp"))


@pytest.mark.slow
@pytest.mark.parametrize(("signum", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_finish_the_step_and_write_a_checkpoint(
    tmp_path: Path, whole: Path, signum: signal.Signals, status: int
) -> None:
    out = tmp_path / "run"
    process = start(out)
    wait_for(lambda: len(RunDir(out).metrics()) >= 1, process)
    os.kill(process.pid, signum)
    returned, stdout, stderr = finish(process)
    assert returned == status, stderr
    assert stdout == ""
    assert "--resume continues" in stderr
    assert "Traceback" not in stderr
    status, _, stderr = finish(start(out, "--resume"))
    assert status == 0, stderr
    assert_same_result(out, whole)


@pytest.mark.slow
def test_two_processes_do_not_train_into_one_directory(tmp_path: Path) -> None:
    out = tmp_path / "run"
    first = start(out, "--epochs", "1000")
    wait_for((out / "metrics.jsonl").exists, first)
    assert RunDir(out).status() == "running"
    status, _, stderr = finish(start(out, "--resume"))
    first.kill()
    finish(first)
    assert status == 2
    assert "another process is training into it" in stderr


@pytest.mark.slow
def test_resuming_with_other_flags_names_them(whole: Path) -> None:
    status, _, stderr = finish(start(whole, "--resume", "--lr", "0.5", "--seed", "2"))
    assert status == 2
    assert "(seed 1 → 2, lr 0.01 → 0.5)" in stderr


def test_a_checkpoint_of_another_run_is_refused_by_name(tmp_path: Path, digits: Dataset) -> None:
    for seed, lr in ((0, 0.02), (9, 0.001)):
        run_loop(tmp_path / str(seed), digits, StopAfter(2), seed=seed, lr=lr)
    (tmp_path / "9" / CURRENT).replace(tmp_path / "0" / CURRENT)
    with pytest.raises(InputError, match=r"another run \(seed 9 instead of 0, lr 0.001 instead of 0.02\)"):
        run_loop(tmp_path / "0", digits, StopAfter(2), seed=0, lr=0.02)


@pytest.mark.slow
def test_damage_is_reported_on_the_command_line(tmp_path: Path, digits: Dataset) -> None:
    out = tmp_path / "run"
    config = tiny_config(epochs=3)

    class Stop(Console):
        def print(self, *objects: object, **options: object) -> None:
            if "epoch 2/3" in str(objects[0]):
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(config, out, dataset=digits, console=Stop(quiet=True))
    (out / CURRENT).write_bytes(b"damaged")
    console = Console(record=True, width=200, file=io.StringIO())
    train(config, out, dataset=digits, console=console, resume=True)
    text = console.export_text()
    assert f"{out / CURRENT} is damaged" in text
    assert "continuing from the one before" in text


def test_an_interruption_behind_the_last_step_leaves_the_checkpoints_as_they_are(
    tmp_path: Path, digits: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    def checkpoints() -> list[bytes]:
        return [(tmp_path / "run" / name).read_bytes() for name in ("checkpoint.pt", "checkpoint.previous.pt")]

    before: list[list[bytes]] = []

    def interrupted(*_: object, **__: object) -> None:
        torch.rand(1)  # as building the model that is evaluated does
        before.append(checkpoints())
        raise Interrupted(signal.SIGINT)

    config = tiny_config(epochs=2)
    with monkeypatch.context() as patched:
        patched.setattr(importlib.import_module("convmixer.training.train"), "evaluate_run", interrupted)
        with pytest.raises(Interrupted):
            train(config, tmp_path / "run", dataset=digits, artifacts=False)
    assert before == [checkpoints()]
    assert train(config, tmp_path / "run", dataset=digits, artifacts=False, resume=True).status == "finished"
    assert before == [checkpoints()]


def test_a_run_interrupted_between_its_last_step_and_its_evaluation_ends_with_the_same_checkpoint(
    tmp_path: Path, digits: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(self: TrainingLoop) -> EpochRecord:
        if self.state.epoch == 1:
            raise Interrupted(signal.SIGINT)
        return record(self)

    config, record = tiny_config(epochs=2), TrainingLoop._record
    train(config, tmp_path / "whole", dataset=digits, artifacts=False)
    with monkeypatch.context() as patched:
        patched.setattr(TrainingLoop, "_record", interrupted)
        with pytest.raises(Interrupted):
            train(config, tmp_path / "parts", dataset=digits, artifacts=False)
    train(config, tmp_path / "parts", dataset=digits, artifacts=False, resume=True)
    whole, parts = (load_checkpoint(tmp_path / name)[0] for name in ("whole", "parts"))
    assert whole is not None
    assert parts is not None
    assert parts["optimizer"]["param_groups"] == whole["optimizer"]["param_groups"]
    assert parts["position"] == whole["position"] | {"seconds": parts["position"]["seconds"]}
    assert torch.equal(parts["rng"], whole["rng"])
