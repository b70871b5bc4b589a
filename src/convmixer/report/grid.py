"""A grid search: its trials, and what they say of each parameter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from convmixer.report import insight
from convmixer.report.collect import Study
from convmixer.report.plans import GridPlan
from convmixer.report.records import DocumentFigures, GridRecord, TrialRow
from convmixer.report.rows import comparison_row
from convmixer.utils.metrics import main_effects, quarters

Trial = tuple[dict[str, Any], float]
"""Parameter → value, and validation accuracy."""


def grid_record(plan: GridPlan, study: Study) -> GridRecord:
    """The search that ``plan`` describes, with its winner's runs."""
    document = {_key(values): figure for values, figure in plan.document}
    trials = tuple(TrialRow(**vars(trial), document=document.get(_key(trial.values))) for trial in plan.trials)
    effects = tuple(main_effects(grouped(plan.space, measured(trials))))
    winner = None
    if plan.winner is not None:
        figure = document.get(_key(plan.winner.changes))
        said = DocumentFigures(test_accuracy=figure) if figure is not None else None
        winner = comparison_row(replace(plan.winner, document=said), study)
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


def measured(trials: Sequence[TrialRow]) -> list[Trial]:
    """The trials that are finished."""
    return [(t.values, t.val_accuracy) for t in trials if t.state == "finished" and t.val_accuracy is not None]


def grouped(space: Mapping[str, Any], trials: Sequence[Trial]) -> list[Trial]:
    """The trials with values that repeat: what was listed stays, what was drawn from a range is taken in quarters."""
    columns = {
        name: quarters([values[name] for values, _ in trials])
        for name, choices in space.items()
        if not isinstance(choices, list)
    }
    return [
        (values | {name: column[i] for name, column in columns.items()}, accuracy)
        for i, (values, accuracy) in enumerate(trials)
    ]


def _key(values: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    return tuple(sorted(values.items()))
