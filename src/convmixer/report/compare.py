"""From runs to comparisons: figures over seeds, differences to the base, what they say in words."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from convmixer.data.cifar_specs import SPECS
from convmixer.report import insight
from convmixer.report.collect import Run, Study
from convmixer.report.plans import ExperimentPlan, GridPlan, RowPlan
from convmixer.report.records import (
    ComparisonRow,
    Difference,
    DocumentFigures,
    ExperimentRecord,
    GridRecord,
    RunRow,
    StudyRecord,
    TrialRow,
)
from convmixer.utils.metrics import MeanInterval, holm, main_effects, mean_interval, paired_difference, pareto_front

LOOSE = "runs"
"""Name of the record of runs that belong to no experiment."""


def summarize(study: Study, command: str) -> StudyRecord:
    """Everything that the report of ``study`` says; ``command`` is what made it."""
    plans = study.experiments
    if not plans and study.grid is None:
        plans = (_loose_plan(study),)
    return StudyRecord(
        name=study.folder.resolve().name,
        command=command,
        experiments=tuple(_experiment(plan, study) for plan in plans),
        grid=_grid(study.grid, study) if study.grid is not None else None,
        runs=tuple(run.row for run in study.runs.values()),
        problems=study.problems,
    )


def _experiment(plan: ExperimentPlan, study: Study) -> ExperimentRecord:
    rows = [_row(row, study, is_base=row.label == plan.base) for row in plan.rows]
    base = next((row for row in rows if row.is_base), None)
    if base is not None:
        rows = _with_differences(rows, base, study)
    rows = _with_front(rows)
    return ExperimentRecord(
        name=plan.name,
        question=plan.question,
        profile=plan.profile,
        dataset=plan.dataset,
        base=base.label if base else None,
        command=plan.command,
        rows=tuple(replace(row, insight=insight.of_row(row, base)) for row in rows),
    )


def _row(plan: RowPlan, study: Study, is_base: bool = False) -> ComparisonRow:
    """A row's own figures; what depends on the other rows is filled in later."""
    finished = [study.runs[path] for path in plan.paths if study.runs[path].row.status == "finished"]
    rows = [run.row for run in finished]
    test = _over_seeds(rows, lambda run: run.test_accuracy)
    same_images = bool(finished) and all(_has_cifar10_classes(run) for run in finished)
    document = plan.document.test_accuracy if plan.document else None
    return ComparisonRow(
        label=plan.label,
        is_base=is_base,
        changes=plan.changes,
        seeds=tuple(run.seed for run in rows if run.seed is not None),
        runs=plan.paths,
        unfinished=len(plan.paths) - len(rows),
        test_accuracy=test,
        train_accuracy=_over_seeds(rows, lambda run: run.train_accuracy),
        val_accuracy=_over_seeds(rows, lambda run: run.val_accuracy),
        gap=_over_seeds(rows, _gap),
        epoch_seconds=_median([run.epoch_seconds for run in rows]),
        parameters=next((run.parameters for run in rows), None),
        multiply_adds=next((run.multiply_adds for run in rows), None),
        further=_further(rows),
        difference=None,
        document=plan.document,
        document_difference=test.mean - document if test and document is not None and same_images else None,
        on_front=False,
        insight="",
    )


def _over_seeds(rows: Sequence[RunRow], figure: Callable[[RunRow], float | None]) -> MeanInterval | None:
    values = [value for row in rows if (value := figure(row)) is not None]
    return mean_interval(values) if values else None


def _gap(run: RunRow) -> float | None:
    if run.train_accuracy is None or run.test_accuracy is None:
        return None
    return run.train_accuracy - run.test_accuracy


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def _further(rows: Sequence[RunRow]) -> dict[str, MeanInterval]:
    names = dict.fromkeys(name for row in rows for name in row.further)
    return {name: mean_interval([row.further[name] for row in rows if name in row.further]) for name in names}


def _has_cifar10_classes(run: Run) -> bool:
    """Whether figures may be set beside the document's: the official images, or a folder of the same classes."""
    return run.info is not None and sorted(run.info.classes) == sorted(SPECS["cifar10"].classes)


def _by_seed(row: ComparisonRow, study: Study) -> dict[int, float]:
    runs = [study.runs[path].row for path in row.runs]
    return {
        run.seed: run.test_accuracy
        for run in runs
        if run.status == "finished" and run.seed is not None and run.test_accuracy is not None
    }


def _with_differences(rows: list[ComparisonRow], base: ComparisonRow, study: Study) -> list[ComparisonRow]:
    """Compares every row but the base with it, over equal seeds, and corrects for their number."""
    reference = _by_seed(base, study)
    paired = {row.label: paired_difference(_by_seed(row, study), reference) for row in rows if row is not base}
    tested = {label: pair.p_value for label, pair in paired.items() if pair and pair.p_value is not None}
    adjusted = dict(zip(tested, holm(list(tested.values())), strict=True))
    compared = []
    for row in rows:
        pair = paired.get(row.label)
        if pair is not None:
            p = adjusted.get(row.label)
            difference = Difference(
                n=pair.n,
                mean=pair.mean,
                half_width=pair.half_width,
                p_value=pair.p_value,
                p_adjusted=p,
                verdict=pair.verdict(p),
            )
            row = replace(row, difference=difference)
        compared.append(row)
    return compared


def _with_front(rows: list[ComparisonRow]) -> list[ComparisonRow]:
    """Marks the rows that no other beats in both test accuracy and epoch time."""
    points = [
        (index, (row.epoch_seconds, row.test_accuracy.mean))
        for index, row in enumerate(rows)
        if row.epoch_seconds is not None and row.test_accuracy is not None
    ]
    front = {points[i][0] for i in pareto_front([point for _, point in points])}
    return [replace(row, on_front=index in front) for index, row in enumerate(rows)]


def _loose_plan(study: Study) -> ExperimentPlan:
    """Runs that no file explains, grouped into rows that differ by more than the seed, labelled by what differs."""
    identities: dict[str, dict[str, Any]] = {}
    groups: dict[str, list[str]] = {}
    for path, run in study.runs.items():
        identity = run.config.identity() if run.config else {"run": path}
        identity.pop("seed", None)
        key = repr(identity)
        identities[key] = identity
        groups.setdefault(key, []).append(path)
    names = list(dict.fromkeys(name for identity in identities.values() for name in identity))
    varying = [n for n in names if len({repr(i.get(n)) for i in identities.values() if "run" not in i}) > 1]
    rows = [
        RowPlan(_label(identities[key], varying), {n: identities[key].get(n) for n in varying}, None, tuple(paths))
        for key, paths in groups.items()
    ]
    return ExperimentPlan(LOOSE, "", None, None, None, None, tuple(rows))


def _label(identity: dict[str, Any], varying: Sequence[str]) -> str:
    if "run" in identity:
        return str(identity["run"])
    own = [f"{name} {identity[name]}" for name in varying if name != "model"]
    return ", ".join([str(identity["model"]), *own])


def _grid(plan: GridPlan, study: Study) -> GridRecord:
    trials = tuple(
        TrialRow(
            number=trial.number,
            values=trial.values,
            seed=trial.seed,
            path=trial.path,
            state=trial.state,
            val_accuracy=trial.val_accuracy,
            epoch_seconds=trial.epoch_seconds,
            document=next((figure for values, figure in plan.document if values == trial.values), None),
        )
        for trial in plan.trials
    )
    measured = [(trial.values, trial.val_accuracy) for trial in trials if trial.state == "finished"]
    complete = [(values, accuracy) for values, accuracy in measured if accuracy is not None]
    effects = tuple(main_effects([(_hashable(values), accuracy) for values, accuracy in complete]))
    winner = None
    if plan.winner is not None:
        figure = next((figure for values, figure in plan.document if values == plan.winner.changes), None)
        document = DocumentFigures(test_accuracy=figure) if figure is not None else None
        winner = _row(replace(plan.winner, document=document), study)
        winner = replace(winner, insight=insight.of_row(winner, None))
    return GridRecord(
        name=plan.name,
        space=plan.space,
        sampler=plan.sampler,
        dataset=plan.dataset,
        command=plan.command,
        trials=trials,
        effects=effects,
        winner=winner,
        insight=insight.of_grid(trials, effects, winner),
    )


def _hashable(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value if isinstance(value, int | float | str) else repr(value) for name, value in values.items()}
