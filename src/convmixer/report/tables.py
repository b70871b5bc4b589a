"""Tables of a report as text: the page, the Markdown and the CSV files show the same cells."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from convmixer.report.facts import short_commit
from convmixer.report.insight import points, seeds, shown_values
from convmixer.report.records import ComparisonRow, DocumentFigures, ExperimentRecord, GridRecord, RunRow, StudyRecord
from convmixer.utils.metrics import MeanInterval

NOTHING = "–"


@dataclass(frozen=True)
class Cell:
    """A cell: ``text``, a smaller ``note``, the ``value`` it sorts by, or links (text, path of a run) in its place."""

    text: str
    note: str = ""
    value: float | str | None = None
    links: tuple[tuple[str, str], ...] = ()
    code: bool = False


@dataclass(frozen=True)
class Table:
    """``caption`` says what the rows are; ``keys`` are the paths of the runs that the rows are about, if they are."""

    caption: str
    headers: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    keys: tuple[str, ...] = ()


def anchor(path: str) -> str:
    """Identifier of a run within the page."""
    return "run-" + re.sub(r"[^A-Za-z0-9]+", "-", path).strip("-")


def percent(value: float | None, digits: int = 2) -> str:
    """0.9224 → 92.24 %."""
    return NOTHING if value is None else f"{100 * value:.{digits}f}\N{NO-BREAK SPACE}%"


def spread(interval: MeanInterval | None) -> str:
    """92.24 ± 0.31 %, with the half width of the 95 % interval; of one seed the figure alone."""
    if interval is None:
        return NOTHING
    return f"{100 * interval.mean:.2f}{_half(interval.half_width)}\N{NO-BREAK SPACE}%"


def duration(value: float | None) -> str:
    """Seconds with three digits: 32.6 s."""
    return NOTHING if value is None else f"{value:{'.3g' if value < 1000 else ',.0f'}}\N{NO-BREAK SPACE}s"


def count(value: int | None) -> str:
    """594,186."""
    return NOTHING if value is None else f"{value:,}"


def summary(rows: Sequence[ComparisonRow], caption: str) -> Table:
    """The study's own table: its document's columns, with the document's figures under ours."""
    headers = ("Model", "Test Accuracy", "Train Accuracy", "Epoch Time", "Key Insight")
    return Table(caption, headers, tuple(_summary_row(row) for row in rows))


def _summary_row(row: ComparisonRow) -> tuple[Cell, ...]:
    said = row.document or DocumentFigures()
    test, train = row.test_accuracy, row.train_accuracy
    return (
        Cell(row.label, note=changes if (changes := shown_values(row.changes)) != row.label else "", value=row.label),
        Cell(spread(test), note=_document(said.test_accuracy, row.document_difference), value=_mean(test)),
        Cell(spread(train), note=_document(said.train_accuracy, None), value=_mean(train)),
        Cell(
            duration(row.epoch_seconds),
            note=f"document {duration(said.epoch_seconds)}" if said.epoch_seconds is not None else "",
            value=row.epoch_seconds,
        ),
        Cell(row.insight),
    )


def _document(figure: float | None, difference: float | None) -> str:
    if figure is None:
        return ""
    return f"document {percent(figure)}" + (f", ours {points(difference)}" if difference is not None else "")


def figures(experiment: ExperimentRecord) -> Table:
    """All figures of an experiment's rows, and the runs that they come from."""
    further = dict.fromkeys(name for row in experiment.rows for name in row.further)
    headers = (
        "Row",
        "Seeds",
        "Test, sd",
        "Validation",
        "Train − test",
        *(_named(name) for name in further),
        f"Difference to {experiment.base}" if experiment.base else "Difference",
        "p (Holm)",
        "Verdict",
        "Parameters",
        "Multiply-adds",
        "Runs",
    )
    return Table("All figures", headers, tuple(_figures_row(row, tuple(further)) for row in experiment.rows))


def _figures_row(row: ComparisonRow, further: tuple[str, ...]) -> tuple[Cell, ...]:
    test, gap, difference = row.test_accuracy, row.gap, row.difference
    deviation = percent(test.std) if test else NOTHING
    return (
        Cell(row.label, value=row.label),
        Cell(str(len(row.seeds)), value=len(row.seeds)),
        Cell(deviation, value=test.std if test else None),
        Cell(spread(row.val_accuracy), value=_mean(row.val_accuracy)),
        Cell(f"{points(gap.mean)}{_half(gap.half_width)}" if gap else NOTHING, value=_mean(gap)),
        *(Cell(spread(row.further.get(name)), value=_mean(row.further.get(name))) for name in further),
        Cell(
            f"{points(difference.mean)}{_half(difference.half_width)}" if difference else NOTHING,
            value=difference.mean if difference else None,
        ),
        Cell(
            _p_value(difference.p_adjusted if difference else None), value=difference.p_adjusted if difference else None
        ),
        Cell(_verdict(row)),
        Cell(count(row.parameters), value=row.parameters),
        Cell(count(row.multiply_adds), value=row.multiply_adds),
        Cell(seeds(len(row.runs)), links=tuple((str(i + 1), path) for i, path in enumerate(row.runs))),
    )


def _verdict(row: ComparisonRow) -> str:
    if row.is_base:
        return "base"
    if row.difference is None:
        return NOTHING
    tail = f" at {seeds(row.difference.n)}" if row.difference.verdict == "no evidence" else ""
    return row.difference.verdict + tail


def _p_value(p: float | None) -> str:
    return NOTHING if p is None else f"{p:.2g}"


def _half(half: float | None) -> str:
    return f"\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}{100 * half:.2f}" if half is not None else ""


def _mean(interval: MeanInterval | None) -> float | None:
    return interval.mean if interval else None


def _named(field: str) -> str:
    return field.replace("_", " ").capitalize()


def trials(grid: GridRecord) -> Table:
    """All trials of a grid search, with the document's figures for the same values where it has some."""
    names = list(dict.fromkeys(name for trial in grid.trials for name in trial.values))
    headers = ("Trial", *names, "State", "Validation", "Epoch time", "Document, test", "Run")
    rows = tuple(
        (
            Cell(str(trial.number), value=trial.number),
            *(_value_cell(trial.values.get(name)) for name in names),
            Cell(trial.state, value=trial.state),
            Cell(percent(trial.val_accuracy), value=trial.val_accuracy),
            Cell(duration(trial.epoch_seconds), value=trial.epoch_seconds),
            Cell(percent(trial.document), value=trial.document),
            Cell(trial.path or NOTHING, links=(("run", trial.path),) if trial.path else ()),
        )
        for trial in grid.trials
    )
    return Table("Trials", headers, rows)


def _value_cell(value: Any) -> Cell:
    number = value if isinstance(value, int | float) else str(value)
    return Cell(f"{value:.3g}" if isinstance(value, float) else str(value), value=number)


def runs(record: StudyRecord) -> Table:
    """Every run with its figures, its directory and the command that repeats it."""
    further = tuple(dict.fromkeys(name for run in record.runs for name in run.further))
    headers = ("Run", "Used by", "Status", "Model", "Data", "Seed", "Epochs", "Test", "Validation", "Train",
               *map(_named, further), "Loss", "Calibration", "Epoch time", "Parameters", "Engine", "Commit",
               "Repeat with")  # fmt: skip
    rows = tuple(_run_row(run, further) for run in record.runs)
    return Table("All runs", headers, rows, tuple(run.path for run in record.runs))


def _run_row(run: RunRow, further: tuple[str, ...]) -> tuple[Cell, ...]:
    status = f"{run.status}: {run.message}" if run.message else run.status
    epochs = f"{run.selected_epoch} of {run.epochs}" if run.selected_epoch else count(run.epochs)
    engine = " ".join(filter(None, (run.engine, run.precision)))
    return (
        Cell(run.path, value=run.path, code=True),
        Cell(", ".join(run.used_by) or NOTHING, value=", ".join(run.used_by)),
        Cell(status, value=run.status),
        Cell(run.model or NOTHING, value=run.model),
        Cell(run.dataset or NOTHING, value=run.dataset),
        Cell(NOTHING if run.seed is None else str(run.seed), value=run.seed),
        Cell(epochs, value=run.selected_epoch),
        Cell(percent(run.test_accuracy), value=run.test_accuracy),
        Cell(percent(run.val_accuracy), value=run.val_accuracy),
        Cell(percent(run.train_accuracy), value=run.train_accuracy),
        *(Cell(percent(run.further.get(name)), value=run.further.get(name)) for name in further),
        Cell(NOTHING if run.test_loss is None else f"{run.test_loss:.4f}", value=run.test_loss),
        Cell(percent(run.calibration_error), value=run.calibration_error),
        Cell(duration(run.epoch_seconds), value=run.epoch_seconds),
        Cell(count(run.parameters), value=run.parameters),
        Cell(engine or NOTHING, value=engine),
        Cell(short_commit(run.commit) or NOTHING, value=run.commit, code=True),
        Cell(run.repeat or NOTHING, code=True),
    )
