"""A run, from configuration to run directory, in this process."""

from __future__ import annotations

import dataclasses
import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from rich.console import Console
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from convmixer.data import Dataset
from convmixer.data.augment import Augment
from convmixer.data.batches import Normalize, TrainBatches
from convmixer.errors import InputError
from convmixer.inference.evaluate import evaluate_run
from convmixer.models import build_model
from convmixer.presets import run_config
from convmixer.runs import EpochRecord, RunBusyError, RunDir
from convmixer.training import read_test_set, train
from convmixer.training.build import new_model, train_batches
from convmixer.training.loop import TrainingLoop
from convmixer.training.observers import EpochWatcher
from convmixer.training.schedule import learning_rate
from tests.helpers.runs import tiny_config

FILES = {
    "config.json",
    "dataset.json",
    "environment.json",
    "metrics.jsonl",
    "checkpoint.pt",
    "checkpoint.previous.pt",
    "model.safetensors",
    "summary.json",
    "evaluation_test.json",
    "confusion_test.png",
    "calibration_test.png",
    "mistakes_test.png",
    "learning_curve.png",
    "tensorboard",
    ".lock",
    "manifest.json",
    ".manifest.lock",
}


def test_a_run_directory_holds_what_is_promised(tmp_path: Path, digits: Dataset) -> None:
    out = tmp_path / "deep" / "run"
    config = tiny_config()
    summary = train(config, out, dataset=digits)
    assert {path.name for path in out.iterdir()} == FILES
    run = RunDir.existing(out)
    assert run.config() == config
    assert run.dataset() == digits.info
    assert run.summary() == summary
    assert run.status() == "finished"
    records = run.metrics()
    assert [record.epoch for record in records] == [1, 2]
    assert summary.status == "finished"
    assert summary.selected_epoch in (1, 2)
    selected = records[summary.selected_epoch - 1]
    assert selected.val_accuracy == max(record.val_accuracy or 0 for record in records)
    assert (summary.train_accuracy, summary.val_accuracy) == (selected.train_accuracy, selected.val_accuracy)
    assert all(record.test_accuracy is None for record in records)  # the test set was read once, at the end
    assert summary.parameters == sum(t.numel() for n, t in load_file(out / "model.safetensors").items() if _trained(n))
    again = evaluate_run(out, dataset=digits)
    assert again.figures.accuracy == summary.test_accuracy
    assert again.figures.loss == pytest.approx(summary.test_loss, rel=1e-6)  # it evaluates the fused model
    events = EventAccumulator(str(out / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("train_loss")] == [1, 2]


def _trained(name: str) -> bool:
    return not any(part in name for part in ("running_mean", "running_var", "num_batches_tracked"))


def test_the_loop_does_what_a_plain_one_does(tmp_path: Path, digits: Dataset) -> None:
    """The oracle: the same run as a script, without any of the loop's machinery."""
    config = tiny_config(epochs=2, clip_norm=0.1, label_smoothing=0.1, protocol="validation", weight_decay=0.1)
    train(config, tmp_path / "run", dataset=digits)

    torch.manual_seed(config.seed)
    device, info = torch.device("cpu"), digits.info
    model = build_model(config.architecture, len(info.classes), info.channels)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1.0, weight_decay=0.1, fused=True)
    augment = Augment(config.augment, mean=info.mean, mirror=False)
    batches = TrainBatches(digits.splits["train"], 400, config.seed, augment, Normalize(info, device), device)
    losses, step = [], 0
    for epoch in range(2):
        for images, labels in batches.epoch(epoch):
            optimizer.param_groups[0]["lr"] = learning_rate(config.train, step, len(batches))
            loss = F.cross_entropy(model(images), labels, label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1)
            optimizer.step()
            losses.append(loss.item())
            step += 1
    steps = len(batches)
    recorded = [record.train_loss for record in RunDir(tmp_path / "run").metrics()]
    assert recorded == pytest.approx([sum(losses[:steps]) / steps, sum(losses[steps:]) / steps])
    final = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)["model"]
    assert all(torch.equal(tensor, final[name]) for name, tensor in model.state_dict().items())


@pytest.mark.slow
def test_it_learns(tmp_path: Path, digits: Dataset) -> None:
    config = tiny_config(dim=32, depth=2, epochs=8, batch_size=64, crop="none", randaugment=0)
    summary = train(config, tmp_path / "run", dataset=digits)
    assert summary.test_accuracy is not None
    assert summary.test_accuracy > 0.9


@pytest.mark.slow
@pytest.mark.parametrize("model", ["convmixer_rh", "convmixer_lc", "convmixer_bn"])
def test_the_strong_recipe_needs_nothing_else(tmp_path: Path, digits: Dataset, model: str) -> None:
    config = run_config(model, "strong", dataset="digits", dim=8, depth=2, epochs=2, kernel_size=3)
    summary = train(config, tmp_path / "run", dataset=digits)
    assert summary.test_accuracy_tta is not None
    assert train_batches(config, digits, torch.device("cpu")).batch_size == 32


@pytest.mark.slow
@pytest.mark.parametrize("model", ["convmixer_rh", "convmixer_lc", "convmixer_bn"])
def test_every_variant_trains(tmp_path: Path, digits: Dataset, model: str) -> None:
    summary = train(tiny_config(model=model, epochs=1), tmp_path / "run", dataset=digits)
    assert summary.status == "finished"


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_precision(tmp_path: Path, digits: Dataset, precision: str) -> None:
    summary = train(tiny_config(precision=precision, epochs=1), tmp_path / "run", dataset=digits)
    assert summary.precision == {"bfloat16": "bfloat16", "float16": "float32"}[precision]  # no float16 without a GPU


@pytest.mark.slow
def test_channels_last_gives_the_same_losses(tmp_path: Path, digits: Dataset) -> None:
    losses = [
        train(tiny_config(channels_last=flag), tmp_path / str(flag), dataset=digits).test_loss for flag in (False, True)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


@pytest.mark.slow
def test_the_original_protocol_selects_on_the_test_set_and_says_so(tmp_path: Path) -> None:
    summary = train(tiny_config(protocol="original"), tmp_path / "run")
    records = RunDir(tmp_path / "run").metrics()
    assert summary.protocol == "original"
    assert summary.val_accuracy is None
    assert summary.test_accuracy == max(record.test_accuracy or 0 for record in records)
    assert RunDir(tmp_path / "run").dataset().sizes.keys() == {"train", "test"}


@pytest.mark.slow
def test_without_validation_the_last_epoch_is_taken(tmp_path: Path) -> None:
    summary = train(tiny_config(val_fraction=0.0), tmp_path / "run")
    assert (summary.selected_epoch, summary.val_accuracy) == (2, None)


@pytest.mark.slow
def test_the_average_is_chosen_by_and_kept(tmp_path: Path, digits: Dataset) -> None:
    summary = train(tiny_config(ema_decay=0.9, epochs=4, lr=0.05), tmp_path / "run", dataset=digits)
    records = RunDir(tmp_path / "run").metrics()
    best = max(record.ema_val_accuracy or 0 for record in records)
    selected = records[(summary.selected_epoch or 0) - 1]
    assert selected.ema_val_accuracy == summary.val_accuracy == best
    assert summary.raw_val_accuracy == selected.val_accuracy
    assert all(record.val_loss != record.ema_val_loss for record in records)
    kept = evaluate_run(tmp_path / "run", "val", dataset=digits)
    assert kept.figures.accuracy == best
    assert kept.figures.loss == pytest.approx(selected.ema_val_loss, rel=1e-4)


@pytest.mark.slow
def test_without_an_average_there_are_no_figures_of_one(tmp_path: Path, digits: Dataset) -> None:
    summary = train(tiny_config(), tmp_path / "run", dataset=digits)
    assert summary.raw_val_accuracy is None
    assert all(record.ema_val_accuracy is None for record in RunDir(tmp_path / "run").metrics())


@pytest.mark.slow
def test_the_average_under_the_original_protocol(tmp_path: Path) -> None:
    summary = train(tiny_config(protocol="original", ema_decay=0.5), tmp_path / "run")
    records = RunDir(tmp_path / "run").metrics()
    assert summary.test_accuracy == max(record.ema_test_accuracy or 0 for record in records)
    assert (summary.val_accuracy, summary.raw_val_accuracy) == (None, None)


@pytest.mark.slow
@pytest.mark.parametrize(("every", "evaluated"), [(1, [1, 2, 3, 4, 5]), (2, [2, 4, 5]), (3, [3, 5]), (9, [5])])
def test_epochs_between_evaluations(tmp_path: Path, digits: Dataset, every: int, evaluated: list[int]) -> None:
    summary = train(tiny_config(epochs=5, eval_every=every), tmp_path / "run", dataset=digits)
    records = RunDir(tmp_path / "run").metrics()
    assert [record.epoch for record in records if record.val_accuracy is not None] == evaluated
    assert summary.selected_epoch in evaluated


def test_divergence_is_named_and_the_last_good_checkpoint_stays(tmp_path: Path, digits: Dataset) -> None:
    config = tiny_config(epochs=4, lr=1e30, warmup_epochs=0.0, clip_norm=0.0)
    summary = train(config, tmp_path / "run", dataset=digits)
    assert summary.status == "diverged"
    assert summary.test_accuracy is None
    for part in ("at step ", "learning rate is ", "last finite loss was ", "--lr"):
        assert part in summary.message
    assert RunDir(tmp_path / "run").status() == "diverged"
    assert not (tmp_path / "run" / "model.safetensors").exists()
    with pytest.raises(InputError, match="the run is diverged, train again, into another --out"):
        evaluate_run(tmp_path / "run", dataset=digits)


def test_a_run_without_a_finished_epoch_cannot_be_evaluated_yet(tmp_path: Path, digits: Dataset) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(tiny_config(), tmp_path / "run", dataset=digits, console=_InterruptingConsole("into"))
    with pytest.raises(InputError, match="the run is interrupted, continue it with --resume"):
        evaluate_run(tmp_path / "run", dataset=digits)


def test_divergence_after_good_epochs_keeps_them(
    tmp_path: Path, digits: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    def poisoned(self: TrainingLoop, images: torch.Tensor, labels: torch.Tensor) -> None:
        step(self, images * float("nan") if (self.state.epoch, self.state.step) == (2, 1) else images, labels)

    step = TrainingLoop._train_step
    monkeypatch.setattr(TrainingLoop, "_train_step", poisoned)
    summary = train(tiny_config(epochs=4), tmp_path / "run", dataset=digits)
    assert summary.status == "diverged"
    assert "the loss is nan at step 8 (epoch 3)" in summary.message
    state = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)
    assert state["position"]["epoch"] == 2
    assert all(tensor.isfinite().all() for tensor in state["model"].values())


@pytest.mark.slow
def test_the_callers_arithmetic_stays_as_it_was(tmp_path: Path, digits: Dataset) -> None:
    train(tiny_config(epochs=1), tmp_path / "run", dataset=digits)
    assert torch.tensor(1e-40) != 0  # denormal numbers are zero during training alone


@pytest.mark.slow
def test_nothing_is_written_over(tmp_path: Path, digits: Dataset) -> None:
    config = tiny_config(epochs=1)
    train(config, tmp_path / "run", dataset=digits)
    before = {path: path.read_bytes() for path in (tmp_path / "run").glob("*.*")}
    with pytest.raises(InputError, match="holds a finished run"):
        train(config, tmp_path / "run", dataset=digits)
    assert train(config, tmp_path / "run", dataset=digits, resume=True) == RunDir(tmp_path / "run").summary()
    assert {path: path.read_bytes() for path in (tmp_path / "run").glob("*.*")} == before
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("x")
    with pytest.raises(InputError, match="holds other files"):
        train(config, tmp_path / "other", dataset=digits)


@pytest.mark.slow
def test_a_changed_configuration_is_refused_by_field(tmp_path: Path, digits: Dataset) -> None:
    train(tiny_config(epochs=1), tmp_path / "run", dataset=digits)
    with pytest.raises(InputError, match=r"\(seed 0 → 1, epochs 1 → 5\)"):
        train(tiny_config(epochs=5, seed=1), tmp_path / "run", dataset=digits, resume=True)


@pytest.mark.slow
def test_changed_images_are_refused(tmp_path: Path, digits: Dataset) -> None:
    config = tiny_config()
    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path / "run", dataset=digits, console=_InterruptingConsole("epoch 1/2"))
    other = dataclasses.replace(digits, info=dataclasses.replace(digits.info, fingerprint="0" * 64))
    with pytest.raises(InputError, match="not those that this run began with"):
        train(config, tmp_path / "run", dataset=other, resume=True)
    train(config, tmp_path / "run", dataset=digits, resume=True)
    with pytest.raises(InputError, match="not the images"):
        evaluate_run(tmp_path / "run", dataset=other)


class _InterruptingConsole(Console):
    """Stops the program at once when a line with ``text`` would be printed."""

    def __init__(self, text: str) -> None:
        super().__init__(quiet=True)
        self.text = text

    def print(self, *objects: object, **options: object) -> None:
        if self.text in str(objects[0]):
            raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"patch_size": 3}, r"--patch-size: 3 does not divide the 8 pixels of digits; choose one of 1, 2, 4, 8"),
        ({"device": "cuda"}, "--device: no cuda device"),
    ],
)
def test_what_does_not_fit_data_or_machine_is_refused(
    tmp_path: Path, digits: Dataset, changes: dict[str, object], message: str
) -> None:
    if changes.get("device") == "cuda" and torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    with pytest.raises(InputError, match=message):
        train(tiny_config(**changes), tmp_path / "run", dataset=digits)
    assert not (tmp_path / "run").exists()  # no trace of a run that never began


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["auto", "float32", "bfloat16", "float16"])
def test_training_and_resuming_on_a_gpu(tmp_path: Path, digits: Dataset, precision: str) -> None:
    config = tiny_config(device="cuda", precision=precision, epochs=3)
    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path / "run", dataset=digits, console=_InterruptingConsole("epoch 2/3"))
    summary = train(config, tmp_path / "run", dataset=digits, resume=True)
    assert (summary.status, summary.device) == ("finished", "cuda")
    assert len(RunDir(tmp_path / "run").metrics()) == 3


@pytest.mark.parametrize("name", ["config.json", "dataset.json", "summary.json"])
@pytest.mark.parametrize("content", ["", "{", "[]", '{"unknown": 1}', "\x00\xff"])
def test_damaged_files_of_a_run_are_named(tmp_path: Path, digits: Dataset, name: str, content: str) -> None:
    run = RunDir(tmp_path)
    run.write_json("config.json", tiny_config().to_dict())
    run.write_json("dataset.json", digits.info.to_dict())
    (tmp_path / name).write_text(content)
    read = {"config.json": run.config, "dataset.json": run.dataset, "summary.json": run.summary}[name]
    with pytest.raises(InputError, match=name):
        read()


def test_json_files_are_strict(tmp_path: Path, digits: Dataset) -> None:
    train(tiny_config(epochs=1), tmp_path / "run", dataset=digits)

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    for path in (tmp_path / "run").glob("*.json*"):
        for text in path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]:
            json.loads(text, parse_constant=refuse)


@pytest.mark.slow
def test_without_the_test_set_it_can_be_read_later(tmp_path: Path, digits: Dataset) -> None:
    """A search chooses without it; what the winner then gets is what it would have got at once."""
    whole = train(tiny_config(), tmp_path / "whole", dataset=digits)
    chosen = train(tiny_config(), tmp_path / "chosen", dataset=digits, test=False)
    assert (chosen.test_accuracy, chosen.test_loss) == (None, None)
    assert not list((tmp_path / "chosen").glob("*test*"))
    timings = {"epoch_seconds": None, "images_per_second": None}
    read = read_test_set(tmp_path / "chosen", dataset=digits)
    assert dataclasses.replace(read, **timings) == dataclasses.replace(whole, **timings)
    assert RunDir(tmp_path / "chosen").summary() == read
    (tmp_path / "chosen" / "model.safetensors").unlink()  # nothing is evaluated a second time
    assert read_test_set(tmp_path / "chosen", dataset=digits) == read


def test_nothing_is_written_over_a_run_whose_lock_was_lost(
    tmp_path: Path, digits: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = train(tiny_config(epochs=1), tmp_path, dataset=digits, test=False, artifacts=False)

    def losing(*arguments: Any, **options: Any) -> object:
        (tmp_path / ".lock").unlink()
        return evaluate_run(*arguments, **options)

    monkeypatch.setattr(sys.modules["convmixer.training.train"], "evaluate_run", losing)
    with pytest.raises(RunBusyError, match=r"\.lock was removed"):
        read_test_set(tmp_path, dataset=digits)
    assert RunDir(tmp_path).summary() == before
    assert not list(tmp_path.glob("evaluation*"))


def test_an_observer_ends_a_run(tmp_path: Path, digits: Dataset) -> None:
    seen: list[EpochRecord] = []

    def watch(record: EpochRecord) -> str | None:
        seen.append(record)
        return "enough" if record.epoch == 2 else None

    summary = train(tiny_config(epochs=4), tmp_path / "run", dataset=digits, observer=EpochWatcher(watch))
    assert (summary.status, summary.message) == ("pruned", "enough")
    assert summary.test_accuracy is None
    assert seen == RunDir(tmp_path / "run").metrics()
    with pytest.raises(InputError, match="the run is pruned"):
        read_test_set(tmp_path / "run")
    RunDir(tmp_path / "run").reopen()  # as if killed between the epoch and the decision: it comes again
    seen.clear()
    watcher = EpochWatcher(watch)
    assert train(tiny_config(epochs=4), tmp_path / "run", dataset=digits, resume=True, observer=watcher) == summary
    assert len(seen) == 2


@pytest.mark.parametrize(
    ("has", "engine", "precision", "told"),
    [
        (True, "fast", "auto", True),
        (False, "fast", "auto", False),
        (True, "plain", "auto", False),
        (True, "fast", "float32", False),
        (True, "fast", "bfloat16", False),
    ],
)
def test_whoever_left_the_precision_open_is_told_of_a_faster_one(
    tmp_path: Path, digits: Dataset, monkeypatch: pytest.MonkeyPatch, has: bool, engine: str, precision: str, told: bool
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": has})
    console = Console(record=True, width=200, file=io.StringIO())
    config = tiny_config(epochs=1, engine=engine, precision=precision, device="cpu")
    train(config, tmp_path / "run", dataset=digits, console=console, artifacts=False, test=False)
    assert ("--precision bfloat16 it trains faster" in console.export_text()) == told


def test_branches_begin_with_the_weight_that_was_asked_for(digits: Dataset) -> None:
    def first_norm(**changes: float) -> torch.Tensor:
        model = new_model(tiny_config(**changes), digits.info, torch.device("cpu"))
        return model.get_parameter("blocks.0.0.fn.2.weight")

    assert first_norm().unique().tolist() == [1.0]
    assert first_norm(init_residual_gamma=0.25).unique().tolist() == [0.25]
