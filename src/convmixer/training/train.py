"""A run from its configuration to its summary."""

from __future__ import annotations

import functools
import statistics
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal, cast

import torch
from rich.console import Console
from safetensors.torch import save

from convmixer.config import Engine, RunConfig
from convmixer.data import Dataset, load_dataset
from convmixer.errors import InputError, Interrupted
from convmixer.inference import RunEvaluation, evaluate_run, write_evaluation
from convmixer.models import count_multiply_adds, count_parameters
from convmixer.presets import run_config
from convmixer.runs import RunDir, Summary
from convmixer.runs.checkpoint import DamagedCheckpointError, discard_damaged, load_checkpoint
from convmixer.runs.data import absolute_place, load_own_data
from convmixer.runtime.allocator import prepared_cpu
from convmixer.runtime.device import choose_device, dtype_name, has_bfloat16
from convmixer.runtime.environment import describe_environment
from convmixer.runtime.signals import Interruption
from convmixer.runtime.terminal import Terminal
from convmixer.training.build import new_model
from convmixer.training.display import TrainingDisplay
from convmixer.training.initial import initialize
from convmixer.training.loop import DivergedError, TrainingLoop
from convmixer.training.memory import lack_of_memory_hint, memory_for
from convmixer.training.observers import Observers, PrunedError, RunObserver, RunWriter, SignalWatch
from convmixer.training.sizes import few_steps_hint, fit_batch
from convmixer.training.teacher import check_same_teacher, load_teacher
from convmixer.training.tracking import Tracking, require_packages
from convmixer.version import __version__


def train(
    config: RunConfig | Mapping[str, Any],
    out: str | Path,
    *,
    resume: bool = False,
    dataset: Dataset | None = None,
    console: Console | None = None,
    artifacts: bool = True,
    test: bool = True,
    observer: RunObserver | None = None,
    keep_pruned: bool = False,
) -> Summary:
    """Trains a model and leaves a run directory.

    Args:
        config: what to do; a mapping has the arguments of :func:`convmixer.run_config`, such as
            ``{"recipe": "strong", "dataset": "digits", "epochs": 5}``; without ``batch_size``, the recipe's is made
            smaller where the data are few.
        out: directory to write; see :mod:`convmixer.runs.run_dir` for what it will hold.
        resume: continue the run in ``out`` from its newest checkpoint; the end is as if nothing had happened (on a CPU,
            with the same number of threads, bit for bit). A new directory is started, a finished run is left as it is
            and its summary returned; with more epochs and the schedule constant it goes on.
        dataset: the data that ``config.data`` names, if already loaded.
        console: where progress is shown; nowhere by default.
        artifacts: draw figures and tell the trackers, which takes longer than a tiny run.
        test: read the test set at the end; without it :func:`read_test_set` can do so later.
        observer: is told what happens, and may end the run.
        keep_pruned: leave a run that an observer ended earlier as it is, instead of continuing it.

    Returns:
        The summary; its status is "diverged" if the loss did not stay finite, "pruned" if the observer ended the run.

    Raises:
        InputError: impossible configuration for these data, or a directory that cannot be used.
        Interrupted: SIGINT or SIGTERM arrived; a checkpoint was written.
    """
    console, run = console or Terminal(quiet=True), RunDir(out)
    fits = not isinstance(config, RunConfig) and config.get("batch_size") is None
    if not isinstance(config, RunConfig):
        config = run_config(**config)
    if fits and resume and (run.path / "config.json").exists():
        config, fits = config.replace(batch_size=run.config().train.batch_size), False
    with run.locked(), run.record_error(), prepared_cpu():
        ended = run.check_can_use(config, resume=resume)
        if ended and (ended.status != "pruned" or keep_pruned):
            return ended
        trackers = config.train.trackers() if artifacts else ()
        require_packages(trackers)
        device = choose_device(config.train.device)
        place = config.data
        dataset = dataset or _load_data(config, run, console)
        if fits:
            config, hint = fit_batch(config, dataset.info)
            console.print(hint, style="yellow", highlight=False, markup=False, end="\n" * bool(hint))
        if (run.path / "config.json").exists():
            config = config.replace(dataset=run.config().data.dataset)
        with memory_for(f"{run.path}: training", config, dataset.info, device):
            teacher = load_teacher(config.train, dataset.info, device)  # before the seed: it takes random numbers
            if resume and run.has_checkpoint():
                check_same_teacher(run, teacher)
            model, initial = new_model(config, dataset.info, device), None
            if config.train.init_from and not (resume and run.has_checkpoint()):
                initial = initialize(model, config.train.init_from, dataset.info)
            loop = TrainingLoop(config, dataset, model.freeze(config.train.freeze), device, teacher=teacher)
            if resume:
                _restore(loop, run, console)
            run.reopen()
            files = {"config.json": config.to_dict(), "dataset.json": dataset.info.to_dict()}
            files |= {"init.json": asdict(initial)} if initial else {}
            files |= {"teacher.json": asdict(teacher.record)} if teacher else {}
            run.write_beginning(files, describe_environment(device) | {"data": absolute_place(place)})
            if initial:
                console.print(f"Starting from {initial}.", highlight=False, markup=False)
            console.print(_describe(loop, run), highlight=False, markup=False)
            for hint in _hints(loop):
                console.print(hint, style="yellow", highlight=False, markup=False)
            display = TrainingDisplay(console, config.train.epochs, len(loop.batches))
            with Tracking(trackers, run.path, config, _facts(loop), console) as tracking:
                watching = [RunWriter(run), tracking, display, *([observer] if observer else [])]
                return _run(loop, run, watching, figures=artifacts, test=test)


def _load_data(config: RunConfig, run: RunDir, console: Console) -> Dataset:
    """The data of a run that begins, or goes on. Raises InputError if these are not those that it began with."""
    if not run.manifest.has("dataset.json"):
        return load_dataset(config.data, protocol=config.protocol, console=console)
    if config.data.dataset == run.config().data.dataset and config.data.data_dir == run.config().data.data_dir:
        return load_own_data(run, download=True, console=console)
    order = run.dataset().classes
    dataset = load_dataset(config.data, protocol=config.protocol, console=console, classes=order)
    if dataset.info.fingerprint != run.dataset().fingerprint:
        raise InputError(
            f"{run.path}: cannot be resumed. --dataset: the images are not those that this run began with; put them "
            "back, or choose another --out."
        )
    return dataset


def _run(loop: TrainingLoop, run: RunDir, watching: list[RunObserver], *, figures: bool, test: bool) -> Summary:
    """Trains until the end, a signal or an observer stops it; signals are watched for until the summary is written."""
    with Interruption.watched() as interruption:
        loop.observer = Observers(SignalWatch(interruption), *watching)
        try:
            loop.run()
            summary = _finish(loop, run, interruption.check, figures=figures, test=test)
        except Interrupted:
            loop.save_progress()
            raise
        except DivergedError as error:
            summary = _summarize(loop, run, "diverged", message=str(error))
        except PrunedError as error:
            summary = _summarize(loop, run, "pruned", message=str(error))
        loop.observer.on_summary(summary)
        return summary


def _describe(loop: TrainingLoop, run: RunDir) -> str:
    """One line: model, data, device, directory."""
    info, parameters = loop.dataset.info, count_parameters(loop.model)
    sizes = ", ".join(f"{count} {name}" for name, count in info.sizes.items())
    where = f"{loop.device.type} {dtype_name(loop.precision)}, {loop.state.engine} engine"
    return f"{loop.config.model} ({parameters:,} parameters) on {info.name} ({sizes}), {where}, into {run.path}"


def _facts(loop: TrainingLoop) -> dict[str, bool | int | float | str]:
    """What trackers show beside the configuration."""
    sizes = {f"{split}_images": count for split, count in loop.dataset.info.sizes.items()}
    machine = {"device": loop.device.type, "precision_used": dtype_name(loop.precision), "engine": loop.state.engine}
    return {"convmixer": __version__, "parameters": count_parameters(loop.model), **sizes, **machine}


def _hints(loop: TrainingLoop) -> Iterator[str]:
    """What the user may want to change, a sentence each."""
    if hint := few_steps_hint(loop.config, loop.dataset.info):
        yield hint
    if hint := lack_of_memory_hint(loop.config, loop.dataset.info, loop.device, loop.state.engine):
        yield hint
    if loop.state.precise_bn and loop.config.train.precise_bn is None:
        steps = loop.config.train.epochs * len(loop.batches)
        yield (
            f"The run has {steps} steps only: statistics of batch normalisation are estimated anew for every "
            "evaluation (--precise-bn False uses their running averages)."
        )
    in_float32 = loop.config.train.precision == "auto" and loop.precision == torch.float32
    if in_float32 and loop.state.engine == "fast" and has_bfloat16(loop.device):
        yield "This CPU has instructions for bfloat16: with --precision bfloat16 it trains faster."


def read_test_set(path: str | Path, *, dataset: Dataset | None = None) -> Summary:
    """The summary of a finished run with the figures of the test set, which is read now if it was not yet.

    Args:
        path: the run directory.
        dataset: the run's data, if already loaded.

    Raises:
        RunBusyError: another process reads the test set.
        InputError: not a finished run, or data that are not the run's.
    """
    run = RunDir.existing(path)
    summary = run.summary()
    if summary is None or summary.status != "finished":
        raise InputError(
            f"{path}: the run is {run.status()}, and only the test figures of a finished one mean anything."
        )
    with run.locked():  # several processes may ask for it
        summary = run.summary() or summary
        if summary.test_accuracy is None:
            engine = cast(Engine, summary.engine)
            test = _read_test(run, dataset, engine, lambda: None, figures=False)
            summary = replace(
                summary,
                test_accuracy=test.figures.accuracy,
                test_loss=test.figures.loss,
                test_accuracy_tta=test.accuracy_tta,
            )
            run.write_json("summary.json", summary.to_dict())
    return summary


def _restore(loop: TrainingLoop, run: RunDir, console: Console) -> None:
    """Takes up the newest whole checkpoint, if there is one. Raises InputError if there are only damaged ones."""
    try:
        state, complaints = load_checkpoint(run.path)
    except DamagedCheckpointError as error:
        raise InputError(f"{error}; nothing is left to continue from, start again with another --out.") from None
    for complaint in complaints:
        console.print(f"{complaint}; continuing from the one before.", style="yellow", highlight=False, markup=False)
    if complaints:
        discard_damaged(run.path)
    if state is None:
        console.print(f"{run.path}: no checkpoint yet, starting from the beginning.", highlight=False, markup=False)
        return
    try:
        warning = loop.restore(state)
    except InputError as error:
        raise InputError(f"{run.path}: cannot be resumed. {error}") from None
    if warning:
        console.print(warning, style="yellow", highlight=False, markup=False)
    epoch, step = loop.state.epoch + 1, loop.state.step
    console.print(f"{run.path}: continuing in epoch {epoch}, after step {step}.", highlight=False, markup=False)


def _finish(loop: TrainingLoop, run: RunDir, check: Callable[[], None], *, figures: bool, test: bool) -> Summary:
    """Writes the selected weights, reads the test set, draws the figures; the summary comes last."""
    weights = {name: tensor.contiguous() for name, tensor in loop.state.best.weights.items()}
    run.write_weights(save(weights, metadata={"format": "pt"}))
    evaluation = _read_test(run, loop.dataset, loop.state.engine, check, figures=figures) if test else None
    if figures:
        _draw_learning_curve(loop, run)
    return _summarize(loop, run, "finished", test=evaluation)


def _read_test(
    run: RunDir, dataset: Dataset | None, engine: Engine, check: Callable[[], None], *, figures: bool
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
    run.check_claim()
    write_evaluation(evaluation, pictures=figures)
    return evaluation


def _draw_learning_curve(loop: TrainingLoop, run: RunDir) -> None:
    from convmixer.utils.visualization import EpochRow, learning_curve, save_figure

    rows = [
        EpochRow(r.epoch, r.train_loss, r.train_accuracy, *r.selection_metrics(), lr=r.lr) for r in loop.state.records
    ]
    held_out = "test" if loop.selection == "test" else "validation"
    curve = learning_curve(
        rows, loop.state.best.epoch, held_out, title=f"{run.path.resolve().name}: training and {held_out}"
    )
    save_figure(curve, run.path / "learning_curve.png")


def _summarize(
    loop: TrainingLoop,
    run: RunDir,
    status: Literal["finished", "diverged", "pruned"],
    *,
    message: str = "",
    test: RunEvaluation | None = None,
) -> Summary:
    """Writes and returns ``summary.json``, the mark of a run that has ended."""
    config, info, records, best_epoch = loop.config, loop.dataset.info, loop.state.records, loop.state.best.epoch
    selected, initial = records[best_epoch - 1] if best_epoch else None, run.initial_weights()
    summary = Summary(
        status=status,
        message=message,
        model=config.model,
        dataset=info.name,
        recipe=config.recipe,
        protocol=config.protocol,
        seed=config.seed,
        epochs=config.train.epochs,
        parameters=count_parameters(loop.model),
        selected_epoch=selected.epoch if selected else None,
        train_accuracy=selected.train_accuracy if selected else None,
        val_accuracy=selected.selection_metrics()[1] if selected and loop.selection == "val" else None,
        raw_val_accuracy=selected.val_accuracy if selected and selected.ema_val_accuracy is not None else None,
        test_accuracy=test.figures.accuracy if test else None,
        test_loss=test.figures.loss if test else None,
        test_accuracy_tta=test.accuracy_tta if test else None,
        epoch_seconds=statistics.median(record.seconds for record in records) if records else None,
        images_per_second=statistics.median(record.images_per_second for record in records) if records else None,
        device=loop.device.type,
        precision=dtype_name(loop.precision),
        engine=loop.state.engine,
        multiply_adds=_multiply_adds(config.architecture, info.image_size, len(info.classes), info.channels),
        initial_weights=str(initial) if initial else None,
    )
    run.write_json("summary.json", summary.to_dict())
    return summary


_multiply_adds = functools.cache(count_multiply_adds)  # counting builds a model, and a search has many of one kind
