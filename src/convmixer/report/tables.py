"""Tables of a report as text: terminal, page and Markdown show the same cells."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from convmixer.config import RunConfig
from convmixer.errors import InputError
from convmixer.experiments.grid_search import published_result
from convmixer.presets import run_config
from convmixer.report.insight import of_row, short_commit
from convmixer.report.records import ComparisonRow, Difference, ExperimentRecord, RunRow, SearchRecord, StudyRecord
from convmixer.runs import TrialRecord
from convmixer.utils.comparisons import MeanInterval
from convmixer.utils.formatting import (
    NOTHING,
    accuracy,
    count,
    duration,
    half_width,
    mean_accuracy,
    number,
    percent,
    plural,
    points,
    settings,
)
from convmixer.utils.metrics import Evaluation


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
    """A caption, columns and rows.

    Attributes:
        caption: what the rows are.
        headers: of the columns; the first names the row.
        rows: a cell for each column.
        keys: paths of the runs that the rows are about, if they are about runs.
        details: headers of columns that a narrow medium may leave out.
    """

    caption: str
    headers: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    keys: tuple[str, ...] = ()
    details: tuple[str, ...] = ()


def anchor(path: str) -> str:
    """Identifier of a run or a section within the page."""
    return "run-" + re.sub(r"[^A-Za-z0-9]+", "-", path).strip("-")


# Experiments and groups of runs


def comparison(experiment: ExperimentRecord) -> Table:
    """The study's own table: accuracies over seeds, time, and what they say."""
    base = next((row for row in experiment.rows if row.is_base), None)
    return summary([(row, of_row(row, base)) for row in experiment.rows], experiment.title)


def summary(rows: Sequence[tuple[ComparisonRow, str]], caption: str) -> Table:
    """Rows with their insights; published results follow ours where they are comparable."""
    headers = ("Model", "Test accuracy", "Train accuracy", "Epoch time", "Key insight")
    details = ("Key insight", "Epoch time", "Train accuracy")
    return Table(caption, headers, tuple(_summary_row(row, insight) for row, insight in rows), details=details)


def overview(record: StudyRecord) -> list[Table]:
    """For a terminal: the rows of every experiment, group of runs and search, without their notes; or the only run."""
    if record.single is not None:
        return [run_metrics(record.single)]
    found = [comparison(e) if e.designed else ranking(e, record) for e in record.experiments]
    winners = [(search.title, search.winner) for search in record.searches if search.winner is not None]
    return found + [summary([(winner, of_row(winner, None))], title) for title, winner in winners]


def _summary_row(row: ComparisonRow, insight: str) -> tuple[Cell, ...]:
    test, train, published = row.test_accuracy, row.train_accuracy, row.published
    return (
        Cell(row.label, note=_changes(row), value=row.label),
        Cell(mean_accuracy(test), _published(percent(published.test_accuracy)) if published else "", _mean(test)),
        Cell(mean_accuracy(train), _published(percent(published.train_accuracy)) if published else "", _mean(train)),
        Cell(
            duration(row.epoch_seconds),
            _published(duration(published.epoch_seconds)) if published else "",
            row.epoch_seconds,
        ),
        Cell(insight),
    )


def _changes(row: ComparisonRow) -> str:
    """What a row changes, unless its label says so already."""
    words = settings(row.changes)
    return "" if words.replace("_", " ") == row.label.replace("_", " ") else words


def _published(text: str) -> str:
    return f"published {text}" if text != NOTHING else ""


def ranking(group: ExperimentRecord, record: StudyRecord) -> Table:
    """Runs that no experiment explains, the most accurate first."""
    headers = ("Run", "Test accuracy", "Validation", "Train", "Epochs", "Epoch time", "Parameters", "Runs")
    runs = {run.path: run for run in record.runs}
    rows = tuple(_ranking_row(row, [runs[path] for path in row.runs]) for row in group.rows)
    return Table(group.title, headers, rows, details=("Parameters", "Train", "Epoch time", "Epochs"))


def _ranking_row(row: ComparisonRow, runs: Sequence[RunRow]) -> tuple[Cell, ...]:
    first, finished = runs[0], [run for run in runs if run.status == "finished"]
    alone = finished[0] if len(finished) == 1 else None
    val = accuracy(alone.val_accuracy, alone.val_images) if alone else mean_accuracy(row.val_accuracy)
    test = accuracy(alone.test_accuracy, alone.test_images) if alone else mean_accuracy(row.test_accuracy)
    states = ", ".join(dict.fromkeys(run.status for run in runs if run.status != "finished"))
    return (
        Cell(row.label, note=_changes(row), value=row.label),
        Cell(test, value=_mean(row.test_accuracy)),
        Cell(val, value=_mean(row.val_accuracy)),
        Cell(mean_accuracy(row.train_accuracy), value=_mean(row.train_accuracy)),
        Cell(count(first.epochs), value=first.epochs),
        Cell(duration(row.epoch_seconds), value=row.epoch_seconds),
        Cell(count(row.parameters), value=row.parameters),
        Cell(plural(len(runs), "run"), note=states, links=tuple((str(i + 1), run.path) for i, run in enumerate(runs))),
    )


def metrics(experiment: ExperimentRecord) -> Table:
    """All metrics of an experiment's rows, and the runs that they come from."""
    extra = dict.fromkeys(name for row in experiment.rows for name in row.extra_metrics)
    headers = (
        "Row",
        "Test, SD",
        "Validation",
        "Train − test",
        *(_named(name) for name in extra),
        f"Difference to {experiment.base}" if experiment.base else "Difference",
        "p (Holm)",
        "Verdict",
        "Seeds",
        "Parameters",
        "Multiply-adds",
        "Runs",
    )
    return Table("All metrics", headers, tuple(_metrics_row(row, tuple(extra)) for row in experiment.rows))


def _metrics_row(row: ComparisonRow, extra: tuple[str, ...]) -> tuple[Cell, ...]:
    test, difference = row.test_accuracy, row.difference
    deviation = percent(test.std) if test else NOTHING
    p = difference.p_adjusted if difference else None
    return (
        Cell(row.label, value=row.label),
        Cell(deviation, value=test.std if test else None),
        Cell(mean_accuracy(row.val_accuracy), value=_mean(row.val_accuracy)),
        Cell(_difference(row.gap), value=_mean(row.gap)),
        *(Cell(mean_accuracy(row.extra_metrics.get(name)), value=_mean(row.extra_metrics.get(name))) for name in extra),
        Cell(_difference(difference), value=_mean(difference)),
        Cell(NOTHING if p is None else f"{p:.2g}", value=p),
        Cell(_verdict(row.is_base, difference)),
        Cell(str(len(row.seeds)), value=len(row.seeds)),
        Cell(count(row.parameters), value=row.parameters),
        Cell(count(row.multiply_adds), value=row.multiply_adds),
        Cell(plural(len(row.runs), "run"), links=tuple((str(i + 1), path) for i, path in enumerate(row.runs))),
    )


def _difference(interval: MeanInterval | None) -> str:
    if interval is None:
        return NOTHING
    return points(interval.mean) + (half_width(interval.half_width) if interval.informative else "")


def _verdict(is_base: bool, difference: Difference | None) -> str:
    if is_base or difference is None:
        return "base" if is_base else NOTHING
    tail = f" with {plural(difference.n, 'seed')}" if difference.verdict == "no evidence" else ""
    return difference.verdict + tail


def _mean(interval: MeanInterval | None) -> float | None:
    return interval.mean if interval else None


def _named(field: str) -> str:
    return field.replace("_", " ").capitalize()


# Searches


def trials(search: SearchRecord) -> Table:
    """All trials of a search, the best first, with the published results for the same values where comparable."""
    names = list(dict.fromkeys(name for trial in search.trials for name in trial.values))
    published = ("Published, test",) if search.at_published_scale else ()
    headers = ("Trial", "Validation", *names, "State", "Epoch time", *published, "Run")
    ranked = sorted(search.trials, key=lambda trial: -(trial.val_accuracy or -1.0))
    return Table("Trials", headers, tuple(_trial_row(trial, names, search.at_published_scale) for trial in ranked))


def _trial_row(trial: TrialRecord, names: Sequence[str], with_published: bool) -> tuple[Cell, ...]:
    result = published_result(trial.values)
    published = result.test_accuracy if result else None
    return (
        Cell(str(trial.number), value=trial.number),
        Cell(percent(trial.val_accuracy), value=trial.val_accuracy),
        *(_value_cell(trial.values.get(name)) for name in names),
        Cell(trial.state, value=trial.state),
        Cell(duration(trial.epoch_seconds), value=trial.epoch_seconds),
        *[Cell(percent(published), value=published)] * with_published,
        Cell(trial.path or NOTHING, links=(("run", trial.path),) if trial.path else ()),
    )


def _value_cell(value: Any) -> Cell:
    return Cell(number(value), value=value if isinstance(value, int | float) else str(value))


# Runs


def runs(record: StudyRecord) -> Table:
    """Every run with its metrics, its directory and the command that repeats it."""
    extra = tuple(dict.fromkeys(name for run in record.runs for name in run.extra_metrics))
    details = ("Used by", *map(_named, extra), "Loss", "Calibration", "Parameters", "Engine", "Commit", "Directory",
               "Repeat with")  # fmt: skip
    headers = ("Run", "Test", "Validation", "Train", "Status", "Used by", "Data", "Model", "Seed", "Best epoch",
               *map(_named, extra), "Loss", "Calibration", "Epoch time", "Parameters", "Engine", "Commit",
               "Directory", "Repeat with")  # fmt: skip
    rows = tuple(_run_row(run, extra) for run in record.runs)
    return Table("All runs", headers, rows, tuple(run.path for run in record.runs), details)


def _run_row(run: RunRow, extra: tuple[str, ...]) -> tuple[Cell, ...]:
    epochs = f"{run.selected_epoch} of {run.epochs}" if run.selected_epoch else count(run.epochs)
    engine = " ".join(filter(None, (run.engine, run.precision)))
    untested = "search trial, not tested" if run.is_trial else NOTHING
    test = untested if run.test_accuracy is None else accuracy(run.test_accuracy, run.test_images)
    return (
        Cell(run.name or run.path, value=run.name or run.path),
        Cell(test, value=run.test_accuracy),
        Cell(accuracy(run.val_accuracy, run.val_images), value=run.val_accuracy),
        Cell(percent(run.train_accuracy), value=run.train_accuracy),
        Cell(run.status, note=run.message, value=run.status),
        Cell(", ".join(run.purposes) or NOTHING, value=", ".join(run.purposes)),
        Cell(run.dataset or NOTHING, value=run.dataset),
        Cell(run.model or NOTHING, value=run.model),
        Cell(NOTHING if run.seed is None else str(run.seed), value=run.seed),
        Cell(epochs, value=run.selected_epoch),
        *(Cell(percent(run.extra_metrics.get(name)), value=run.extra_metrics.get(name)) for name in extra),
        Cell(NOTHING if run.test_loss is None else f"{run.test_loss:.4f}", value=run.test_loss),
        Cell(percent(run.calibration_error), value=run.calibration_error),
        Cell(duration(run.epoch_seconds), value=run.epoch_seconds),
        Cell(count(run.parameters), value=run.parameters),
        Cell(engine or NOTHING, value=engine),
        Cell(short_commit(run.commit) or NOTHING, value=run.commit, code=True),
        Cell(run.path, value=run.path, code=True),
        Cell(run.repeat or NOTHING, code=True),
    )


# A run by itself


def run_metrics(run: RunRow) -> Table:
    """The metrics of one run, a line each."""
    epochs = NOTHING if run.epochs is None else f"{run.selected_epoch or NOTHING} of {run.epochs}"
    test = accuracy(run.test_accuracy, run.test_images) if not run.is_trial else "search trial, not tested"
    val = accuracy(run.val_accuracy, run.val_images)
    lines = {
        "Test accuracy": f"{test}{_images(run.test_accuracy, run.test_images)}",
        **{_named(name): percent(value) for name, value in run.extra_metrics.items()},
        "Validation accuracy": f"{val}{_images(run.val_accuracy, run.val_images)}",
        "Training accuracy": percent(run.train_accuracy),
        "Test loss": NOTHING if run.test_loss is None else f"{run.test_loss:.4f}",
        "Calibration error": percent(run.calibration_error),
        "Best epoch": epochs,
        "Epoch time": duration(run.epoch_seconds),
        "Parameters": count(run.parameters),
        "Multiply-adds for an image": count(run.multiply_adds),
        "Engine": " ".join(filter(None, (run.engine, run.precision))) or NOTHING,
        "Status": f"{run.status}: {run.message}" if run.message else run.status,
    }
    rows = tuple((Cell(name), Cell(text)) for name, text in lines.items() if text != NOTHING)
    return Table("Metrics", ("Metric", "Value"), rows)


def _images(value: float | None, images: int | None) -> str:
    return f", {count(images)} images" if value is not None and images else ""


def run_settings(config: RunConfig, *, changed: bool) -> Table:
    """The settings that define a run: those that differ from its model's and recipe's own, or all others."""
    own = {name: value for name, value in config.identity().items() if name not in ("model", "recipe")}
    try:
        preset = run_config(config.model, config.recipe).identity()
    except InputError:  # of another version
        preset = {}
    names = [name for name, value in own.items() if (name in preset and preset[name] == value) is not changed]
    if changed:
        rows = [(Cell(name), Cell(number(own[name])), Cell(number(preset.get(name)))) for name in names]
        return Table("Changed settings", ("Setting", "Value", f"{config.model}, {config.recipe}"), tuple(rows))
    return Table(
        f"Other settings, those of {config.model} and {config.recipe}",
        ("Setting", "Value"),
        tuple((Cell(name), Cell(number(own[name]))) for name in names),
    )


def classes(evaluation: Evaluation) -> Table:
    """How well each class is found."""
    rows = tuple(
        (
            Cell(row.name, value=row.name),
            Cell(count(row.images), value=row.images),
            Cell(percent(row.recall, 1), value=row.recall),
            Cell(percent(row.precision, 1), value=row.precision),
            Cell(f"{row.f1:.3f}", value=row.f1),
        )
        for row in evaluation.per_class
    )
    return Table("Classes of the test set", ("Class", "Images", "Recall", "Precision", "F1"), rows)
