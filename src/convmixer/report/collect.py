"""From the files of a study to typed rows.

A study is a folder with run directories, and beside them, where ``convmixer experiment`` and ``convmixer grid-search``
made it, ``experiments/<name>.json`` and ``grid_search.json``, which say what the runs are for. What is missing, running
or damaged is reported as such.
"""

from __future__ import annotations

import functools
import os
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from convmixer.config import ModelConfig, RunConfig
from convmixer.data import DatasetInfo
from convmixer.errors import InputError
from convmixer.inference.evaluate import read_evaluation
from convmixer.models import count_multiply_adds
from convmixer.report.plans import ExperimentPlan, GridPlan, read_plans, shown_command, uses
from convmixer.report.records import RunRow
from convmixer.runs import EpochRecord, RunDir, Summary
from convmixer.utils.metrics import Evaluation

_SHOWN = ("train_accuracy", "val_accuracy", "test_accuracy")


@dataclass(frozen=True)
class Run:
    """A run's row and what its directory holds besides; None and empty for what is not there."""

    row: RunRow
    config: RunConfig | None = None
    info: DatasetInfo | None = None
    epochs: tuple[EpochRecord, ...] = ()
    evaluation: Evaluation | None = None


@dataclass(frozen=True)
class Study:
    """What the files of a study say; ``runs`` by path."""

    folder: Path
    runs: dict[str, Run]
    experiments: tuple[ExperimentPlan, ...]
    grid: GridPlan | None
    problems: tuple[str, ...]


def collect(folder: str | Path) -> Study:
    """Reads a study, a folder of runs, or a single run directory.

    Raises:
        InputError: no such folder, or neither runs nor experiments in it.
    """
    root = Path(folder)
    if not root.is_dir():
        raise InputError(f"{folder}: is not a folder; give the one that holds the runs to report.")
    experiments, grid, problems = read_plans(root)
    purposes: dict[str, list[str]] = {}
    for path, purpose in uses(experiments, grid):
        purposes.setdefault(path, []).append(purpose)
    paths = dict.fromkeys([*purposes, *_run_directories(root)])
    if not paths and not problems:
        raise InputError(f"{folder}: holds no runs; give a study's folder, a folder of runs, or a run directory.")
    runs = {}
    for path in paths:
        run = _load(root, path)
        runs[path] = replace(run, row=replace(run.row, used_by=tuple(purposes.get(path, ()))))
    problems += [f"{path}: {run.row.message}" for path, run in runs.items() if run.row.status == "damaged"]
    return Study(root, runs, tuple(experiments), grid, tuple(problems))


def _run_directories(root: Path) -> Iterator[str]:
    """Paths, relative to ``root``, of the directories that hold a run, in order of their names."""
    for folder, below, files in os.walk(root):
        below[:] = sorted(name for name in below if not name.startswith("."))
        if {"config.json", "summary.json", "metrics.jsonl"} & set(files):
            below.clear()
            yield os.path.relpath(folder, root)


def _load(root: Path, path: str) -> Run:
    """Reads a run directory; whatever is wrong with it becomes its status and message."""
    run = RunDir(root / path)
    if not run.path.is_dir():
        return Run(RunRow(path=path, status="missing", message="There is no such directory."))
    try:
        config = run.config()
        info = run.dataset() if (run.path / "dataset.json").exists() else None
        summary, environment, evaluation = run.summary(), run.environment(), read_evaluation(run)
        row = _row(root, path, config, info, summary, environment, evaluation)
        failure = run.error().strip().splitlines()
        row = replace(row, status=run.status(), message=row.message or "".join(failure[-1:]))
        return Run(row, config, info, tuple(run.metrics()), evaluation)
    except InputError as error:
        return Run(RunRow(path=path, status="damaged", message=str(error).replace(f"{root}{os.sep}", "")))


def _row(
    root: Path,
    path: str,
    config: RunConfig,
    info: DatasetInfo | None,
    summary: Summary | None,
    environment: dict[str, Any],
    evaluation: Evaluation | None,
) -> RunRow:
    figures = summary.to_dict() if summary else {}
    named: dict[str, Any] = {name: figures.get(name) for name in (*_SHOWN, *_FROM_SUMMARY)}
    machine = environment.get("device")
    if machine and environment.get("threads"):
        machine += f" ({environment['threads']} of {environment.get('cpu_count')} CPU cores)"
    return RunRow(
        path=path,
        status="new",
        message=figures.get("message", ""),
        model=config.model,
        dataset=info.name if info else config.data.dataset,
        recipe=config.recipe,
        protocol=config.protocol,
        seed=config.seed,
        epochs=config.train.epochs,
        multiply_adds=_multiply_adds(config.architecture, info) if info else None,
        calibration_error=evaluation.expected_calibration_error if evaluation else None,
        machine=machine,
        commit=environment.get("commit"),
        command=shown_command(environment.get("command")),
        repeat=shlex.join(["convmixer", "train", "--config", os.path.join(path, "config.json")]),  # noqa: PTH118
        further={
            name: value
            for name, value in figures.items()
            if "accuracy" in name and name not in _SHOWN and value is not None
        },
        **named,
    )


_FROM_SUMMARY = (
    "selected_epoch",
    "parameters",
    "test_loss",
    "epoch_seconds",
    "images_per_second",
    "engine",
    "precision",
)


def _multiply_adds(architecture: ModelConfig, info: DatasetInfo) -> int:
    return _count(architecture, info.image_size, len(info.classes), info.channels)


_count = functools.cache(count_multiply_adds)
