"""Figures: typed rows in, a matplotlib figure out, and one function that saves it.

No pyplot state and no display: figures are made and saved in any thread, in one style. Colours: blue and orange of
different lightness, told apart with any colour vision and in grey; where there are more series, dashes help.
"""

from __future__ import annotations

import functools
import io
import math
import re
import threading
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from convmixer.files import write_atomic
from convmixer.utils.formatting import percent
from convmixer.utils.metrics import CalibrationBin, expected_calibration_error

if TYPE_CHECKING:  # matplotlib takes half a second to import; only drawing needs it
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, MUTED, LINE, PANEL, WHITE = "#1d2939", "#566373", "#c5ced9", "#f4f6f9", "#ffffff"
BLUE, BLUE_TINT = "#2667a8", "#d6e6f5"
ORANGE, ORANGE_TINT = "#d97a1c", "#fbe3c8"
GREY_TINT = "#e9edf2"
GRID = "#e6eaef"
HEAT = "#225f9c"  # not BLUE: a page that exchanges colours leaves those of heat maps alone
SERIES = (BLUE, ORANGE, "#17836f", "#8450a8", "#b8385a", "#7a6418")

# DejaVu Sans comes with matplotlib and is the same on every machine; the others, where they are installed, have the
# scripts that it lacks.
_FONT = "DejaVu Sans"
_OTHER_SCRIPTS = (
    *(
        "Noto Sans CJK SC",
        "Noto Sans CJK JP",
        "Noto Sans SC",
        "Noto Sans JP",
        "WenQuanYi Zen Hei",
        "Droid Sans Fallback",
    ),
    *("PingFang SC", "Hiragino Sans", "Microsoft YaHei", "Yu Gothic", "Malgun Gothic", "Arial Unicode MS"),
    *("Noto Sans Devanagari", "Noto Sans Thai", "Noto Sans Bengali", "Noto Sans Tamil", "Nirmala UI", "Leelawadee UI"),
    *("Noto Emoji", "Symbola", "Segoe UI Emoji", "Noto Sans Symbols2"),
)

_STYLE: dict[str, Any] = {
    "font.size": 9.5,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.edgecolor": LINE,
    "axes.labelcolor": MUTED,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": GRID,
    "legend.frameon": False,
    "text.color": INK,
    "text.parse_math": False,  # a class may be called $1
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "figure.facecolor": WHITE,
    "savefig.dpi": 150,
    "svg.fonttype": "path",
    "svg.hashsalt": "convmixer",
}
_STYLE_LOCK = threading.RLock()  # matplotlib's settings are global to the process


@contextmanager
def styled() -> Iterator[type[Figure]]:
    """Our settings on top of matplotlib's defaults, whatever the user's own are; hands out the class to draw with.

    Characters that no installed font has become boxes, without a warning for each of them.
    """
    import matplotlib.style
    from matplotlib.figure import Figure

    style = _STYLE | {"font.family": [_FONT, *_installed(_OTHER_SCRIPTS)]}
    with _STYLE_LOCK, matplotlib.style.context(style, after_reset=True), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"(Glyph \d+|Matplotlib currently does not support)")
        yield Figure


@functools.cache
def _installed(names: tuple[str, ...]) -> tuple[str, ...]:
    from matplotlib import font_manager

    known = set(font_manager.get_font_names())
    return tuple(name for name in names if name in known)


def save_figure(figure: Figure, path: str | Path) -> None:
    """Writes a PNG (150 dpi) or an SVG, as the suffix says; the same figure gives the same bytes.

    The file appears whole or not at all.

    Raises:
        OSError: it cannot be written, or its folder is not there.
        ValueError: any other suffix.
    """
    path = Path(path)
    metadata: dict[str, dict[str, Any]] = {".png": {"Software": None}, ".svg": {"Date": None}}
    kind = path.suffix.lower()
    if kind not in metadata:
        raise ValueError(f"{path}: a figure is saved as .png or .svg.")
    buffer = io.BytesIO()
    with styled():
        figure.savefig(buffer, format=kind[1:], metadata=metadata[kind])
    write_atomic(path, buffer.getvalue())


def figure_svg(figure: Figure) -> str:
    """The figure as an SVG element for a page: transparent, its texts as texts, for the page's own fonts."""
    import matplotlib

    buffer = io.StringIO()
    with styled(), matplotlib.rc_context({"svg.fonttype": "none", "font.family": [_FONT]}):
        figure.savefig(buffer, format="svg", metadata={"Date": None}, transparent=True)
    return _with_tips(buffer.getvalue())


TIPS_PER_LINE = 40
_TIP, _NEXT = "tip: ", "\N{SYMBOL FOR RECORD SEPARATOR}"


def add_tips(axes: Axes, points: Iterable[tuple[float, float, str]]) -> None:
    """Gives points (x, y) the texts that :func:`figure_svg` keeps, for a page to show when a reader points at them."""
    x, y, texts = zip(*points, strict=True)
    axes.scatter(x, y, s=64, alpha=0.0, gid=_TIP + _NEXT.join(texts))


def _with_tips(svg: str) -> str:
    """Moves the texts of :func:`add_tips` from the group to its invisible markers: class "tip", attribute data-tip."""
    parts = re.split(rf"""<g id=(["']){_TIP}(.*?)\1>""", svg)
    shown = [parts[0]]
    for quote, texts, rest in zip(parts[1::3], parts[2::3], parts[3::3], strict=True):
        own = texts.split(_NEXT)
        pieces = rest.split("<use ", len(own))
        tips = (f"<use class={quote}tip{quote} data-tip={quote}{text}{quote} " for text in own)
        shown.append("<g>" + pieces[0] + "".join(tip + piece for tip, piece in zip(tips, pieces[1:], strict=True)))
    return "".join(shown)


@dataclass(frozen=True)
class EpochRow:
    """What one epoch left behind, on training and held-out images. Accuracies are fractions; ``lr`` is the last one."""

    epoch: int
    train_loss: float
    train_accuracy: float
    val_loss: float | None
    val_accuracy: float | None
    lr: float


def learning_curve(
    rows: Sequence[EpochRow], selected_epoch: int | None = None, held_out: str = "validation", title: str = ""
) -> Figure:
    """Loss, accuracy and learning rate over epochs; the epoch whose weights were kept is marked.

    Args:
        rows: an epoch each.
        selected_epoch: number of the epoch to mark.
        held_out: what to call the images that ``val_loss`` and ``val_accuracy`` are about.
        title: above all panels.

    Raises:
        ValueError: no rows.
    """
    if not rows:
        raise ValueError("a learning curve needs at least one epoch.")
    with styled() as new:
        from matplotlib.ticker import MaxNLocator, PercentFormatter

        figure = new(figsize=(9, 4.6), layout="constrained")
        panels = figure.subplot_mosaic([["loss", "accuracy"], ["lr", "lr"]], height_ratios=[4, 1])
        for name in ("loss", "accuracy"):
            _line(panels[name], rows, f"train_{name}", color=BLUE, label="training")
            _line(panels[name], rows, f"val_{name}", color=ORANGE, linestyle=(0, (4, 1.5)), label=held_out)
            step = -(-len(rows) // TIPS_PER_LINE)
            for part, told in (("train", "training"), ("val", held_out)):
                values = [(row.epoch, getattr(row, f"{part}_{name}")) for row in rows[::-step]]
                known = [(epoch, v) for epoch, v in values if v is not None and math.isfinite(v)]
                write = percent if name == "accuracy" else "{:.3f}".format
                if known:
                    add_tips(panels[name], [(e, v, f"epoch {e}, {told} {name}: {write(v)}") for e, v in known])
        _line(panels["lr"], rows, "lr", color=MUTED)
        panels["accuracy"].yaxis.set_major_formatter(PercentFormatter(1.0))
        panels["lr"].yaxis.set_major_locator(MaxNLocator(2))
        panels["lr"].margins(y=0.2)
        panels["lr"].set_ylim(bottom=0)
        panels["lr"].set_xlabel("epoch")
        epochs = [row.epoch for row in rows]
        margin = max(0.5, 0.02 * (max(epochs) - min(epochs)))
        for axes, heading in zip(panels.values(), ("Loss", "Accuracy", "Learning rate"), strict=True):
            axes.set_title(heading)
            axes.set_xlim(min(epochs) - margin, max(epochs) + margin)
            axes.set_xticks(epoch_ticks(min(epochs), max(epochs)))
            if selected_epoch is not None:
                axes.axvline(selected_epoch, color=INK, lw=0.9, ls=":", label=f"kept: epoch {selected_epoch}")
        panels["loss"].legend(loc="best")
        figure.supxlabel(_TRAINING_NOTE, fontsize=8.0, color=MUTED, x=0.99, ha="right")
        _entitle(figure, title)
    return figure


_TRAINING_NOTE = (
    "training: running means over augmented images, with the loss that is optimised (label smoothing included)"
)


def epoch_ticks(first: int, last: int) -> list[int]:
    """The first epoch, the last one, and few round numbers between them that keep their distance."""
    step = next(s * 10**p for p in range(9) for s in (1, 2, 5) if (last - first) / (s * 10**p) <= 7)
    inner = range(math.ceil(first / step) * step, last, step)
    return sorted({first, last, *(tick for tick in inner if min(tick - first, last - tick) > step / 2)})


def _entitle(figure: Figure, title: str) -> None:
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontsize=10.5, fontweight="bold")


def _line(axes: Axes, rows: Sequence[EpochRow], field: str, **style: Any) -> None:
    """Draws a field over epochs, without the epochs that have no value; dots too while they can be told apart."""
    points = [(row.epoch, value) for row in rows if (value := getattr(row, field)) is not None]
    if points:
        marker = "o" if len(points) <= 40 else ""
        axes.plot(*zip(*points, strict=True), linewidth=1.6, marker=marker, markersize=3.2, **style)


def row_shares(confusion: ArrayLike) -> NDArray[np.float64]:
    """(K, K) counts → each row divided by its sum; a row without images stays 0."""
    counts = np.asarray(confusion, dtype=np.float64)
    shares: NDArray[np.float64] = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1.0)
    return shares


_MOST_LABELS = 100  # of classes at an axis; more cannot be read, and take seconds to draw


def confusion_matrix(confusion: ArrayLike, classes: Sequence[str], title: str = "") -> Figure:
    """Heat map of the shares of each true class (rows) that were predicted as each class (columns).

    Args:
        confusion: (K, K) counts; written into the cells for up to 20 classes. More than 100 classes go by their number.
        classes: K names.
        title: above the matrix.

    Raises:
        ValueError: names and counts that do not match.
    """
    counts, k = np.asarray(confusion), len(classes)
    if counts.shape != (k, k):
        raise ValueError(f"confusion of shape {counts.shape} does not fit {k} classes.")
    with styled() as new:
        import seaborn as sns
        from matplotlib.colors import PowerNorm

        small, named, side = k <= 20, k <= _MOST_LABELS, min(2.8 + 0.52 * k, 13.0)
        figure = new(figsize=(side + 0.8, side), layout="compressed")
        axes = figure.add_subplot()
        sns.heatmap(
            row_shares(counts),
            ax=axes,
            norm=PowerNorm(0.5, 0.0, 1.0),  # mistakes are rare: a linear scale would hide them
            square=True,
            cmap=sns.light_palette(HEAT, as_cmap=True),
            annot=counts if small else False,
            fmt="d",
            annot_kws={"fontsize": 8.0},
            linewidths=0.8 if small else 0.0,
            xticklabels=list(classes) if named else False,
            yticklabels=list(classes) if named else False,
            cbar_kws={"shrink": 0.6, "label": "share of the true class", "aspect": 30},
            rasterized=not small,  # ten thousand squares make a slow SVG
        )
        size = 9.0 if small else max(3.0, min(9.0, 480.0 / k))
        axes.tick_params(axis="x", rotation=90 if k > 5 else 0, labelsize=size, length=0)
        axes.tick_params(axis="y", rotation=0, labelsize=size, length=0)
        unnamed = "" if named else f" ({k} classes, in their order)"
        axes.set(xlabel=f"predicted{unnamed}", ylabel=f"true{unnamed}")
        _entitle(figure, title)
    return figure


_FEW_IMAGES = 10


def calibration_diagram(bins: Sequence[CalibrationBin], title: str = "") -> Figure:
    """Reliability diagram: accuracy by confidence above, how many images have that confidence below.

    Gaps of bins with fewer than 10 images, which may well be chance, are pale.
    """
    filled = [(row, row.confidence, row.accuracy) for row in bins]
    rows = [(row, c, a) for row, c, a in filled if c is not None and a is not None]
    confidence, accuracy = [c for _, c, _ in rows], [a for _, _, a in rows]
    low, width = [row.low for row, _, _ in rows], [row.high - row.low for row, _, _ in rows]
    total = sum(row.count for row in bins)
    with styled() as new:
        from matplotlib.colors import to_rgba
        from matplotlib.ticker import PercentFormatter

        figure = new(figsize=(4.8, 5.9), layout="constrained")
        top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[3.2, 1])
        top.bar(low, accuracy, width, align="edge", color=BLUE_TINT, edgecolor=WHITE)
        top.plot([0, 1], [0, 1], color=INK, linewidth=0.9, linestyle=":", label="perfectly calibrated")
        strength = [to_rgba(ORANGE, 1.0 if row.count >= _FEW_IMAGES else 0.35) for row, _, _ in rows]
        top.vlines(confidence, confidence, accuracy, color=strength, linewidth=2.5)
        top.plot([], [], color=ORANGE, linewidth=2.5, label="gap to mean confidence")
        top.plot(confidence, accuracy, "o", color=BLUE, markersize=5, label="accuracy")
        top.set(xlim=(0, 1), ylim=(0, 1.02), ylabel="accuracy")
        top.set_title(f"Calibration error {100 * expected_calibration_error(bins):.2f}%")
        figure.legend(*top.get_legend_handles_labels(), loc="outside lower left", ncols=2, fontsize=8.5)
        _entitle(figure, title)
        bottom.bar(low, [row.count / total for row, _, _ in rows], width, align="edge", color=BLUE, edgecolor=WHITE)
        bottom.set(xlabel="confidence", ylabel="images")
        for axis in (top.yaxis, bottom.yaxis, bottom.xaxis):
            axis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    return figure
