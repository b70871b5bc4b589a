"""The files beside the runs that say what they are for: ``experiments/<name>.json`` and ``grid_search.json``."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from convmixer.errors import InputError
from convmixer.experiments import EXPERIMENTS
from convmixer.report.records import DocumentFigures

T = TypeVar("T")


@dataclass(frozen=True)
class RowPlan:
    """A row of an experiment: what it changes, what the document says of it, and the paths of its runs."""

    label: str
    changes: dict[str, Any]
    document: DocumentFigures | None
    paths: tuple[str, ...]


@dataclass(frozen=True)
class ExperimentPlan:
    """``experiments/<name>.json``; ``base`` is the label of the row that the others are compared with."""

    name: str
    question: str
    profile: str | None
    dataset: str | None
    base: str | None
    command: str | None
    rows: tuple[RowPlan, ...]


@dataclass(frozen=True)
class TrialPlan:
    """A trial of a grid search, as its ledger has it; ``path`` is None for one that has no run yet."""

    number: int
    values: dict[str, Any]
    seed: int | None
    path: str | None
    state: str
    val_accuracy: float | None
    epoch_seconds: float | None


@dataclass(frozen=True)
class GridPlan:
    """``grid_search.json``; ``winner`` has the chosen values and the runs with them, over seeds."""

    name: str
    space: dict[str, Any]
    sampler: str | None
    dataset: str | None
    command: str | None
    trials: tuple[TrialPlan, ...]
    winner: RowPlan | None
    document: tuple[tuple[dict[str, Any], float], ...]


def read_plans(root: Path) -> tuple[list[ExperimentPlan], GridPlan | None, list[str]]:
    """The experiments and the grid search of the study in ``root``, and a sentence for each file that is damaged."""
    problems: list[str] = []
    experiments = [
        plan
        for path in sorted((root / "experiments").glob("*.json"), key=_place)
        if (plan := _parsed(root, path, _experiment, problems)) is not None
    ]
    return experiments, _parsed(root, root / "grid_search.json", _grid, problems), problems


def uses(experiments: Sequence[ExperimentPlan], grid: GridPlan | None) -> Iterator[tuple[str, str]]:
    """Every run that a plan names: its path, and what it is for."""
    for plan in experiments:
        for row in plan.rows:
            yield from ((path, f"{plan.name}: {row.label}") for path in row.paths)
    if grid is not None:
        for trial in grid.trials:
            if trial.path is not None:
                yield trial.path, f"{grid.name}: trial {trial.number}"
        if grid.winner is not None:
            yield from ((path, f"{grid.name}: winner") for path in grid.winner.paths)


def shown_command(words: Sequence[str] | None) -> str | None:
    """A recorded command as one would type it: the program by its name, whatever folder it lay in."""
    if not words:
        return None
    program = "convmixer" if Path(words[0]).name == "__main__.py" else Path(words[0]).name
    return shlex.join([program, *map(str, words[1:])])


def _place(path: Path) -> tuple[int, str]:
    """The order of the registry, in which the original document's experiments come first; then that of names."""
    known = list(EXPERIMENTS)
    return known.index(path.stem) if path.stem in known else len(known), path.stem


def _parsed(root: Path, path: Path, parse: Callable[[Any], T], problems: list[str]) -> T | None:
    if not path.exists():
        return None
    try:
        return parse(json.loads(path.read_text()))
    except (OSError, ValueError) as error:
        problems.append(f"{path.relative_to(root)}: cannot be read as JSON ({error}).")
    except (KeyError, TypeError, AttributeError, InputError) as error:
        problems.append(f"{path.relative_to(root)}: is not as convmixer writes it ({error!r}).")
    return None


def _experiment(values: dict[str, Any]) -> ExperimentPlan:
    return ExperimentPlan(
        name=values["name"],
        question=values.get("question", ""),
        profile=values.get("profile"),
        dataset=values.get("dataset"),
        base=values.get("base"),
        command=shown_command(values.get("command")),
        rows=tuple(
            RowPlan(
                label=row["label"],
                changes=dict(row["changes"]),
                document=DocumentFigures(**row["document"]) if row.get("document") else None,
                paths=_paths(row["runs"]),
            )
            for row in values["rows"]
        ),
    )


def _grid(values: dict[str, Any]) -> GridPlan:
    winner = values.get("winner")
    return GridPlan(
        name=values["name"],
        space=dict(values["space"]),
        sampler=values.get("sampler"),
        dataset=values.get("dataset"),
        command=shown_command(values.get("command")),
        trials=tuple(
            TrialPlan(
                number=int(trial["number"]),
                values=dict(trial["values"]),
                seed=trial.get("seed"),
                path=os.path.normpath(trial["path"]) if trial.get("path") else None,
                state=trial["state"],
                val_accuracy=trial.get("val_accuracy"),
                epoch_seconds=trial.get("epoch_seconds"),
            )
            for trial in values["trials"]
        ),
        winner=RowPlan("winner", dict(winner["values"]), None, _paths(winner["runs"])) if winner else None,
        document=tuple((entry["values"], entry["test_accuracy"]) for entry in values.get("document") or ()),
    )


def _paths(runs: Sequence[dict[str, Any]]) -> tuple[str, ...]:
    return tuple(os.path.normpath(run["path"]) for run in runs)
