"""Which pictures a report has: data taken from its records first, drawn second, each with words that say the same.

A picture's alt text is made from the same data as the picture.
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
from convmixer.report.grid import Trial, grouped, measured
from convmixer.report.insight import points
from convmixer.report.records import ComparisonRow, ExperimentRecord, GridRecord, StudyRecord
from convmixer.runs import EpochRecord
from convmixer.utils import study_figures as draw
from convmixer.utils.visualization import calibration_diagram, confusion_matrix

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Picture:
    """A figure with what belongs to it: ``name`` is its file's, ``section`` the record's that it is about."""

    section: str
    name: str
    title: str
    alt: str
    figure: Figure


@dataclass(frozen=True)
class Portrait:
    """The run whose predictions and weights are shown."""

    run: Run
    label: str


def draw_pictures(record: StudyRecord, study: Study) -> list[Picture]:
    """All pictures of a report, in its order."""
    pictures: list[Picture] = []
    for experiment in record.experiments:
        pictures += _experiment(experiment, study)
    if record.grid is not None:
        pictures += _grid(record.grid)
    chosen = portrait(record, study)
    if chosen is not None:
        pictures += _portrait(chosen, study)
    return pictures


def portrait(record: StudyRecord, study: Study) -> Portrait | None:
    """The first seed of the row with the best mean validation accuracy; None if no run is finished."""
    rows = [(e.name, row) for e in record.experiments for row in e.rows]
    if record.grid is not None and record.grid.winner is not None:
        rows.append((record.grid.name, record.grid.winner))
    rows = [(name, row) for name, row in rows if row.test_accuracy is not None]
    if not rows:
        return None
    # Without a validation part there is nothing but the order to choose by: the test set is not for choosing.
    name, best = max(rows, key=lambda entry: entry[1].val_accuracy.mean if entry[1].val_accuracy else 0.0)
    path = next(path for path in best.runs if study.runs[path].row.status == "finished")
    return Portrait(study.runs[path], f"{name}: {best.label}")


def _experiment(experiment: ExperimentRecord, study: Study) -> Iterator[Picture]:
    section = experiment.name
    if cost := cost_points(experiment.rows):
        spoken = "; ".join(f"{p.label} {p.accuracy:.2%} at {p.seconds:.3g} s" for p in cost)
        front = ", ".join(p.label for p in cost if p.on_front)
        alt = f"Test accuracy against epoch time: {spoken}. On the Pareto front: {front}."
        title = "Accuracy against time; filled: no other row is both as fast and as accurate"
        yield Picture(section, f"{section}_time", title, alt, draw.accuracy_against_time(cost))
    if compared := difference_points(experiment.rows):
        spoken = "; ".join(f"{p.label} {points(p.difference)}{_spoken_half(p.half_width)}" for p in compared)
        alt = f"Differences to {experiment.base} in points: {spoken}."
        figure = draw.differences(compared, "the document, one run")
        title = f"Difference to {experiment.base}, 95 % interval over seeds"
        yield Picture(section, f"{section}_differences", title, alt, figure)
    for name, title, percent, field in _CURVES:
        bands = curve_bands(experiment.rows, study, field)
        if bands:
            spoken = "; ".join(f"{b.label} ends at {_shown(b.mean[-1], percent)}" for b in bands)
            alt = f"{title} over epochs: {spoken}."
            figure = draw.curve_bands(bands, title.lower(), percent=percent)
            yield Picture(section, f"{section}_{name}", f"{title}: mean and range over seeds", alt, figure)


_CURVES: tuple[tuple[str, str, bool, Callable[[EpochRecord], float | None]], ...] = (
    ("held_out", "Held-out accuracy", True, lambda epoch: epoch.selection_metrics()[1]),
    ("loss", "Training loss", False, lambda epoch: epoch.train_loss),
)


def _shown(value: float, percent: bool) -> str:
    return f"{value:.2%}" if percent else f"{value:.3f}"


def _spoken_half(half: float | None) -> str:
    return f" ± {100 * half:.2f}" if half is not None else ""


def cost_points(rows: Sequence[ComparisonRow]) -> list[draw.CostPoint]:
    """The rows that have both a time and an accuracy."""
    return [
        draw.CostPoint(r.label, r.epoch_seconds, r.test_accuracy.mean, r.test_accuracy.half_width, r.on_front)
        for r in rows
        if r.epoch_seconds is not None and r.test_accuracy is not None
    ]


def difference_points(rows: Sequence[ComparisonRow]) -> list[draw.DifferencePoint]:
    """The rows that were compared with the base; the document's difference where it is about the same images."""
    base = next((row for row in rows if row.is_base), None)
    return [
        draw.DifferencePoint(row.label, row.difference.mean, row.difference.half_width, document_change(row, base))
        for row in rows
        if row.difference is not None
    ]


def document_change(row: ComparisonRow, base: ComparisonRow | None) -> float | None:
    """The document's test accuracy of a row minus its base's; None unless ours are of CIFAR-10's images as well."""
    if base is None or row.document_difference is None or base.document_difference is None:
        return None
    assert row.document is not None
    assert base.document is not None
    return (row.document.test_accuracy or 0.0) - (base.document.test_accuracy or 0.0)


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


def _grid(grid: GridRecord) -> Iterator[Picture]:
    trials = measured(grid.trials)
    if grid.effects:
        spoken = "; ".join(f"{e.name} {e.share:.0%}, by chance {e.by_chance:.0%}" for e in grid.effects)
        alt = f"Part of the variance between trials that each parameter explains: {spoken}."
        title = "Importance of each parameter, and what chance gives"
        yield Picture(grid.name, f"{grid.name}_importances", title, alt, draw.importances(grid.effects))
    groups = grouped(grid.space, trials)
    choices = {name: sorted({values[name] for values, _ in groups}) for name in grid.space} if trials else {}
    for name, centres in choices.items():
        means = [float(np.mean([accuracy for values, accuracy in groups if values[name] == c])) for c in centres]
        spoken = "; ".join(f"{c:.4g} {mean:.2%}" for c, mean in zip(centres, means, strict=True))
        alt = f"Validation accuracy of all trials by {name}; means: {spoken}."
        title = f"Validation accuracy by {name}, all else mixed"
        figure = draw.marginal(
            name, [(values[name], a) for values, a in trials], list(zip(centres, means, strict=True))
        )
        yield Picture(grid.name, f"{grid.name}_{name}", title, alt, figure)
    for first, second in itertools.combinations([name for name in choices if len(choices[name]) > 1], 2):
        cells = mean_cells(groups, (first, choices[first]), (second, choices[second]))
        alt = f"Mean validation accuracy for {first} and {second}, with means at the margins: " + "; ".join(
            f"{first} {v:.4g} {' / '.join(f'{100 * c:.2f}' for c in row)}"
            for v, row in zip(choices[first], cells[:-1], strict=True)
        )
        figure = draw.heat_map(cells, (first, choices[first]), (second, choices[second]))
        title = f"{first} and {second}: mean validation accuracy in %"
        yield Picture(grid.name, f"{grid.name}_{first}_{second}", title, alt, figure)


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


def _portrait(chosen: Portrait, study: Study) -> Iterator[Picture]:
    run, section = chosen.run, "portrait"
    if run.evaluation is not None:
        classes = [row.name for row in run.evaluation.per_class]
        counts = run.evaluation.confusion
        wrong = counts - np.diag(np.diag(counts))
        true, predicted = np.unravel_index(wrong.argmax(), wrong.shape)
        alt = (
            f"Confusion matrix of the test set: {np.trace(counts)} of {counts.sum()} right; most often, "
            f"{wrong.max()} times, {classes[true]} was taken for {classes[predicted]}."
        )
        yield Picture(section, "confusion", "Confusion matrix", alt, confusion_matrix(counts, classes))
        error = run.evaluation.expected_calibration_error
        alt = f"Reliability diagram of the test set; the expected calibration error is {error:.2%}."
        yield Picture(section, "calibration", "Calibration", alt, calibration_diagram(run.evaluation.calibration))
    kernels, patches = learned_weights(study.folder / run.row.path / "model.safetensors")
    if kernels:
        k = kernels[0].shape[-1]
        alt = f"Learned depthwise kernels, {k}×{k} weights each, some channels of each of {len(kernels)} blocks."
        title = "Depthwise kernels: blue positive, orange negative"
        yield Picture(section, "kernels", title, alt, draw.kernel_sheet(kernels))
    if patches is not None:
        alt = f"Learned patch embeddings as pictures of {patches.shape[2]}×{patches.shape[3]} pixels."
        yield Picture(section, "patches", "Patch embeddings", alt, draw.embedding_sheet(patches))


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
