"""Living with runs: lists, comparisons, what a run would cost; help, typing errors and files of settings."""

from __future__ import annotations

import io
import json
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from scipy.stats import binom

from convmixer import cli
from convmixer.cli.commands import COMMANDS
from convmixer.cli.defaults import read_config
from convmixer.cli.runs import sparkline
from convmixer.data import Dataset
from convmixer.errors import InputError
from convmixer.inference import load
from convmixer.inference.paired import mcnemar
from convmixer.models import create_model
from convmixer.presets import run_config
from convmixer.runs import EpochRecord, RunDir
from convmixer.training import train
from convmixer.training.display import TrainingDisplay
from tests.helpers.cli import Run
from tests.helpers.runs import tiny_config


@pytest.fixture(scope="module")
def heap(tmp_path_factory: pytest.TempPathFactory, digits: Dataset) -> Path:
    """Two finished runs, one of them deeper in the tree, and a file that is no run's."""
    root = tmp_path_factory.mktemp("heap")
    train(tiny_config(epochs=3, batch_size=64), root / "a", dataset=digits, artifacts=False)
    train(tiny_config(epochs=2, batch_size=64, seed=1, dim=12), root / "deep" / "b", dataset=digits, artifacts=False)
    (root / "broken").mkdir()
    (root / "broken" / "config.json").write_text("{")
    return root


def test_runs_lists_sorts_and_filters(convmixer: Run, heap: Path) -> None:
    status, out, err = convmixer("runs", heap, "--json")
    assert status == 0
    rows = json.loads(out)
    assert [Path(row["path"]).name for row in rows] == ["a", "b"]
    assert "broken/config.json" in err
    summary = RunDir(heap / "a").summary()
    assert summary is not None
    assert rows[0]["test_accuracy"] == summary.test_accuracy
    by_test = json.loads(convmixer("runs", heap, "--json", "--sort", "test")[1])
    assert [row["test_accuracy"] for row in by_test] == sorted((row["test_accuracy"] for row in rows), reverse=True)
    assert json.loads(convmixer("runs", heap, "--json", "--status", "running")[1]) == []
    out = convmixer("runs", heap)[1]
    assert all(part in out for part in ("deep/b", "finished", "digits", "baseline"))


def test_compare_says_what_differs_and_tests_on_the_same_images(
    convmixer: Run, heap: Path, digits: Dataset, tmp_path: Path
) -> None:
    status, out, err = convmixer("compare", heap / "a", heap / "deep" / "b", "--json", "--plot", "curves.png")
    assert status == 0, err
    found = json.loads(out)
    assert found["settings"] == {"seed": [0, 1], "epochs": [3, 2], "dim": [8, 12]}
    assert [len(curve) for curve in found["curves"]] == [3, 2]
    (paired,) = found["paired"]
    test = digits.splits["test"]
    right = [
        load(path).logits(test.images.numpy()).argmax(1) == test.labels.numpy()
        for path in (heap / "a", heap / "deep" / "b")
    ]
    assert paired["only_first"] == int((right[0] & ~right[1]).sum())
    assert paired["only_second"] == int((right[1] & ~right[0]).sum())
    assert paired["difference"] == pytest.approx(right[1].mean() - right[0].mean())
    assert (tmp_path / "curves.png").stat().st_size > 5000
    out = convmixer("compare", heap / "a", heap / "deep" / "b")[1]
    assert all(part in out for part in ("seed", "dim", "McNemar", "held-out accuracy by epoch", "█"))
    status, _, err = convmixer("compare", heap / "a")
    assert (status, "takes two run directories or more" in err) == (2, True)


def test_mcnemar_against_the_binomial_distribution() -> None:
    first = torch.tensor([True] * 50 + [False] * 12 + [True] * 3 + [False] * 5)
    second = torch.tensor([True] * 50 + [True] * 12 + [False] * 3 + [False] * 5)
    test = mcnemar(first, second)
    assert (test.only_first, test.only_second) == (3, 12)
    assert test.p_value == pytest.approx(2 * binom.cdf(3, 15, 0.5))
    assert test.difference == pytest.approx(9 / 70)
    assert test.half_width == pytest.approx(1.96 * (15 - 81 / 70) ** 0.5 / 70, rel=1e-4)
    assert mcnemar(first, first).p_value == 1


def test_sparkline() -> None:
    assert sparkline([0.0, 0.5, None, 1.0], 0.0, 1.0) == "▁▅ █"
    assert len(sparkline([0.1] * 300, 0.1, 0.1)) == 40


def test_recipes_and_models(convmixer: Run) -> None:
    assert set(json.loads(convmixer("recipes", "--json")[1])) >= {"baseline", "strong"}
    out = convmixer("recipes", "strong")[1]
    assert all(part in out for part in ("--optimizer", "muon", "adamw"))
    status, _, err = convmixer("recipes", "stong")
    assert (status, "did you mean 'strong'" in err) == (2, True)
    assert all(row["purpose"] for row in json.loads(convmixer("models", "--json")[1]))


def test_a_dry_run_says_the_cost_and_writes_nothing(convmixer: Run, tmp_path: Path) -> None:
    flags = ("--dataset", "digits", "--dim", 8, "--depth", 1, "--kernel-size", 3, "--epochs", 7, "--device", "cpu")
    status, out, err = convmixer("train", *flags, "--dry-run", "--json")
    assert status == 0, err
    cost = json.loads(out)
    sizes: dict[str, Any] = {"dim": 8, "depth": 1, "kernel_size": 3, "in_channels": 1}
    assert cost["parameters"] == sum(p.numel() for p in create_model("convmixer", **sizes).parameters())
    assert (cost["batch_size"], cost["steps_per_epoch"], cost["steps"]) == (32, 40, 280)
    assert cost["minutes"] == pytest.approx((280 * cost["step_seconds"] + 7 * cost["evaluation_seconds"]) / 60)
    assert cost["memory_bytes"] > 10**7
    assert list(tmp_path.iterdir()) == []
    assert "of 40 with 32 images" in convmixer("train", *flags, "--dry-run")[1]


# Help and typing errors


@pytest.mark.parametrize("name", COMMANDS)
def test_help_fits_has_examples_and_shows_no_syntax_of_types(
    convmixer: Run, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    status, out, _ = convmixer(name, "--help")
    assert status == 0
    assert max(map(len, out.splitlines())) <= 80
    assert f"examples:\n  convmixer {name}" in out
    for raw in ("{None}", "[STR", "(default: None)", "[PATH"):
        assert raw not in out


@pytest.mark.parametrize("example", [example for command in COMMANDS.values() for example in command.examples])
def test_examples_of_the_help_are_understood(
    heap: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, example: str
) -> None:
    (tmp_path / "my-run").symlink_to(heap / "a")
    monkeypatch.chdir(tmp_path)
    assert callable(cli._parse(shlex.split(example.partition(" <")[0])).execute)


def test_a_folder_without_its_prefix(convmixer: Run) -> None:
    Path("my pictures").mkdir()
    for command in (("data", "my pictures"), ("train", "--dataset", "my pictures")):
        status, _, err = convmixer(*command)
        assert (status, "for the folder of that name give 'folder:my pictures'" in " ".join(err.split())) == (2, True)


def test_help_begins_with_what_is_used_most(convmixer: Run) -> None:
    out = convmixer("train", "--help")[1]
    order = [
        out.index(f"\n  --{flag} ") for flag in ("dataset", "epochs", "lr", "out", "dry-run", "val-fraction", "cutout")
    ]
    assert order == sorted(order)
    assert "Turn this off: weight decay on normalisations" in " ".join(out.split())


def test_without_a_command(convmixer: Run) -> None:
    for arguments in ((), ("--help",)):
        status, out, _ = convmixer(*arguments)
        assert status == 0
        assert all(name in out for name in COMMANDS)
    assert convmixer("--version")[1].startswith("convmixer 0.")
    status, _, err = convmixer("tarin")
    assert (status, "did you mean 'train'?" in err) == (2, True)
    status, out, err = convmixer("train", "--epoch", 3)
    assert (status, "--epochs" in out + err, "grid-search" in out + err) == (2, True, False)


def test_short_flags(convmixer: Run) -> None:
    flags = ("--dataset", "digits", "--dim", 8, "--depth", 1, "--kernel-size", 3, "--epochs", 1)
    status, _, err = convmixer("train", *flags, "--wd", 0.25, "--bs", 200, "--out", "run")
    assert status == 0, err
    assert (RunDir("run").config().train.weight_decay, RunDir("run").config().train.batch_size) == (0.25, 200)
    assert "Next: convmixer evaluate run, convmixer report run, tensorboard --logdir run/tensorboard" in err


def test_completion_for_bash_knows_commands_and_flags(convmixer: Run, tmp_path: Path) -> None:
    code = convmixer("--completion", "bash")[1]
    (tmp_path / "code.sh").write_text(code)
    subprocess.run(["bash", "-n", "code.sh"], check=True)
    assert all(word in code for word in ("grid-search", "--epochs", "compare"))
    assert convmixer("--completion", "fsh")[0] == 2


# Files of settings


def test_partial_files_flat_or_nested_in_json_or_yaml(tmp_path: Path) -> None:
    expected = run_config("convmixer_rh", "strong-short", epochs=3, lr=0.5, kernel_size=5)
    nested = {"model": "convmixer_rh", "recipe": "strong-short", "train": {"epochs": 3, "lr": 0.5}, "kernel_size": 5}
    (tmp_path / "a.json").write_text(json.dumps(nested))
    (tmp_path / "a.yaml").write_text(
        "model: convmixer_rh\nrecipe: strong-short\nepochs: 3\nlr: 0.5\narchitecture:\n  kernel_size: 5\n"
    )
    assert read_config(tmp_path / "a.json") == read_config(tmp_path / "a.yaml") == (expected, True)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text(json.dumps(expected.to_dict()))
    assert read_config(tmp_path / "run") == (expected, False)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epoch: 3", "did you mean 'epochs'"),
        ("train: {dim: 3}", "'dim' belongs to architecture"),
        ("epochs: many", "epochs: expected int, got 'many'"),
        ("[1, 2]", "expected settings by name"),
        ("a: [", "cannot be read as YAML"),
        ("a: &a [1]\nepochs: [*a, *a]", "has YAML aliases"),
        ("[" * 100_000, "cannot be read as YAML"),
    ],
)
def test_bad_files_of_settings(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(InputError) as error:
        read_config(tmp_path / "a.yaml")
    assert message in str(error.value)
    assert "a.yaml" in str(error.value)


# What training prints


def record(epoch: int, val: float, **more: float) -> EpochRecord:
    figures = {"lr": 0.01, "train_loss": 12.3456, "train_accuracy": 0.9876, "val_loss": 1.0, "val_accuracy": val}
    return EpochRecord(epoch=epoch, seconds=1234.5, images_per_second=123456.0, **{**figures, **more})


@pytest.mark.parametrize("more", [{}, {"ema_val_accuracy": 0.98, "ema_val_loss": 1.0}])
def test_the_line_of_an_epoch_fits_and_marks_the_best(more: dict[str, float]) -> None:
    console = Console(file=io.StringIO(), width=200)
    display = TrainingDisplay(console, epochs=300, steps_per_epoch=10)
    display.on_start(())
    for epoch, val in ((1, 0.5), (2, 0.4), (3, 0.6), (300, 0.6)):
        scores = {"ema_val_accuracy": val} if more else {}
        display.on_epoch(record(epoch, val, **(more | scores)))
    display.on_end()
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert max(map(len, lines)) <= 80
    assert ["best" in line for line in lines] == [True, False, True, True]
    assert [" left" in line for line in lines] == [not more, not more, not more, False]


INTERRUPTED = r"""
import os, signal, sys, pathlib
lines = "import os, signal", "try:", " os.kill(os.getpid(), signal.SIG{name})", "except BaseException:"
pathlib.Path("victim.py").write_text("\n".join([*lines, " raise RecursionError"]))
sys.path.insert(0, ".")
from convmixer.runtime.signals import command, interrupt_commands_only
interrupt_commands_only()

def send():
    os.kill(os.getpid(), signal.SIG{name})

def catch():
    try:
        send()
    except BaseException as error:
        os._exit(7 if isinstance(error, {raises}) else 8)

class Finalizer:
    def __del__(self):
        send()

def finalize():
    Finalizer()
    os._exit(9)

def send_at_exit():
    import atexit
    atexit.register(send)

{then}
"""


@pytest.mark.parametrize(
    ("then", "inside"),
    [
        ("import victim", False),
        ("command(lambda: __import__('victim'))", False),
        ("catch()", False),
        ("command(catch)", True),
        ("command(finalize)", False),
        ("command(send_at_exit)", False),
    ],
)
@pytest.mark.parametrize(("name", "raises"), [("INT", "KeyboardInterrupt"), ("TERM", "SystemExit")])
def test_a_signal_raises_in_a_command_alone_and_ends_the_process_quietly_elsewhere(
    tmp_path: Path, name: str, raises: str, then: str, inside: bool
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED.format(then=then, name=name, raises=raises)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    status = 7 if inside else 128 + getattr(signal, f"SIG{name}")
    assert (done.returncode, done.stderr) == (status, "")
