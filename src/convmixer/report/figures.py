"""Which figures a report has: data taken from its records first, drawn second, each with words that say the same.

A figure's alt text is made from the same data as the figure.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from convmixer.errors import InputError
from convmixer.manifest import read_record
from convmixer.report.collect import Run, Study
from convmixer.report.compare import Trial, grouped, measured
from convmixer.report.records import ComparisonRow, ExperimentRecord, FilesRecord, SearchRecord, StudyRecord
from convmixer.runs import EpochRecord, RunDir
from convmixer.utils import study_figures as draw
from convmixer.utils.formatting import half_width, number, percent, points
from convmixer.utils.visualization import EpochRow, calibration_diagram, confusion_matrix, learning_curve
from convmixer.utils.weight_figures import embedding_sheet, kernel_sheet

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class ReportFigure:
    """A figure with what belongs to it: ``name`` is its file's, ``section`` the record's that it is about."""

    section: str
    name: str
    title: str
    alt: str
    figure: Figure | bytes
    """What is drawn, or a PNG file's content."""


@dataclass(frozen=True)
class FeaturedRun:
    """The run whose predictions and weights are shown."""

    run: Run
    label: str


def draw_figures(record: StudyRecord, study: Study) -> list[ReportFigure]:
    """All figures of a report, in its order."""
    found: list[ReportFigure] = []
    for experiment in record.experiments:
        found += _experiment(experiment, study)
    for search in record.searches:
        found += search_figures(search)
    found += map(_trade_off, record.files)
    chosen = featured_run(record, study)
    if chosen is not None:
        found += _featured(chosen, study)
    return found


def featured_run(record: StudyRecord, study: Study) -> FeaturedRun | None:
    """The first seed of the row with the best mean validation accuracy; None if no run is finished.

    Only rows on the data of most rows are looked at: accuracies on different data are no comparison.
    """
    rows = [(e.title, e.dataset, row) for e in record.experiments for row in e.rows]
    rows += [(search.title, search.dataset, search.winner) for search in record.searches if search.winner is not None]
    rows = [entry for entry in rows if entry[2].test_accuracy is not None]
    if not rows:
        return None
    data = Counter(dataset for _, dataset, _ in rows).most_common(1)[0][0]
    rows = [entry for entry in rows if entry[1] == data]
    # Without a validation part there is nothing but the order to choose by: the test set is not for choosing.
    title, _, best = max(rows, key=lambda entry: entry[2].val_accuracy.mean if entry[2].val_accuracy else 0.0)
    path = next(path for path in best.runs if study.runs[path].row.status == "finished")
    return FeaturedRun(study.runs[path], f"{title}: {best.label}")


def _experiment(experiment: ExperimentRecord, study: Study) -> Iterator[ReportFigure]:
    yield from metric_figures(experiment)
    if len(study.runs) == 1:
        return  # the curves of a single run are shown as its own
    section, shown = experiment.name, highlighted(experiment.rows)
    for name, title, is_share, field in _CURVES:
        bands = curve_bands(experiment.rows, study, field, shown)
        if bands:
            told = [b for b in bands if b.highlighted]
            spoken = "; ".join(f"{b.label} ends at {_value(b.mean[-1], is_share)}" for b in told)
            alt = f"{title} over epochs: {spoken}.{_others(len(bands) - len(told))}"
            figure = draw.curve_bands(bands, title.lower(), is_share=is_share)
            title = f"{title}: mean and range over seeds{_best(bands)}"
            yield ReportFigure(section, f"{_stem(section)}_{name}", title, alt, figure)


def metric_figures(experiment: ExperimentRecord) -> Iterator[ReportFigure]:
    """The figures that need no more than the record."""
    section, stem, shown = experiment.name, _stem(experiment.name), highlighted(experiment.rows)
    cost = cost_points(experiment.rows, shown)
    if len(cost) > 1:
        told = [p for p in cost if p.highlighted]
        spoken = "; ".join(f"{p.label} {p.accuracy:.2%} at {p.seconds:.3g} s" for p in told)
        front = ", ".join(p.label for p in cost if p.on_front)
        alt = (
            f"Test accuracy against epoch time: {spoken}.{_others(len(cost) - len(told))} On the Pareto front: {front}."
        )
        title = f"Accuracy against time; filled: no other row is both as fast and as accurate{_best(cost)}"
        yield ReportFigure(section, f"{stem}_time", title, alt, draw.accuracy_against_time(cost))
    if compared := difference_points(experiment.rows):
        spoken = "; ".join(f"{p.label} {points(p.difference)}{half_width(p.half_width)}" for p in compared)
        alt = f"Differences to {experiment.base} in points: {spoken}."
        figure = draw.differences(compared, "published, one run each")
        title = f"Difference to {experiment.base}, 95% interval over seeds"
        yield ReportFigure(section, f"{stem}_differences", title, alt, figure)


_CURVES: tuple[tuple[str, str, bool, Callable[[EpochRecord], float | None]], ...] = (
    ("held_out", "Validation accuracy", True, lambda epoch: epoch.selection_metrics()[1]),
    ("loss", "Training loss", False, lambda epoch: epoch.train_loss),
)


def highlighted(rows: Sequence[ComparisonRow]) -> frozenset[str]:
    """Labels of the rows that figures tell apart: all of few, of many those that are best on the test set."""
    if len(rows) <= _FEW:
        return frozenset(row.label for row in rows)
    ranked = sorted(rows, key=lambda row: -row.test_accuracy.mean if row.test_accuracy else 1.0)
    return frozenset(row.label for row in ranked[:_SHOWN_OF_MANY])


_FEW, _SHOWN_OF_MANY = 8, 6


def _best(rows: Sequence[draw.Band] | Sequence[draw.CostPoint]) -> str:
    shown = sum(row.highlighted for row in rows)
    return f"; the best {shown} of {len(rows)} in colour" if shown < len(rows) else ""


def _others(n: int) -> str:
    return f" {n} others are grey." if n else ""


def _value(value: float, is_share: bool) -> str:
    return percent(value) if is_share else f"{value:.3f}"


def cost_points(rows: Sequence[ComparisonRow], shown: Container[str]) -> list[draw.CostPoint]:
    """The rows that have both a time and an accuracy."""
    return [
        draw.CostPoint(
            row.label,
            row.epoch_seconds,
            test.mean,
            test.half_width if test.informative else None,
            row.on_front,
            row.label in shown,
        )
        for row in rows
        if row.epoch_seconds is not None and (test := row.test_accuracy) is not None
    ]


def difference_points(rows: Sequence[ComparisonRow]) -> list[draw.DifferencePoint]:
    """The rows that were compared with the base; a half width that says nothing is left out."""
    return [
        draw.DifferencePoint(row.label, found.mean, found.half_width if found.informative else None, found.published)
        for row in rows
        if (found := row.difference) is not None
    ]


def curve_bands(
    rows: Sequence[ComparisonRow],
    study: Study,
    field: Callable[[EpochRecord], float | None],
    shown: Container[str],
) -> list[draw.Band]:
    """A band for each row over its finished runs, or over all while none is finished; rows without values left out."""
    bands = []
    for row in rows:
        runs = [study.runs[path] for path in row.runs]
        finished = [run for run in runs if run.row.status == "finished"]
        curves = [_curve(run, field) for run in finished or runs]
        bands.append(draw.band(row.label, [curve for curve in curves if curve], row.label in shown))
    return [band for band in bands if band.epochs]


def _curve(run: Run, field: Callable[[EpochRecord], float | None]) -> dict[int, float]:
    return {epoch.epoch: value for epoch in run.epochs if (value := field(epoch)) is not None and np.isfinite(value)}


def search_figures(search: SearchRecord) -> Iterator[ReportFigure]:
    """What a search says of its parameters, alone and in pairs; of those with numbers or names as values."""
    trials, stem = measured(search.trials), _stem(search.name)
    if search.effects:
        spoken = "; ".join(f"{e.name} {e.share:.0%}, by chance {e.by_chance:.0%}" for e in search.effects)
        alt = f"Share of the variance between trials that each parameter explains: {spoken}."
        title = "Importance of each parameter, and what chance gives"
        yield ReportFigure(search.name, f"{stem}_importances", title, alt, draw.importances(search.effects))
    groups = grouped(search.space, trials)
    names = [name for name in search.space if all(isinstance(values[name], int | float | str) for values, _ in groups)]
    choices = {name: sorted({values[name] for values, _ in groups}) for name in names} if trials else {}
    for name, centres in choices.items():
        means = [float(np.mean([accuracy for values, accuracy in groups if values[name] == c])) for c in centres]
        spoken = "; ".join(f"{number(c)} {percent(mean)}" for c, mean in zip(centres, means, strict=True))
        alt = f"Validation accuracy of all trials by {name}; means: {spoken}."
        title = f"Validation accuracy by {name}, all else mixed"
        figure = draw.marginal(
            name, [(values[name], a) for values, a in trials], list(zip(centres, means, strict=True))
        )
        yield ReportFigure(search.name, f"{stem}_{name}", title, alt, figure)
    for first, second in itertools.combinations([name for name in choices if len(choices[name]) > 1], 2):
        cells = mean_cells(groups, (first, choices[first]), (second, choices[second]))
        alt = f"Mean validation accuracy for {first} and {second}, with means at the margins: " + "; ".join(
            f"{first} {number(v)} {' / '.join(f'{100 * c:.2f}' for c in row)}"
            for v, row in zip(choices[first], cells[:-1], strict=True)
        )
        figure = draw.heat_map(cells, (first, choices[first]), (second, choices[second]))
        title = f"{first} and {second}: mean validation accuracy in %"
        yield ReportFigure(search.name, f"{stem}_{first}_{second}", title, alt, figure)


def _stem(section: str) -> str:
    """The beginning of the file names of a section's figures."""
    return re.sub(r"[^\w.-]+", "-", section)


def _trade_off(record: FilesRecord) -> ReportFigure:
    cost = trade_off_points(record)
    spoken = "; ".join(f"{p.label} {p.accuracy:.2%} at {1000 * p.seconds:.3g} ms" for p in cost)
    front = ", ".join(p.label for p in cost if p.on_front)
    alt = f"Test accuracy against latency for one image: {spoken}. On the Pareto front: {front}."
    title = "Accuracy against latency; filled: no other is both as fast and as accurate"
    return ReportFigure(
        record.name, f"{_stem(record.name)}_latency", title, alt, draw.accuracy_against_time(cost, latency=True)
    )


def trade_off_points(record: FilesRecord) -> list[draw.CostPoint]:
    """Latency and accuracy of models that were measured side by side."""
    return [
        draw.CostPoint(
            f"{row.file}, {row.runtime.partition(',')[0]}",
            row.latency_p50,
            row.accuracy,
            (row.accuracy_interval[1] - row.accuracy_interval[0]) / 2,
            row.on_front,
        )
        for row in record.rows
    ]


def mean_cells(
    trials: Sequence[Trial], rows: tuple[str, Sequence[float]], columns: tuple[str, Sequence[float]]
) -> NDArray[np.float64]:
    """(R + 1, C + 1) means over trials with each pair of values, and at the end with any; NaN where there are none."""
    cells = np.full((len(rows[1]) + 1, len(columns[1]) + 1), np.nan)
    for (i, a), (j, b) in itertools.product(enumerate([*rows[1], None]), enumerate([*columns[1], None])):
        found = [v for values, v in trials if a in (None, values[rows[0]]) and b in (None, values[columns[0]])]
        if found:
            cells[i, j] = np.mean(found)
    return cells


def _featured(chosen: FeaturedRun, study: Study) -> Iterator[ReportFigure]:
    run, section = chosen.run, "featured"
    if run.epochs:
        rows = [EpochRow(e.epoch, e.train_loss, e.train_accuracy, *e.selection_metrics(), lr=e.lr) for e in run.epochs]
        last = rows[-1]
        held_out = "test" if run.row.protocol == "original" else "validation"
        alt = f"Learning curves over {len(rows)} epochs: training accuracy ends at {percent(last.train_accuracy)}"
        alt += f", {held_out} accuracy at {percent(last.val_accuracy)}; epoch {run.row.selected_epoch} was kept."
        title = f"Training and {held_out}, over epochs"
        yield ReportFigure(section, "learning", title, alt, learning_curve(rows, run.row.selected_epoch, held_out))
    if run.evaluation is not None:
        classes = [row.name for row in run.evaluation.per_class]
        counts = run.evaluation.confusion
        wrong = counts - np.diag(np.diag(counts))
        true, predicted = np.unravel_index(wrong.argmax(), wrong.shape)
        alt = f"Confusion matrix of the test set: {np.trace(counts)} of {counts.sum()} right"
        if wrong.any():
            alt += f"; most often, {wrong.max()} times, {classes[true]} was taken for {classes[predicted]}"
        yield ReportFigure(section, "confusion", "Confusion matrix", f"{alt}.", confusion_matrix(counts, classes))
        error = run.evaluation.expected_calibration_error
        alt = f"Reliability diagram of the test set; the expected calibration error is {error:.2%}."
        yield ReportFigure(section, "calibration", "Calibration", alt, calibration_diagram(run.evaluation.calibration))
    mistakes = study.folder / run.row.path / "mistakes_test.png"
    if mistakes.is_file():
        alt = "Test images with true and predicted class: the most confident mistakes, then the least certain images."
        title = "The most confident mistakes and the least certain images"
        yield ReportFigure(section, "mistakes", title, alt, mistakes.read_bytes())
    kernels, patches = learned_weights(RunDir(study.folder / run.row.path).weights)
    if kernels:
        sizes = number(sorted({k.shape[-1] for k in kernels}))
        alt = f"Learned depthwise kernels of size {sizes}, some channels of each of {len(kernels)} blocks."
        title = "Depthwise kernels: blue positive, orange negative"
        yield ReportFigure(section, "kernels", title, alt, kernel_sheet(kernels))
    if patches is not None:
        alt = f"Learned patch embeddings as images of {patches.shape[2]}×{patches.shape[3]} pixels."
        yield ReportFigure(section, "patches", "Patch embeddings", alt, embedding_sheet(patches))


def learned_weights(path: Any) -> tuple[list[NDArray[np.float64]], NDArray[np.float64] | None]:
    """Depthwise kernels (dim, k, k) of each block, in order; patch embeddings (dim, C, p, p) where C is 1 or 3."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        state = load(read_record(path) or b"")
    except (InputError, SafetensorError):
        return [], None
    blocks = {
        int(match[1]): weight[:, 0].double().numpy()
        for name, weight in state.items()
        if (match := re.match(r"blocks\.(\d+)\.0\.", name))
        and weight.dim() == 4
        and weight.shape[1] == 1 < weight.shape[2]
    }
    stem = state.get("stem.0.weight")
    patches = stem.double().numpy() if stem is not None and stem.shape[1] in (1, 3) else None
    return [blocks[number] for number in sorted(blocks)], patches
