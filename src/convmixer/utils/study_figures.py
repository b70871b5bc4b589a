"""Figures of a study: comparisons over seeds, searches, learned weights. Typed rows in, a matplotlib figure out.

Each is 4.5 inches wide: texts keep their size on a phone, and two stand side by side on a desk. Panels have a fixed
height, whatever the number of rows; the legend below is measured.
"""

from __future__ import annotations

import functools
import math
import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from convmixer.utils.comparisons import MainEffect
from convmixer.utils.formatting import duration, half_width, number, percent, points
from convmixer.utils.visualization import (
    BLUE,
    HEAT,
    INK,
    LINE,
    ORANGE,
    SERIES,
    TIPS_PER_LINE,
    WHITE,
    add_tips,
    epoch_ticks,
    styled,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_WIDTH, _HEIGHT = 4.5, 3.3
_DASHES = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (6, 1.5, 1.5, 1.5)))
_LEGEND_FONT = 8.5
_LEGEND_TEXT = 3.75
_OTHERS = "#b3bcc7"


@dataclass(frozen=True)
class Band:
    """A metric over epochs, of several runs: at each epoch the mean, the lowest and the highest."""

    label: str
    epochs: tuple[int, ...]
    mean: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    highlighted: bool = True
    """In a colour of its own and in the legend; else grey among the others."""


def band(label: str, runs: Sequence[Mapping[int, float]], highlighted: bool = True) -> Band:
    """Summarises epoch → value of several runs over the epochs that all of them have."""
    shared = sorted(set.intersection(*(set(run) for run in runs))) if runs else []
    values = [[run[epoch] for run in runs] for epoch in shared]
    return Band(
        label,
        tuple(shared),
        tuple(math.fsum(group) / len(group) for group in values),
        tuple(min(group) for group in values),
        tuple(max(group) for group in values),
        highlighted,
    )


def curve_bands(bands: Sequence[Band], ylabel: str, *, is_share: bool) -> Figure:
    """A line for each band; highlighted ones with their range shaded, in a colour and dashes of their own."""
    with styled() as new:
        figure = new(figsize=(_WIDTH, _HEIGHT), layout="constrained")
        axes = figure.add_subplot()
        others = [row for row in bands if not row.highlighted]
        for i, row in enumerate(others):
            label = f"{len(others)} others" if i == 0 else None
            axes.plot(row.epochs, row.mean, color=_OTHERS, linewidth=0.8, marker=_dot(row), markersize=3, label=label)
        for i, row in enumerate(row for row in bands if row.highlighted):
            colour, style = SERIES[i % len(SERIES)], _DASHES[i // len(SERIES) % len(_DASHES)]
            axes.plot(
                row.epochs, row.mean, color=colour, linestyle=style, marker=_dot(row), linewidth=1.7, label=row.label
            )
            axes.fill_between(row.epochs, row.low, row.high, color=colour, alpha=0.16, linewidth=0)
            step = -(-len(row.epochs) // TIPS_PER_LINE)
            shown = list(zip(row.epochs, row.mean, strict=True))[::-step]
            write = percent if is_share else "{:.3f}".format
            add_tips(axes, [(epoch, value, f"{row.label}, epoch {epoch}: {write(value)}") for epoch, value in shown])
        axes.set(xlabel="epoch", ylabel=ylabel)
        axes.set_xticks(epoch_ticks(min(row.epochs[0] for row in bands), max(row.epochs[-1] for row in bands)))
        if is_share:
            _percent(axes.yaxis)
        _legend_below(figure, axes)
    return figure


def _dot(row: Band) -> str:
    return "o" if len(row.epochs) == 1 else ""


@dataclass(frozen=True)
class CostPoint:
    """A row's cost and worth: seconds that it takes and accuracy ± ``half_width`` (None: no useful interval)."""

    label: str
    seconds: float
    accuracy: float
    half_width: float | None
    on_front: bool
    highlighted: bool = True


def accuracy_against_time(rows: Sequence[CostPoint], *, latency: bool = False) -> Figure:
    """Accuracy over time with the Pareto front as a step: nothing was seen above it or left of it.

    Args:
        rows: points.
        latency: the time is that of an image, and shown in milliseconds; else that of an epoch, in seconds.
    """
    scale = 1000 if latency else 1
    with styled() as new:
        figure = new(figsize=(_WIDTH, _HEIGHT), layout="constrained")
        axes = figure.add_subplot()
        front = sorted((p for p in rows if p.on_front), key=lambda point: point.seconds)
        steps = [scale * p.seconds for p in front], [p.accuracy for p in front]
        axes.step(*steps, where="post", color=LINE, linewidth=1.4, label="Pareto front" if latency else None)
        others = [point for point in rows if not point.highlighted]
        if others:
            values = [scale * p.seconds for p in others], [p.accuracy for p in others]
            axes.plot(*values, "o", color=_OTHERS, markersize=4, label=f"{len(others)} others")
        for i, point in enumerate(point for point in rows if point.highlighted):
            colour, half = SERIES[i % len(SERIES)], point.half_width or 0.0
            axes.errorbar(
                scale * point.seconds,
                point.accuracy,
                yerr=[[min(half, point.accuracy)], [min(half, 1 - point.accuracy)]],
                fmt="o" if i < len(SERIES) else "s",
                color=colour,
                markerfacecolor=colour if point.on_front else WHITE,
                markersize=7,
                elinewidth=1.2,
                label=point.label,
            )
        add_tips(axes, [(scale * p.seconds, p.accuracy, _told(p, latency)) for p in rows])
        axes.margins(0.12)
        axes.set_ylim(max(axes.get_ylim()[0], 0.0), min(axes.get_ylim()[1], 1.0))
        axes.set(xlabel="milliseconds for one image" if latency else "seconds per epoch", ylabel="test accuracy")
        apart = 5 if latency else 20
        if len(rows) > 1 and max(p.seconds for p in rows) > apart * min(p.seconds for p in rows) > 0:
            _logarithmic(axes)
        _percent(axes.yaxis)
        _legend_below(figure, axes)
    return figure


def _told(point: CostPoint, latency: bool) -> str:
    worth = f"{percent(point.accuracy)}{half_width(point.half_width)}"
    time = f"{1000 * point.seconds:.3g} ms" if latency else duration(point.seconds)
    return f"{point.label}: {worth} at {time}"


@dataclass(frozen=True)
class DifferencePoint:
    """A row's difference to the base ± ``half_width``, and what another study says of it (``other``)."""

    label: str
    difference: float
    half_width: float | None
    other: float | None


def differences(rows: Sequence[DifferencePoint], other: str) -> Figure:
    """Differences with their intervals beside zero, one below the other; diamonds are the other study's."""
    with styled() as new:
        figure = new(figsize=(_WIDTH, 0.9 + 0.42 * len(rows)), layout="constrained")
        axes = figure.add_subplot()
        heights = list(range(len(rows)))
        axes.axvline(0.0, color=INK, linewidth=1.0)
        for y, point in zip(heights, rows, strict=True):
            half = 100 * (point.half_width or 0.0)
            axes.errorbar(100 * point.difference, y, xerr=half, fmt="o", color=BLUE, markersize=6, elinewidth=2.2)
            text = f"{point.label}: {points(point.difference)}{half_width(point.half_width)} points"
            add_tips(axes, [(100 * point.difference, y, text)])
        known = [(100 * p.other, y, p.label) for y, p in zip(heights, rows, strict=True) if p.other is not None]
        if known:
            axes.plot([x for x, _, _ in known], [y for _, y, _ in known], "D", color=ORANGE, markersize=5, label=other)
            add_tips(axes, [(x, y, f"{label}, {other}: {points(x / 100)} points") for x, y, label in known])
        axes.set_yticks(heights, [textwrap.fill(point.label, 22) for point in rows])
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.grid(axis="y", visible=False)
        axes.set_xlabel("percentage points of test accuracy")
        _legend_below(figure, axes)
    return figure


def heat_map(cells: ArrayLike, rows: tuple[str, Sequence[Any]], columns: tuple[str, Sequence[Any]]) -> Figure:
    """Mean accuracies for pairs of values; the last row and column are means over all values.

    Args:
        cells: (R + 1, C + 1) fractions; NaN where nothing was measured.
        rows: what the rows are, and their R values.
        columns: what the columns are, and their C values.
    """
    values = np.asarray(cells, dtype=np.float64)
    with styled() as new:
        import seaborn as sns

        height = 1.3 + 0.5 * len(values)
        figure = new(figsize=(_WIDTH, height), layout="constrained")
        axes = figure.add_subplot()
        annotations = np.vectorize(lambda v: "" if math.isnan(v) else f"{100 * v:.2f}")(values)
        axes.grid(visible=False)
        sns.heatmap(
            values,
            ax=axes,
            cmap=sns.light_palette(HEAT, as_cmap=True),
            annot=annotations,
            fmt="",
            annot_kws={"fontsize": 9.0},
            linewidths=0.8,
            cbar=False,
            xticklabels=[*map(number, columns[1]), "mean"],
            yticklabels=[*map(number, rows[1]), "mean"],
        )
        axes.hlines(len(values) - 1, *axes.get_xlim(), color=INK, linewidth=1.2)
        axes.vlines(values.shape[1] - 1, *axes.get_ylim(), color=INK, linewidth=1.2)
        axes.tick_params(axis="both", rotation=0, length=0)
        axes.set(xlabel=columns[0], ylabel=rows[0])
    return figure


def marginal(name: str, trials: Sequence[tuple[Any, float]], means: Sequence[tuple[Any, float]]) -> Figure:
    """Accuracy of every trial over one parameter's values, and the means of groups of values.

    Args:
        name: of the parameter.
        trials: its value and the accuracy, a fraction.
        means: centre and mean accuracy of each group, by rising centre.
    """
    values, centres = [value for value, _ in trials], [centre for centre, _ in means]
    with styled() as new:
        figure = new(figsize=(_WIDTH, 3.0), layout="constrained")
        axes = figure.add_subplot()
        axes.plot(values, [a for _, a in trials], "o", color=BLUE, alpha=0.45, label="a trial")
        axes.plot(centres, [mean for _, mean in means], color=ORANGE, marker="D", markersize=5, label="mean")
        add_tips(axes, [(value, a, f"{name} {number(value)}: {percent(a)}") for value, a in trials])
        if not isinstance(values[0], str) and min(values) > 0 and max(values) >= 4 * min(values):
            _logarithmic(axes)
        if set(values) == set(centres):
            axes.set_xticks(centres, list(map(number, centres)))
            axes.set_xticks([], minor=True)
        axes.set(xlabel=name, ylabel="validation accuracy")
        axes.margins(x=0.1)
        _percent(axes.yaxis)
        _legend_below(figure, axes)
    return figure


def importances(effects: Sequence[MainEffect]) -> Figure:
    """The share of the variance that each parameter explains; a mark shows what chance alone gives."""
    with styled() as new:
        figure = new(figsize=(_WIDTH, 0.9 + 0.42 * len(effects)), layout="constrained")
        axes = figure.add_subplot()
        heights = range(len(effects))
        axes.barh(heights, [e.share for e in effects], height=0.55, color=BLUE)
        axes.plot(
            [e.by_chance for e in effects],
            heights,
            "|",
            color=ORANGE,
            markersize=17,
            markeredgewidth=2.4,
            label="by chance",
        )
        axes.set_yticks(heights, [e.name for e in effects])
        axes.set_ylim(len(effects) - 0.4, -0.6)
        axes.grid(axis="y", visible=False)
        axes.set(xlabel="share of the variance between trials")
        _percent(axes.xaxis)
        _legend_below(figure, axes)
    return figure


def _percent(axis: Any) -> None:
    from matplotlib.ticker import PercentFormatter

    axis.set_major_formatter(PercentFormatter(1.0))


def _logarithmic(axes: Axes) -> None:
    """A logarithmic x axis with plain numbers: 0.001, 0.01, 0.1."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    low, high = axes.dataLim.intervalx
    few = math.log10(high / low) < 2
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if few else (1.0,), numticks=8))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _legend_below(figure: Figure, axes: Axes) -> None:
    """A legend under the axes, which hides no data; the figure grows by what it needs."""
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    entries = list(zip(*axes.get_legend_handles_labels(), strict=True))
    if not entries:
        return
    entries.sort(key=lambda entry: bool(re.fullmatch(r"\d+ others", entry[1])))
    handles, labels = zip(*entries, strict=True)
    columns = 2 if len(labels) > 1 and max(map(_text_width, labels)) < 0.42 * _LEGEND_TEXT else 1
    wrapped = [_wrapped(label, _LEGEND_TEXT) for label in labels]
    legend = figure.legend(handles, wrapped, loc="lower left", ncols=columns, fontsize=_LEGEND_FONT)
    below = legend.get_window_extent().height / figure.dpi
    height = figure.get_figheight() + below
    figure.set_figheight(height)
    engine = figure.get_layout_engine()
    assert isinstance(engine, ConstrainedLayoutEngine)
    engine.set(rect=(0.0, below / height, 1.0, 1.0 - below / height))


def _wrapped(text: str, width: float) -> str:
    """``text`` with line breaks where it would be wider than ``width`` inches: between words, else within one."""
    lines, line = [], ""
    for word in text.split(" "):
        joined = f"{line} {word}" if line else word
        if line and _text_width(joined) > width:
            lines.append(line)
            joined = word
        while _text_width(joined) > width:
            cut = next(i for i in range(len(joined) - 1, 0, -1) if _text_width(joined[:i]) <= width)
            lines.append(joined[:cut])
            joined = joined[cut:]
        line = joined
    return "\n".join([*lines, line])


@functools.lru_cache(4096)
def _text_width(text: str) -> float:
    """Inches that the legend's font needs; ``styled`` has to be in force."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextToPath

    width, _, _ = TextToPath().get_text_width_height_descent(text, FontProperties(size=_LEGEND_FONT), ismath=False)
    return float(width) / 72
