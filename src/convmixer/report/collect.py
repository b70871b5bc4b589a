"""From files to typed rows: run directories, and what ``convmixer experiment`` and ``grid-search`` leave beside them.

``experiments/<name>.json`` and ``grid_search.json`` say what runs are for; they are found at any depth, as runs are.
What is missing, unfinished or unreadable is reported as such.
"""

from __future__ import annotations

import functools
import os
import shlex
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from convmixer.config import ModelConfig, RunConfig
from convmixer.data import DatasetInfo
from convmixer.errors import InputError
from convmixer.experiments import EXPERIMENTS, PublishedResult
from convmixer.manifest import NAME, is_run, names_record, read_record
from convmixer.records import build, parse_json
from convmixer.report.files import FILES, files_of
from convmixer.report.records import ComparisonRow, ExperimentRecord, FilesRecord, RunRow, SearchRecord
from convmixer.runs import EpochRecord, Outcome, RunDir, TrialRecord
from convmixer.utils.formatting import shown_command
from convmixer.utils.metrics import Evaluation

T = TypeVar("T")
_SEARCH = "grid_search.json"


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
    """What the files below ``folder`` say; ``runs`` by path. Rows of experiments and searches have no metrics yet."""

    folder: Path
    runs: dict[str, Run]
    experiments: tuple[ExperimentRecord, ...]
    searches: tuple[SearchRecord, ...]
    problems: tuple[str, ...]
    files: tuple[FilesRecord, ...] = ()


def collect(folder: str | Path) -> Study:
    """Reads everything below ``folder``: a study, a folder of anything, or a single run directory.

    Raises:
        InputError: no such folder, or neither runs nor experiments in it.
    """
    root = Path(folder)
    if not root.is_dir():
        raise InputError(f"{folder}: is not a folder; give the one that holds the runs to report.")
    problems: list[str] = []
    found, experiment_files, search_files, measured_files = _walk(root)
    experiments = [e for file in experiment_files if (e := _parsed(root, file, _experiment, problems)) is not None]
    searches = [s for file in search_files if (s := _parsed(root, file, _search, problems)) is not None]
    files = [f for file in measured_files if (f := _parsed(root, file, files_of, problems)) is not None]
    purposes: dict[str, list[str]] = {}
    trials: Counter[str] = Counter()
    for path, purpose, is_trial in _purposes(experiments, searches):
        purposes.setdefault(path, []).append(purpose)
        trials[path] += is_trial
    paths = list(dict.fromkeys([*purposes, *found]))
    if not paths and not problems and not files:
        raise InputError(f"{folder}: holds no runs; give a study's folder, a folder of runs, or a run directory.")
    runs = {}
    for path, name in zip(paths, _shortest_names(paths, root), strict=True):
        run, own = _load(root, path), tuple(purposes.get(path, ()))
        row = replace(run.row, name=name, purposes=own, is_trial=0 < trials[path] == len(own))
        runs[path] = replace(run, row=row)
    problems += [f"{path}: {run.row.message}" for path, run in runs.items() if run.row.status == "unreadable"]
    return Study(root, runs, tuple(experiments), tuple(searches), tuple(problems), tuple(files))


def _walk(root: Path) -> tuple[list[str], list[str], list[str], list[str]]:
    """Paths, relative to ``root``, of run directories, experiments, searches and measured models.

    Of these only measured models lie within a run.
    """
    runs, experiments, searches, measured = [], [], [], []
    for folder, below, files in os.walk(root):
        below[:] = sorted(name for name in below if not name.startswith("."))
        here = os.path.relpath(folder, root)
        files += below  # a folder where a record should be is one that cannot be read
        measured += [_joined(here, FILES)] if FILES in files else []
        if is_run(Path(folder), files):
            below.clear()
            runs.append(here)
            continue
        if _SEARCH in files or names_record(Path(folder), files, _SEARCH):
            searches.append(_joined(here, _SEARCH))
        if Path(folder).name == "experiments":
            experiments += [_joined(here, name) for name in files if name.endswith(".json") and name != NAME]
    return runs, sorted(experiments, key=_rank), searches, measured


def _rank(file: str) -> tuple[str, int, str]:
    """Studies by path; in a study the order of the registry, in which published experiments come first; then names."""
    path, known = Path(file), list(EXPERIMENTS)
    return str(path.parent), known.index(path.stem) if path.stem in known else len(known), path.stem


def _joined(*parts: str) -> str:
    return Path(os.path.normpath(os.path.join(*parts))).as_posix()  # noqa: PTH118


def _purposes(
    experiments: Iterable[ExperimentRecord], searches: Iterable[SearchRecord]
) -> Iterator[tuple[str, str, bool]]:
    """Every run that is part of something: its path, what it is for, and whether that is a trial."""
    for experiment in experiments:
        for row in experiment.rows:
            yield from ((path, f"{experiment.name}: {row.label}", False) for path in row.runs)
    for search in searches:
        yield from ((t.path, f"{search.name}: trial {t.number}", True) for t in search.trials if t.path)
        if search.winner is not None:
            yield from ((path, f"{search.name}: winner", False) for path in search.winner.runs)


def _shortest_names(paths: Sequence[str], root: Path) -> list[str]:
    """For each path as many of its last parts as tell it from the others; the folder's own name for the folder."""
    parts = [Path(path).parts or (root.resolve().name,) for path in paths]
    names = [own[-1] for own in parts]
    for depth in range(2, max(map(len, parts), default=0) + 1):
        taken = Counter(names)
        names = ["/".join(own[-depth:]) if taken[name] > 1 else name for own, name in zip(parts, names, strict=True)]
    return names


# The files beside the runs


_Scalar = bool | int | float | str


@dataclass(frozen=True, kw_only=True)
class _Range:
    low: int | float
    high: int | float
    log: bool = False


@dataclass(frozen=True, kw_only=True)
class _PlannedRun:
    path: str


@dataclass(frozen=True, kw_only=True)
class _PlannedRow:
    label: str
    changes: dict[str, _Scalar | tuple[int, ...] | None]
    runs: tuple[_PlannedRun, ...]
    published: PublishedResult | None = None
    document: PublishedResult | None = None
    """What older versions called published."""


@dataclass(frozen=True, kw_only=True)
class _ExperimentFile:
    """What is read of ``experiments/<name>.json``."""

    name: str
    rows: tuple[_PlannedRow, ...]
    question: str = ""
    profile: str | None = None
    dataset: str | None = None
    base: str | None = None
    command: tuple[str, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class _Trial:
    number: int
    values: dict[str, _Scalar]
    seed: int
    path: str | None
    state: Outcome
    val_accuracy: float | None
    epoch_seconds: float | None


@dataclass(frozen=True, kw_only=True)
class _Winner:
    values: dict[str, _Scalar]
    runs: tuple[_PlannedRun, ...]


@dataclass(frozen=True, kw_only=True)
class _SearchFile:
    """What is read of ``grid_search.json``."""

    name: str
    space: dict[str, list[_Scalar] | _Range]
    trials: tuple[_Trial, ...]
    sampler: str | None = None
    dataset: str | None = None
    command: tuple[str, ...] | None = None
    winner: _Winner | None = None


def _parsed(root: Path, file: str, parse: Callable[[str, Any, str], T], problems: list[str]) -> T | None:
    """What ``parse`` makes of the folder that a file is about and of its content; a sentence if it is damaged."""
    folder = Path(file).parent if Path(file).name in (_SEARCH, FILES) else Path(file).parent.parent
    try:
        return parse(folder.as_posix(), parse_json(read_record(root / file) or b"", file), file)
    except InputError as error:
        problems.append(str(error).replace(f"{root}{os.sep}", ""))
    except OSError as error:
        problems.append(f"{file}: cannot be read ({error.strerror}).")
    return None


def _experiment(folder: str, values: Any, where: str) -> ExperimentRecord:
    file = build(_ExperimentFile, values, where, others=True)
    rows = tuple(
        ComparisonRow(
            label=row.label,
            changes=dict(row.changes),
            published=row.published or row.document,
            runs=_paths(folder, row.runs, where),
            is_base=row.label == file.base,
        )
        for row in file.rows
    )
    return ExperimentRecord(
        name=_name(folder, file.name, where),
        title=_title(folder, file.name),
        question=file.question,
        profile=file.profile,
        dataset=file.dataset,
        base=file.base,
        command=shown_command(file.command),
        rows=rows,
    )


def _search(folder: str, values: Any, where: str) -> SearchRecord:
    file = build(_SearchFile, values, where, others=True)
    winner = file.winner
    return SearchRecord(
        name=_name(folder, file.name, where),
        title=_title(folder, file.name),
        space={name: vars(ends) if isinstance(ends, _Range) else ends for name, ends in file.space.items()},
        sampler=file.sampler,
        dataset=file.dataset,
        command=shown_command(file.command),
        trials=tuple(
            TrialRecord(**vars(trial) | {"path": _inside(folder, trial.path, where) if trial.path else ""})
            for trial in file.trials
        ),
        winner=ComparisonRow(label="winner", changes=dict(winner.values), runs=_paths(folder, winner.runs, where))
        if winner
        else None,
    )


def _name(folder: str, name: str, where: str) -> str:
    """The name below ``folder``; pictures are called after it, so it must not lead to another one."""
    if not name or Path(name).name != name or not name.isprintable():
        raise InputError(f"{where}: {name[:60]!r} cannot be a name; it must not have slashes or control characters.")
    return _joined(folder, name)


def _title(folder: str, name: str) -> str:
    """``Hidden dim``; with the folder in brackets for what lies below the report's own."""
    return name.replace("_", " ").capitalize() + (f" ({folder})" if folder != "." else "")


def _paths(folder: str, runs: Sequence[_PlannedRun], where: str) -> tuple[str, ...]:
    return tuple(_inside(folder, run.path, where) for run in runs)


def _inside(folder: str, path: str, where: str) -> str:
    """A recorded path, which must not leave the folder of the file that records it."""
    if os.path.isabs(path) or _joined(path).split("/")[0] == ".." or "\0" in path:  # noqa: PTH117
        raise InputError(f"{where}: the run {path[:60]!r} lies elsewhere; a record's runs are beside it.")
    return _joined(folder, path)


# Run directories


def _load(root: Path, path: str) -> Run:
    """Reads a run directory; whatever is wrong with it becomes its status and message."""
    run = RunDir(root / path)
    if not run.path.is_dir():
        return Run(RunRow(path=path, status="missing", message="There is no such directory."))
    try:
        return _read(run, path)
    except InputError as error:
        message = str(error).replace(f"{root}{os.sep}", "")
    except OSError as error:
        message = f"{error.filename or path}: cannot be read ({error.strerror})."
    return Run(RunRow(path=path, status="unreadable", message=message))


def _read(run: RunDir, path: str) -> Run:
    config, summary = run.config(), run.summary()
    environment = build(_Environment, run.environment(), str(run.path / "environment.json"), others=True)
    info = run.dataset() if run.manifest.has("dataset.json") else None
    evaluation = run.evaluation()
    metrics = summary.to_dict() if summary else {}
    known: dict[str, Any] = {name: metrics.get(name) for name in _FROM_SUMMARY}
    if known["multiply_adds"] is None and info is not None:  # runs of earlier versions
        known["multiply_adds"] = _multiply_adds(config.architecture, info.image_size, len(info.classes), info.channels)
    failure = run.error().strip().splitlines()
    sizes = info.sizes if info else {}
    row = RunRow(
        path=path,
        status=run.status(),
        message=metrics.get("message") or "".join(failure[-1:]),
        model=config.model,
        dataset=info.name if info else config.data.dataset,
        recipe=config.recipe,
        protocol=config.protocol,
        seed=config.seed,
        epochs=config.train.epochs,
        val_images=sizes.get("val"),
        test_images=sizes.get("test"),
        calibration_error=evaluation.expected_calibration_error if evaluation else None,
        machine=environment.machine,
        commit=environment.commit,
        command=shown_command(environment.command),
        repeat=shlex.join(["convmixer", "train", "--config", _joined(path, "config.json")]),
        extra_metrics={
            name: value
            for name, value in metrics.items()
            if "accuracy" in name and name not in _FROM_SUMMARY and value is not None
        },
        **known,
    )
    return Run(row, config, info, tuple(run.metrics()), evaluation)


@dataclass(frozen=True, kw_only=True)
class _Environment:
    """What is read of ``environment.json``."""

    device: str | None = None
    threads: int | None = None
    cpu_count: int | None = None
    commit: str | None = None
    command: tuple[str, ...] | None = None

    @property
    def machine(self) -> str | None:
        if self.device and self.threads:
            return f"{self.device} ({self.threads} of {self.cpu_count} CPU cores)"
        return self.device


_FROM_SUMMARY = (
    "train_accuracy",
    "val_accuracy",
    "test_accuracy",
    "selected_epoch",
    "parameters",
    "multiply_adds",
    "test_loss",
    "epoch_seconds",
    "images_per_second",
    "engine",
    "precision",
)


@functools.cache
def _multiply_adds(architecture: ModelConfig, image_size: int, n_classes: int, channels: int) -> int:
    from convmixer.models import count_multiply_adds

    return count_multiply_adds(architecture, image_size, n_classes, channels)
