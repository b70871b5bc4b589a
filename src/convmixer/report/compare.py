"""From runs to comparisons: figures over seeds, differences to the base, what they say in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from convmixer.report import insight
from convmixer.report.collect import Study
from convmixer.report.grid import grid_record
from convmixer.report.plans import ExperimentPlan, RowPlan
from convmixer.report.records import ComparisonRow, Difference, ExperimentRecord, StudyRecord
from convmixer.report.rows import comparison_row
from convmixer.utils.metrics import holm, paired_difference, pareto_front

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
        grid=grid_record(study.grid, study) if study.grid is not None else None,
        runs=tuple(run.row for run in study.runs.values()),
        problems=study.problems,
    )


def _experiment(plan: ExperimentPlan, study: Study) -> ExperimentRecord:
    rows = [comparison_row(row, study, is_base=row.label == plan.base) for row in plan.rows]
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
