"""From runs to comparisons: metrics over seeds, differences to the base, what a search says of each parameter."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from convmixer.data.cifar_specs import SPECS
from convmixer.experiments.grid_search import published_result
from convmixer.report.collect import Run, Study
from convmixer.report.groups import groups_by_data
from convmixer.report.records import (
    ComparisonRow,
    Difference,
    ExperimentRecord,
    RunRow,
    SearchRecord,
    StudyRecord,
)
from convmixer.runs import TrialRecord
from convmixer.utils.comparisons import (
    MeanInterval,
    holm,
    main_effects,
    mean_interval,
    paired_difference,
    pareto_front,
    quarters,
)

Trial = tuple[dict[str, Any], float]
"""Parameter → value, and validation accuracy."""


def summarize(study: Study, command: str) -> StudyRecord:
    """Everything that the report of ``study`` says; ``command`` is what made it."""
    return StudyRecord(
        name=study.folder.resolve().name,
        command=command,
        experiments=(
            *(_experiment(experiment, study) for experiment in study.experiments),
            *(_ranked(group, study) for group in groups_by_data(study)),
        ),
        searches=tuple(_search(search, study) for search in study.searches),
        runs=tuple(run.row for run in study.runs.values()),
        files=study.files,
        problems=study.problems,
    )


def _experiment(experiment: ExperimentRecord, study: Study) -> ExperimentRecord:
    rows = [_measured(row, study) for row in experiment.rows]
    base = next((row for row in rows if row.is_base), None)
    if base is not None:
        rows = _with_differences(rows, base, study)
    rows = [row if _at_published_scale(row, study) else replace(row, published=None) for row in rows]
    return replace(experiment, base=base.label if base else None, rows=tuple(_with_front(rows)))


def _ranked(group: ExperimentRecord, study: Study) -> ExperimentRecord:
    """The rows of a group, the most accurate first."""

    def rank(row: ComparisonRow) -> tuple[float, float]:
        test, val = row.test_accuracy, row.val_accuracy
        return (-test.mean if test else 1.0, -val.mean if val else 1.0)

    rows = _with_front([_measured(row, study) for row in group.rows])
    return replace(group, rows=tuple(sorted(rows, key=rank)))


def _measured(row: ComparisonRow, study: Study) -> ComparisonRow:
    """A row with its own metrics; what depends on the other rows is filled in later."""
    runs = [study.runs[path].row for path in row.runs]
    finished = [run for run in runs if run.status == "finished"]
    return replace(
        row,
        seeds=tuple(run.seed for run in finished if run.seed is not None),
        unfinished=len(runs) - len(finished),
        diverged=sum(run.status == "diverged" for run in runs),
        test_accuracy=_over_seeds(finished, lambda run: run.test_accuracy),
        train_accuracy=_over_seeds(finished, lambda run: run.train_accuracy),
        val_accuracy=_over_seeds(finished, lambda run: run.val_accuracy),
        gap=_over_seeds(finished, _gap),
        epoch_seconds=_median(run.epoch_seconds for run in finished),
        parameters=next((run.parameters for run in finished), None),
        multiply_adds=next((run.multiply_adds for run in finished), None),
        extra_metrics=_extra_metrics(finished),
    )


def _over_seeds(runs: Sequence[RunRow], metric: Callable[[RunRow], float | None]) -> MeanInterval | None:
    values = [value for run in runs if (value := metric(run)) is not None]
    return mean_interval(values) if values else None


def _gap(run: RunRow) -> float | None:
    if run.train_accuracy is None or run.test_accuracy is None:
        return None
    return run.train_accuracy - run.test_accuracy


def _median(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def _extra_metrics(runs: Sequence[RunRow]) -> dict[str, MeanInterval]:
    names = dict.fromkeys(name for run in runs for name in run.extra_metrics)
    return {name: mean_interval(r.extra_metrics[name] for r in runs if name in r.extra_metrics) for name in names}


# Between rows


def _with_differences(rows: list[ComparisonRow], base: ComparisonRow, study: Study) -> list[ComparisonRow]:
    """Compares every row but the base with it, over equal seeds, and corrects for their number."""
    reference = _by_seed(base, study)
    pairs = {row.label: paired_difference(_by_seed(row, study), reference) for row in rows if row is not base}
    tested = {label: pair.p_value for label, pair in pairs.items() if pair and pair.p_value is not None}
    adjusted = dict(zip(tested, holm(list(tested.values())), strict=True))
    compared = []
    for row in rows:
        if (pair := pairs.get(row.label)) is not None:
            p = adjusted.get(row.label)
            published = _published_difference(row, base, study)
            difference = Difference(**vars(pair), p_adjusted=p, verdict=pair.verdict(p), published=published)
            row = replace(row, difference=difference)
        compared.append(row)
    return compared


def _by_seed(row: ComparisonRow, study: Study) -> dict[int, float]:
    runs = [study.runs[path].row for path in row.runs]
    return {
        run.seed: run.test_accuracy
        for run in runs
        if run.status == "finished" and run.seed is not None and run.test_accuracy is not None
    }


def _with_front(rows: list[ComparisonRow]) -> list[ComparisonRow]:
    """Marks the rows that no other beats in both test accuracy and epoch time."""
    points = [
        (index, (row.epoch_seconds, row.test_accuracy.mean))
        for index, row in enumerate(rows)
        if row.epoch_seconds is not None and row.test_accuracy is not None
    ]
    front = {points[i][0] for i in pareto_front([point for _, point in points])}
    return [replace(row, on_front=index in front) for index, row in enumerate(rows)]


# Beside the published results


def _published_difference(row: ComparisonRow, base: ComparisonRow, study: Study) -> float | None:
    if row.published is None or base.published is None or not _all_finished(row, study, _has_cifar10_classes):
        return None
    return row.published.test_accuracy - base.published.test_accuracy


def _at_published_scale(row: ComparisonRow, study: Study) -> bool:
    """Whether a published accuracy may stand beside a row: networks of that size, that data, about as many epochs."""
    return _all_finished(row, study, _is_full_scale)


def _all_finished(row: ComparisonRow, study: Study, test: Callable[[Run], bool]) -> bool:
    finished = [run for path in row.runs if (run := study.runs[path]).row.status == "finished"]
    return bool(finished) and all(map(test, finished))


def _is_full_scale(run: Run) -> bool:
    """256/8 or wider with patches of 2, on CIFAR-10, for 25 epochs give or take 5."""
    if run.config is None or run.info is None or not _has_cifar10_classes(run):
        return False
    network, epochs = run.config.architecture, run.config.train.epochs
    right_size = network.dim >= 256 and network.depth == 8 and network.patch_size == 2 and run.info.image_size == 32
    return right_size and 20 <= epochs <= 30


def _has_cifar10_classes(run: Run) -> bool:
    """The official images, or a folder of the same classes."""
    return run.info is not None and sorted(run.info.classes) == sorted(SPECS["cifar10"].classes)


# Searches


def _search(search: SearchRecord, study: Study) -> SearchRecord:
    winner = _measured(search.winner, study) if search.winner is not None else None
    paths = [trial.path for trial in search.trials if trial.path]
    comparable = bool(paths) and all(_is_full_scale(study.runs[path]) for path in paths)
    if winner is not None and comparable:
        winner = replace(winner, published=published_result(winner.changes))
    effects = main_effects(grouped(search.space, measured(search.trials)))
    return replace(search, at_published_scale=comparable, effects=tuple(effects), winner=winner)


def measured(trials: Sequence[TrialRecord]) -> list[Trial]:
    """The trials that are finished."""
    return [(t.values, t.val_accuracy) for t in trials if t.state == "finished" and t.val_accuracy is not None]


def grouped(space: Mapping[str, Any], trials: Sequence[Trial]) -> list[Trial]:
    """The trials with values that repeat: listed ones as they are, those drawn from a range in quarters."""
    columns = {
        name: quarters([values[name] for values, _ in trials])
        for name, choices in space.items()
        if not isinstance(choices, list)
    }
    return [
        (values | {name: column[i] for name, column in columns.items()}, accuracy)
        for i, (values, accuracy) in enumerate(trials)
    ]
