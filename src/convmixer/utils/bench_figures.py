"""Figures of benchmarks: the roofline. Typed rows in, a matplotlib figure out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from convmixer.utils.visualization import BLUE, INK, LINE, MUTED, ORANGE, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_APART = 0.06  # of the panel's height, between two names


@dataclass(frozen=True)
class RooflinePoint:
    """What a competitor reaches."""

    name: str
    precision: str
    flops_per_byte: float
    flops_per_second: float
    ours: bool = False
    """Drawn to stand out."""


@dataclass(frozen=True)
class RooflinePanel:
    """One comparison and the machine under whose roof it was made."""

    title: str
    points: tuple[RooflinePoint, ...]
    gemm_flops_per_second: Mapping[str, float]
    """By precision, the flat part of the roof."""
    bytes_per_second: float
    """The slope of its rising part."""


def roofline(panels: Sequence[RooflinePanel]) -> Figure:
    """Operations in a second over operations for each byte, in log scales; the roof is the smaller of both limits.

    Raises:
        ValueError: no panels, or one without points.
    """
    if not panels or not all(panel.points for panel in panels):
        raise ValueError("a roofline needs at least one point in each panel.")
    columns = min(2, len(panels))
    rows = math.ceil(len(panels) / columns)
    with styled() as new:
        figure = new(figsize=(7.0 * columns, 4.4 * rows), layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False)
        for axes in grid.flat[len(panels) :]:
            axes.set_axis_off()
        for axes, panel in zip(grid.flat, panels, strict=False):
            _draw(axes, panel)
    return figure


def _draw(axes: Axes, panel: RooflinePanel) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    intensities = [point.flops_per_byte for point in panel.points]
    peaks, slope = panel.gemm_flops_per_second, panel.bytes_per_second
    left = min(*intensities, min(peaks.values()) / slope) / 3
    right = max(*intensities, max(peaks.values()) / slope) * 3
    lowest = min(left * slope, *(point.flops_per_second for point in panel.points))
    axes.set(xscale="log", yscale="log", xlim=(left, right), ylim=(lowest / 1.5, max(peaks.values()) * 2))
    axes.set(xlabel="operations per byte of least traffic", ylabel="operations per second", title=panel.title)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axis.set_major_formatter(FuncFormatter(lambda value, _: _si(value)))
        axis.set_minor_formatter(NullFormatter())
    colours = dict(zip(sorted(peaks, key=lambda name: -peaks[name]), (ORANGE, BLUE, INK), strict=False))
    axes.plot([left, max(peaks.values()) / slope], [left * slope, max(peaks.values())], color=MUTED, linewidth=1.4)
    place: dict[str, Any] = {"textcoords": "offset points", "fontsize": 8}
    axes.annotate(f"memory, {_si(slope)}B/s", (left, left * slope), (12, 1), color=MUTED, **place)
    above = math.inf
    for precision, rate in sorted(peaks.items(), key=lambda item: -item[1]):
        axes.plot([rate / slope, right], [rate, rate], color=colours[precision], linewidth=1.4)
        name, y = f"{precision} matrix product, {_si(rate)}FLOP/s", 3 if rate < 0.8 * above else -10
        axes.annotate(name, (right, rate), (-2, y), ha="right", color=colours[precision], **place)
        above = rate
    for point in panel.points:
        size = 7.0 if point.ours else 4.5
        style: dict[str, Any] = {"markersize": size, "markeredgewidth": 0.0, "color": colours[point.precision]}
        axes.plot(point.flops_per_byte, point.flops_per_second, "o", **style)
    _name(axes, panel.points, colours)


def _name(axes: Axes, points: Sequence[RooflinePoint], colours: Mapping[str, str]) -> None:
    """Names beside the panel, in the order of the points, each as close to its point's height as the others let it."""
    low, high = axes.get_ylim()
    ordered = sorted(points, key=lambda point: point.flops_per_second)
    wanted = [math.log(point.flops_per_second / low, high / low) for point in ordered]
    apart = min(_APART, 1.0 / len(points))
    heights = [min(height, 1.0 - apart * (len(points) - 1 - i)) for i, height in enumerate(wanted)]
    for i in range(1, len(heights)):
        heights[i] = max(heights[i], heights[i - 1] + apart)
    for point, height in zip(ordered, heights, strict=True):
        axes.annotate(
            f"{point.name}  {_si(point.flops_per_second)}",
            (point.flops_per_byte, point.flops_per_second),
            (1.03, height),
            textcoords="axes fraction",
            va="center",
            fontsize=8,
            color=colours[point.precision],
            weight="bold" if point.ours else "normal",
            arrowprops={"arrowstyle": "-", "color": LINE, "linewidth": 0.7, "relpos": (0.0, 0.5)},
            zorder=1,
        )


def _si(value: float) -> str:
    """1.5e12 → "1.5 T", a unit may follow."""
    power = min(5, max(0, math.floor(math.log10(value) / 3)))
    return f"{value / 1000**power:.3g} {' kMGTP'[power].strip()}" if power else f"{value:.3g}"
