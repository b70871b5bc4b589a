"""Which figures a report has: data taken from its records first, drawn second, each with words that say the same.

A figure's alt text is made from the same data as the figure.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from convmixer.report.collect import Run, Study
from convmixer.report.compare import Trial, grouped, measured
from convmixer.report.records import ComparisonRow, ExperimentRecord, SearchRecord, StudyRecord
from convmixer.runs import EpochRecord
from convmixer.utils import study_figures as draw
from convmixer.utils.formatting import half_width, number, percent, points
from convmixer.utils.visualization import calibration_diagram, confusion_matrix

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class ReportFigure:
    """A figure with what belongs to it: ``name`` is its file's, ``section`` the record's that it is about."""

    section: str
    name: str
    title: str
    alt: str
    figure: Figure


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
        found += _search(search)
    chosen = featured_run(record, study)
    if chosen is not None:
        found += _featured(chosen, study)
    return found


def _stem(section: str) -> str:
    """The beginning of the file names of a section's figures."""
    return re.sub(r"[^\w.-]+", "-", section)


def featured_run(record: StudyRecord, study: Study) -> FeaturedRun | None:
    """The first seed of the row with the best mean validation accuracy; None if no run is finished."""
    rows = [(e.name, row) for e in record.experiments for row in e.rows]
    rows += [(search.name, search.winner) for search in record.searches if search.winner is not None]
    rows = [(name, row) for name, row in rows if row.test_accuracy is not None]
    if not rows:
        return None
    # Without a validation part there is nothing but the order to choose by: the test set is not for choosing.
    name, best = max(rows, key=lambda entry: entry[1].val_accuracy.mean if entry[1].val_accuracy else 0.0)
    path = next(path for path in best.runs if study.runs[path].row.status == "finished")
    return FeaturedRun(study.runs[path], f"{name}: {best.label}")


def _experiment(experiment: ExperimentRecord, study: Study) -> Iterator[ReportFigure]:
    section, stem = experiment.name, _stem(experiment.name)
    if cost := cost_points(experiment.rows):
        spoken = "; ".join(f"{p.label} {p.accuracy:.2%} at {p.seconds:.3g} s" for p in cost)
        front = ", ".join(p.label for p in cost if p.on_front)
        alt = f"Test accuracy against epoch time: {spoken}. On the Pareto front: {front}."
        title = "Accuracy against time; filled: no other row is both as fast and as accurate"
        yield ReportFigure(section, f"{stem}_time", title, alt, draw.accuracy_against_time(cost))
    if compared := difference_points(experiment.rows):
        spoken = "; ".join(f"{p.label} {points(p.difference)}{half_width(p.half_width)}" for p in compared)
        alt = f"Differences to {experiment.base} in points: {spoken}."
        figure = draw.differences(compared, "published, one run")
        title = f"Difference to {experiment.base}, 95 % interval over seeds"
        yield ReportFigure(section, f"{stem}_differences", title, alt, figure)
    for name, title, is_share, field in _CURVES:
        bands = curve_bands(experiment.rows, study, field)
        if bands:
            spoken = "; ".join(f"{b.label} ends at {_value(b.mean[-1], is_share)}" for b in bands)
            alt = f"{title} over epochs: {spoken}."
            figure = draw.curve_bands(bands, title.lower(), percent=is_share)
            yield ReportFigure(section, f"{stem}_{name}", f"{title}: mean and range over seeds", alt, figure)


_CURVES: tuple[tuple[str, str, bool, Callable[[EpochRecord], float | None]], ...] = (
    ("held_out", "Held-out accuracy", True, lambda epoch: epoch.selection_metrics()[1]),
    ("loss", "Training loss", False, lambda epoch: epoch.train_loss),
)


def _value(value: float, is_share: bool) -> str:
    return percent(value) if is_share else f"{value:.3f}"


def cost_points(rows: Sequence[ComparisonRow]) -> list[draw.CostPoint]:
    """The rows that have both a time and an accuracy."""
    return [
        draw.CostPoint(r.label, r.epoch_seconds, test.mean, test.half_width if test.informative else None, r.on_front)
        for r in rows
        if r.epoch_seconds is not None and (test := r.test_accuracy) is not None
    ]


def difference_points(rows: Sequence[ComparisonRow]) -> list[draw.DifferencePoint]:
    """The rows that were compared with the base; a half width that says nothing is left out."""
    return [
        draw.DifferencePoint(row.label, found.mean, found.half_width if found.informative else None, found.published)
        for row in rows
        if (found := row.difference) is not None
    ]


def curve_bands(
    rows: Sequence[ComparisonRow], study: Study, field: Callable[[EpochRecord], float | None]
) -> list[draw.Band]:
    """A band for each row over its finished runs, or over all while none is finished; rows without figures left out."""
    bands = []
    for row in rows:
        runs = [study.runs[path] for path in row.runs]
        finished = [run for run in runs if run.row.status == "finished"]
        curves = [_curve(run, field) for run in finished or runs]
        bands.append(draw.band(row.label, [curve for curve in curves if curve]))
    return [band for band in bands if band.epochs]


def _curve(run: Run, field: Callable[[EpochRecord], float | None]) -> dict[int, float]:
    return {epoch.epoch: value for epoch in run.epochs if (value := field(epoch)) is not None and np.isfinite(value)}


def _search(search: SearchRecord) -> Iterator[ReportFigure]:
    trials, stem = measured(search.trials), _stem(search.name)
    if search.effects:
        spoken = "; ".join(f"{e.name} {e.share:.0%}, by chance {e.by_chance:.0%}" for e in search.effects)
        alt = f"Part of the variance between trials that each parameter explains: {spoken}."
        title = "Importance of each parameter, and what chance gives"
        yield ReportFigure(search.name, f"{stem}_importances", title, alt, draw.importances(search.effects))
    groups = grouped(search.space, trials)
    choices = {name: sorted({values[name] for values, _ in groups}) for name in search.space} if trials else {}
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
    if run.evaluation is not None:
        classes = [row.name for row in run.evaluation.per_class]
        counts = run.evaluation.confusion
        wrong = counts - np.diag(np.diag(counts))
        true, predicted = np.unravel_index(wrong.argmax(), wrong.shape)
        alt = (
            f"Confusion matrix of the test set: {np.trace(counts)} of {counts.sum()} right; most often, "
            f"{wrong.max()} times, {classes[true]} was taken for {classes[predicted]}."
        )
        yield ReportFigure(section, "confusion", "Confusion matrix", alt, confusion_matrix(counts, classes))
        error = run.evaluation.expected_calibration_error
        alt = f"Reliability diagram of the test set; the expected calibration error is {error:.2%}."
        yield ReportFigure(section, "calibration", "Calibration", alt, calibration_diagram(run.evaluation.calibration))
    kernels, patches = learned_weights(study.folder / run.row.path / "model.safetensors")
    if kernels:
        k = kernels[0].shape[-1]
        alt = f"Learned depthwise kernels, {k}×{k} weights each, some channels of each of {len(kernels)} blocks."
        title = "Depthwise kernels: blue positive, orange negative"
        yield ReportFigure(section, "kernels", title, alt, draw.kernel_sheet(kernels))
    if patches is not None:
        alt = f"Learned patch embeddings as pictures of {patches.shape[2]}×{patches.shape[3]} pixels."
        yield ReportFigure(section, "patches", "Patch embeddings", alt, draw.embedding_sheet(patches))


def learned_weights(path: Any) -> tuple[list[NDArray[np.float64]], NDArray[np.float64] | None]:
    """Depthwise kernels (dim, k, k) of each block, in order; patch embeddings (dim, C, p, p) where C is 1 or 3."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        state = load_file(path)
    except (OSError, SafetensorError):
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
