"""A run from its configuration to its summary."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Literal, cast

import torch
from rich.console import Console
from safetensors.torch import save

from convmixer.config import Engine, RunConfig
from convmixer.data import Dataset, load_dataset
from convmixer.errors import InputError, Interrupted
from convmixer.files import write_atomic
from convmixer.inference.evaluate import RunEvaluation, evaluate_run, write_evaluation
from convmixer.models import count_parameters
from convmixer.runs import EpochRecord, RunDir, Summary
from convmixer.runs.checkpoint import DamagedCheckpointError, load_checkpoint
from convmixer.runtime.allocator import prepared_cpu
from convmixer.runtime.device import choose_device, dtype_name, has_bfloat16
from convmixer.runtime.environment import describe_environment
from convmixer.runtime.signals import Interruption
from convmixer.training.display import TrainingDisplay
from convmixer.training.loop import DivergedError, PrunedError, TrainingLoop

_FEW_STEPS = 10  # in an epoch: so few that a smaller batch is the better choice


def train(
    config: RunConfig,
    out: str | Path,
    *,
    resume: bool = False,
    dataset: Dataset | None = None,
    console: Console | None = None,
    light: bool = False,
    test: bool = True,
    report: Callable[[EpochRecord], None] = lambda record: None,
    prunable: bool = False,
) -> Summary:
    """Trains a model and leaves a run directory.

    Args:
        config: what to do.
        out: directory to write; see :mod:`convmixer.runs.run_dir` for what it will hold.
        resume: continue the run in ``out`` where its newest checkpoint stands; the end is as if nothing had happened
            (on a CPU, with the same number of threads, bit for bit). A new directory is started, a finished run is
            left as it is and its summary returned.
        dataset: the data that ``config.data`` names, where the caller has them; loaded otherwise.
        console: where progress is shown; nowhere by default.
        light: leave out pictures and TensorBoard events, which take longer than a tiny run; all figures are written.
        test: read the test set at the end; without it :func:`read_test_set` can do so later.
        report: is called with every finished epoch, those before a resumption included, and may raise PrunedError.
        prunable: a run that ``report`` ended before is left as it is; it is continued otherwise.
            Without it a run that was ended in this way is continued.

    Returns:
        The summary; its status is "diverged" if the loss did not stay finite, "pruned" if ``report`` ended the run.

    Raises:
        InputError: impossible configuration for these data, or a directory that cannot be used.
        Interrupted: SIGINT or SIGTERM arrived; a checkpoint was written.
    """
    console = console or Console(quiet=True)
    run = RunDir(out)
    with run.locked(), run.record_error(), prepared_cpu():
        ended = run.check_can_use(config, resume=resume)
        if ended and (ended.status != "pruned" or prunable):
            return ended
        run.reopen()
        device = choose_device(config.train.device)
        dataset = dataset or load_dataset(config.data, protocol=config.protocol, console=console)
        loop = TrainingLoop(config, dataset, run, device)
        if resume:
            _restore(loop, console)
        run.write_json("config.json", config.to_dict())
        run.write_json("dataset.json", dataset.info.to_dict())
        run.write_environment(describe_environment(device))
        console.print(loop.describe(), highlight=False)
        for hint in _hints(loop):
            console.print(hint, style="yellow", highlight=False)
        with Interruption.watched() as interruption:
            try:
                with TrainingDisplay(console, config.train.epochs, len(loop.batches)) as display:
                    loop.run_epochs(interruption.check, display, events=not light, report=report)
                return _finish(loop, interruption.check, pictures=not light, test=test)
            except Interrupted:
                loop.save()
                raise
            except DivergedError as error:
                return _summarize(loop, "diverged", message=str(error))
            except PrunedError as error:
                return _summarize(loop, "pruned", message=str(error))


def _hints(loop: TrainingLoop) -> Iterator[str]:
    """What the user may want to change, a sentence each."""
    if len(loop.batches) < _FEW_STEPS:
        steps = f"{len(loop.batches)} step{'s' if len(loop.batches) > 1 else ''}"
        yield f"An epoch has {steps} only: with a smaller --batch-size it will learn more."
    in_float32 = loop.config.train.precision == "auto" and loop.precision == torch.float32
    if in_float32 and loop.engine == "fast" and has_bfloat16(loop.device):
        yield "This CPU has instructions for bfloat16: with --precision bfloat16 it trains faster."


def read_test_set(path: str | Path, *, dataset: Dataset | None = None) -> Summary:
    """The summary of a finished run with the figures of the test set, which is read now if it was not yet.

    Args:
        path: the run directory.
        dataset: the run's data, where the caller has them; loaded otherwise.

    Raises:
        InputError: not a finished run, or data that are not the run's.
    """
    run = RunDir.existing(path)
    summary = run.summary()
    if summary is None or summary.status != "finished":
        raise InputError(
            f"{path}: the run is {run.status()}, and only the test figures of a finished one mean anything."
        )
    if summary.test_accuracy is None:
        engine = cast(Engine, summary.engine)
        test = _read_test(run, dataset, engine, lambda: None, pictures=False)
        figures, tta = test.figures, test.accuracy_tta
        summary = replace(summary, test_accuracy=figures.accuracy, test_loss=figures.loss, test_accuracy_tta=tta)
        run.write_json("summary.json", summary.to_dict())
    return summary


def _restore(loop: TrainingLoop, console: Console) -> None:
    """Takes up the newest whole checkpoint, if there is one. Raises InputError if there are only damaged ones."""
    path = loop.run.path
    try:
        state, complaints = load_checkpoint(path)
    except DamagedCheckpointError as error:
        raise InputError(f"{error}; nothing is left to continue from, start again with another --out.") from None
    for complaint in complaints:
        console.print(f"{complaint}; continuing from the one before.", style="yellow", highlight=False)
    if state is None:
        console.print(f"{path}: no checkpoint yet, starting from the beginning.", highlight=False)
        return
    if warning := loop.restore(state):
        console.print(warning, style="yellow", highlight=False)
    loop.run.write_metrics(loop.records)
    console.print(f"{path}: continuing in epoch {loop.epoch + 1}, after step {loop.step}.", highlight=False)


def _finish(loop: TrainingLoop, check: Callable[[], None], *, pictures: bool, test: bool) -> Summary:
    """Writes the selected weights, reads the test set, draws the pictures; the summary comes last."""
    run = loop.run
    weights = {name: tensor.contiguous() for name, tensor in loop.best.items()}
    write_atomic(run.path / "model.safetensors", save(weights, metadata={"format": "pt"}))
    evaluation = _read_test(run, loop.dataset, loop.engine, check, pictures=pictures) if test else None
    if pictures:
        _draw_learning_curve(loop)
    return _summarize(loop, "finished", test=evaluation)


def _read_test(
    run: RunDir, dataset: Dataset | None, engine: Engine, check: Callable[[], None], *, pictures: bool
) -> RunEvaluation:
    """Evaluates on the test set and keeps the evaluation."""
    settings = run.config().train
    evaluation = evaluate_run(
        run.path,
        dataset=dataset,
        device=settings.device,
        precision=settings.precision,
        engine=engine,
        check=check,
    )
    write_evaluation(evaluation, pictures=pictures)
    return evaluation


def _draw_learning_curve(loop: TrainingLoop) -> None:
    from convmixer.utils.visualization import EpochRow, learning_curve, save_figure

    rows = [EpochRow(r.epoch, r.train_loss, r.train_accuracy, *r.held_out(), lr=r.lr) for r in loop.records]
    curve = learning_curve(rows, loop.best_epoch, held_out="test" if loop.selection == "test" else "validation")
    save_figure(curve, loop.run.path / "learning_curve.png")


def _summarize(
    loop: TrainingLoop,
    status: Literal["finished", "diverged", "pruned"],
    *,
    message: str = "",
    test: RunEvaluation | None = None,
) -> Summary:
    """Writes and returns ``summary.json``, the mark of a run that has ended."""
    config, records = loop.config, loop.records
    selected = records[loop.best_epoch - 1] if loop.best_epoch else None
    summary = Summary(
        status=status,
        message=message,
        model=config.model,
        dataset=loop.dataset.info.name,
        recipe=config.recipe,
        protocol=config.protocol,
        seed=config.seed,
        epochs=config.train.epochs,
        parameters=count_parameters(loop.model),
        selected_epoch=selected.epoch if selected else None,
        train_accuracy=selected.train_accuracy if selected else None,
        val_accuracy=selected.held_out()[1] if selected and loop.selection == "val" else None,
        raw_val_accuracy=selected.val_accuracy if selected and selected.ema_val_accuracy is not None else None,
        test_accuracy=test.figures.accuracy if test else None,
        test_loss=test.figures.loss if test else None,
        test_accuracy_tta=test.accuracy_tta if test else None,
        epoch_seconds=statistics.median(record.seconds for record in records) if records else None,
        images_per_second=statistics.median(record.images_per_second for record in records) if records else None,
        device=loop.device.type,
        precision=dtype_name(loop.precision),
        engine=loop.engine,
    )
    loop.run.write_json("summary.json", summary.to_dict())
    return summary
