"""Figures of a study: comparisons over seeds, grid searches, learned weights. Typed rows in, a matplotlib figure out.

Each is 4.5 inches wide, so that its texts keep their size on a phone and two stand side by side on a desk.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from convmixer.utils.metrics import MainEffect
from convmixer.utils.visualization import BLUE, HEAT, INK, LINE, ORANGE, SERIES, WHITE, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_WIDTH = 4.5
_DASHES = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (6, 1.5, 1.5, 1.5)))


@dataclass(frozen=True)
class Band:
    """A figure over epochs, of several runs: at each epoch the mean, the lowest and the highest."""

    label: str
    epochs: tuple[int, ...]
    mean: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]


def band(label: str, runs: Sequence[Mapping[int, float]]) -> Band:
    """Summarises epoch → value of several runs over the epochs that all of them have."""
    shared = sorted(set.intersection(*(set(run) for run in runs))) if runs else []
    values = [[run[epoch] for run in runs] for epoch in shared]
    return Band(
        label,
        tuple(shared),
        tuple(math.fsum(group) / len(group) for group in values),
        tuple(min(group) for group in values),
        tuple(max(group) for group in values),
    )


def curve_bands(bands: Sequence[Band], ylabel: str, *, percent: bool) -> Figure:
    """A line for each band with its range shaded, in its own colour and dashes."""
    with styled() as new:
        from matplotlib.ticker import MaxNLocator

        figure = new(figsize=(_WIDTH, 3.6), layout="constrained")
        axes = figure.add_subplot()
        for i, row in enumerate(bands):
            colour = SERIES[i % len(SERIES)]
            style = _DASHES[i // len(SERIES) % len(_DASHES)]
            marker = "o" if len(row.epochs) == 1 else ""
            axes.plot(
                row.epochs, row.mean, color=colour, linestyle=style, marker=marker, linewidth=1.7, label=row.label
            )
            axes.fill_between(row.epochs, row.low, row.high, color=colour, alpha=0.16, linewidth=0)
        axes.set(xlabel="epoch", ylabel=ylabel)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        if percent:
            _percent(axes.yaxis)
        _legend_below(figure, len(bands))
    return figure


@dataclass(frozen=True)
class CostPoint:
    """A row's cost and worth: seconds an epoch takes and accuracy ± ``half_width`` (None: one seed)."""

    label: str
    seconds: float
    accuracy: float
    half_width: float | None
    on_front: bool


def accuracy_against_time(points: Sequence[CostPoint]) -> Figure:
    """Accuracy over epoch time with the Pareto front as a step: nothing was seen above it or left of it."""
    with styled() as new:
        figure = new(figsize=(_WIDTH, 3.6), layout="constrained")
        axes = figure.add_subplot()
        front = sorted((p for p in points if p.on_front), key=lambda point: point.seconds)
        axes.step([p.seconds for p in front], [p.accuracy for p in front], where="post", color=LINE, linewidth=1.4)
        for i, point in enumerate(points):
            colour = SERIES[i % len(SERIES)]
            fill = colour if point.on_front else WHITE
            yerr = point.half_width or 0.0
            axes.errorbar(
                point.seconds,
                point.accuracy,
                yerr=yerr,
                fmt="o",
                color=colour,
                markerfacecolor=fill,
                markersize=7,
                elinewidth=1.2,
                label=point.label,
            )
        axes.margins(0.12)
        axes.set_ylim(max(axes.get_ylim()[0], 0.0), min(axes.get_ylim()[1], 1.0))
        axes.set(xlabel="seconds an epoch", ylabel="test accuracy")
        _percent(axes.yaxis)
        _legend_below(figure, len(points))
    return figure


@dataclass(frozen=True)
class DifferencePoint:
    """A row's difference to the base ± ``half_width``, and what another study says of it (``other``)."""

    label: str
    difference: float
    half_width: float | None
    other: float | None


def differences(points: Sequence[DifferencePoint], other: str) -> Figure:
    """Differences with their intervals beside zero, one below the other; diamonds are the other study's."""
    with styled() as new:
        figure = new(figsize=(_WIDTH, 1.3 + 0.42 * len(points)), layout="constrained")
        axes = figure.add_subplot()
        heights = list(range(len(points)))
        axes.axvline(0.0, color=INK, linewidth=1.0)
        for y, point in zip(heights, points, strict=True):
            half = 100 * (point.half_width or 0.0)
            axes.errorbar(100 * point.difference, y, xerr=half, fmt="o", color=BLUE, markersize=6, elinewidth=2.2)
        known = [(100 * p.other, y) for y, p in zip(heights, points, strict=True) if p.other is not None]
        if known:
            axes.plot(*zip(*known, strict=True), "D", color=ORANGE, markersize=5, label=other)
            _legend_below(figure, 1)
        axes.set_yticks(heights, [textwrap.fill(point.label, 22) for point in points])
        axes.set_ylim(len(points) - 0.4, -0.6)
        axes.grid(axis="y", visible=False)
        axes.set_xlabel("percentage points of test accuracy")
    return figure


def heat_map(cells: ArrayLike, rows: tuple[str, Sequence[Any]], columns: tuple[str, Sequence[Any]]) -> Figure:
    """Mean accuracies for pairs of values; the last row and column are means over all values.

    Args:
        cells: (R + 1, C + 1) fractions; NaN where nothing was measured.
        rows: what the rows are, and their R values.
        columns: likewise.
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
            xticklabels=[*map(_shown, columns[1]), "mean"],
            yticklabels=[*map(_shown, rows[1]), "mean"],
        )
        axes.hlines(len(values) - 1, *axes.get_xlim(), color=INK, linewidth=1.2)
        axes.vlines(values.shape[1] - 1, *axes.get_ylim(), color=INK, linewidth=1.2)
        axes.tick_params(axis="both", rotation=0, length=0)
        axes.set(xlabel=columns[0], ylabel=rows[0])
    return figure


def marginal(name: str, trials: Sequence[tuple[float, float]], means: Sequence[tuple[float, float]]) -> Figure:
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
        if min(values) > 0 and max(values) >= 4 * min(values):
            axes.set_xscale("log")
        if set(values) == set(centres):
            axes.set_xticks(centres, [_shown(centre) for centre in centres])
            axes.set_xticks([], minor=True)
        axes.set(xlabel=name, ylabel="validation accuracy")
        axes.margins(x=0.1)
        _percent(axes.yaxis)
        _legend_below(figure, 2)
    return figure


def importances(effects: Sequence[MainEffect]) -> Figure:
    """The part of the variance that each parameter explains; a mark shows what chance alone gives."""
    with styled() as new:
        figure = new(figsize=(_WIDTH, 1.3 + 0.42 * len(effects)), layout="constrained")
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
        axes.set(xlabel="part of the variance between trials")
        _percent(axes.xaxis)
        _legend_below(figure, 1)
    return figure


def kernel_sheet(blocks: Sequence[ArrayLike], columns: int = 16) -> Figure:
    """Depthwise kernels, a row for each block: blue is positive, orange negative, each scaled by its largest weight.

    Args:
        blocks: (dim, k, k) each, k of its own; of more channels than ``columns`` some are shown, evenly spaced.
        columns: channels to show.
    """
    shown = [_spread(np.asarray(block, dtype=np.float64), columns) for block in blocks]
    side = max(block.shape[-1] for block in shown)
    tiles = [_framed(kernel / (np.abs(kernel).max() or 1.0), side) for block in shown for kernel in block]
    with styled() as new:
        from matplotlib.colors import LinearSegmentedColormap

        sheet = tiled(tiles, max(map(len, shown)))
        figure = new(figsize=(_WIDTH, 0.45 + _WIDTH * sheet.shape[0] / sheet.shape[1]), layout="constrained")
        axes = figure.add_subplot()
        colours = LinearSegmentedColormap.from_list("signed", [ORANGE, "#fbfaf8", BLUE])
        axes.imshow(sheet, cmap=colours, vmin=-1, vmax=1, interpolation="nearest")
        rows = range(len(shown))
        axes.set_yticks([(side + 1) * i + (side - 1) / 2 for i in rows], [f"{i + 1}" for i in rows])
        axes.set_ylabel("block")
        _bare(axes)
    return figure


def _framed(kernel: NDArray[np.float64], side: int) -> NDArray[np.float64]:
    """A smaller kernel in the middle of an empty square, at the same scale as the largest."""
    frame = np.full((side, side), np.nan)
    first = (side - kernel.shape[0]) // 2
    frame[first : first + kernel.shape[0], first : first + kernel.shape[1]] = kernel
    return frame


def embedding_sheet(weights: ArrayLike, columns: int = 16, limit: int = 64) -> Figure:
    """Patch embeddings as small pictures, all on one scale on which grey is 0; without colours for one channel.

    Args:
        weights: (dim, C, p, p), C of 1 or 3.
        columns: pictures in a row.
        limit: pictures at most, evenly spaced.
    """
    chosen = _spread(np.asarray(weights, dtype=np.float64), limit)
    pictures = np.clip(0.5 + 0.5 * chosen / (np.quantile(np.abs(chosen), 0.99) or 1.0), 0.0, 1.0)
    pictures = np.broadcast_to(pictures, (len(pictures), 3, *pictures.shape[2:])).transpose(0, 2, 3, 1)
    with styled() as new:
        sheet = tiled(list(pictures), min(columns, len(pictures)), gap=1)
        figure = new(figsize=(_WIDTH, 0.2 + _WIDTH * sheet.shape[0] / sheet.shape[1]), layout="constrained")
        axes = figure.add_subplot()
        opaque = ~np.isnan(sheet).any(axis=2, keepdims=True)
        axes.imshow(np.concatenate([np.nan_to_num(sheet), opaque], axis=2), interpolation="nearest")
        axes.set_yticks([])
        _bare(axes)
    return figure


def tiled(tiles: Sequence[ArrayLike], columns: int, gap: int = 1) -> NDArray[np.float64]:
    """Equal tiles (h, w) or (h, w, 3) side by side in rows of ``columns``; gaps and what is left over are NaN."""
    arrays = [np.asarray(tile, dtype=np.float64) for tile in tiles]
    h, w = arrays[0].shape[:2]
    rows = -(-len(arrays) // columns)
    sheet = np.full((rows * (h + gap) - gap, columns * (w + gap) - gap, *arrays[0].shape[2:]), np.nan)
    for i, tile in enumerate(arrays):
        y, x = i // columns * (h + gap), i % columns * (w + gap)
        sheet[y : y + h, x : x + w] = tile
    return sheet


def _spread(items: NDArray[np.float64], n: int) -> NDArray[np.float64]:
    """At most ``n`` items, the first and the last among them, evenly spaced."""
    index = np.unique(np.linspace(0, len(items) - 1, min(n, len(items))).round().astype(int))
    chosen: NDArray[np.float64] = items[index]
    return chosen


def _bare(axes: Axes) -> None:
    axes.grid(visible=False)
    axes.set_xticks([])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def _percent(axis: Any) -> None:
    from matplotlib.ticker import PercentFormatter

    axis.set_major_formatter(PercentFormatter(1.0))


def _legend_below(figure: Figure, entries: int) -> None:
    """A legend under the axes, which hides no data."""
    figure.legend(loc="outside lower left", ncols=min(entries, 2), fontsize=8.5)


def _shown(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
