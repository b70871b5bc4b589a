"""A row of an experiment: its figures over seeds."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence

from convmixer.data.cifar_specs import SPECS
from convmixer.report.collect import Run, Study
from convmixer.report.plans import RowPlan
from convmixer.report.records import ComparisonRow, RunRow
from convmixer.utils.metrics import MeanInterval, mean_interval


def comparison_row(plan: RowPlan, study: Study, is_base: bool = False) -> ComparisonRow:
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
