"""A drawing of the network from image to logits, and of what its variants exchange."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from convmixer.config import PerBlock
from convmixer.utils.visualization import (
    BLUE,
    BLUE_TINT,
    GREY_TINT,
    INK,
    LINE,
    MUTED,
    ORANGE,
    ORANGE_TINT,
    PANEL,
    WHITE,
    styled,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class _Canvas:
    """Shapes on axes that are 1 point to the unit, with y downwards from the top left corner."""

    axes: Axes

    def box(self, x: float, y: float, w: float, h: float, fill: str, edge: str = "none", radius: float = 5.0) -> Any:
        """Rounded rectangle."""
        from matplotlib.patches import FancyBboxPatch

        style = f"round,pad=0,rounding_size={radius}"
        return self.axes.add_patch(FancyBboxPatch((x, y), w, h, boxstyle=style, facecolor=fill, edgecolor=edge))

    def text(self, x: float, y: float, text: str, size: float = 11.0, colour: str = INK, **font: Any) -> None:
        """Text centred on a point, or beginning or ending there with ``ha``."""
        place: dict[str, Any] = {"ha": "center", "va": "center_baseline", **font}
        self.axes.text(x, y, text, fontsize=size, color=colour, **place)

    def polygon(self, points: Sequence[tuple[float, float]], fill: str) -> Any:
        """Closed shape."""
        return self.axes.fill(*zip(*points, strict=True), facecolor=fill, linewidth=0)[0]

    def arrow(self, *points: tuple[float, float]) -> None:
        """Line of horizontal and vertical pieces with rounded corners, and an arrow head at its end."""
        from matplotlib.patches import FancyArrowPatch
        from matplotlib.path import Path as Outline

        route = [np.array(point, dtype=float) for point in points]
        vertices, codes = [route[0]], [Outline.MOVETO]
        for before, corner, after in zip(route, route[1:], route[2:], strict=False):
            near = [corner + 8 * (side - corner) / np.hypot(*(side - corner)) for side in (before, after)]
            vertices += [near[0], corner, near[1]]
            codes += [Outline.LINETO, Outline.CURVE3, Outline.CURVE3]
        outline = Outline([*vertices, route[-1]], [*codes, Outline.LINETO])
        head = "-|>,head_length=6,head_width=3"
        self.axes.add_patch(FancyArrowPatch(path=outline, arrowstyle=head, mutation_scale=1, color=INK, linewidth=1.2))

    def unit(self, x: float, y: float, w: float, *ops: str) -> None:
        """Card around ``y``: operations from top to bottom, coloured by what they mix (positions, channels, both)."""
        top = y - 12.5 * len(ops)
        self.box(x, top - 5, w, 25 * len(ops) + 7, WHITE, LINE, radius=7)
        for i, op in enumerate(ops):
            kind, high = op.split()[0], top + 25 * i
            pill = self.box(x + 5, high, w - 10, 22, _TINTS.get(kind, GREY_TINT), radius=4)
            if kind == "Patches":  # the other half of both
                low, right = high + 22, x + w - 5
                half = [(x + 0.55 * w, high), (right, high), (right, low), (x + 0.45 * w, low)]
                self.polygon(half, ORANGE_TINT).set_clip_path(pill)
            self.text(x + w / 2, high + 11.5, op, min(11.0, (w - 16) / (0.61 * len(op))))

    def residual(self, start: float, end: float, y: float, rise: float) -> None:
        """The way around a branch, and the sum at its end."""
        self.arrow((start, y), (start, y - rise), (end, y - rise), (end, y - 9))
        self.axes.plot(end, y, "o", markersize=18, color=WHITE, markeredgecolor=INK, markeredgewidth=1.2)
        self.text(end, y, "+", 14)

    def shape(self, x: float, y: float, numbers: str, symbols: str) -> None:
        """What flows here, in numbers and in symbols."""
        self.text(x, y, numbers, 11.5, weight="bold")
        self.text(x, y + 17, symbols, 10, MUTED)

    def planes(self, x: float, y: float, n: int, fill: str, size: float, mark: str, thread: bool) -> None:
        """Feature maps side by side around x, seen at a slant; a square part of each is marked, and threaded or not."""
        left, inset = x - 13 * n + 3, (1 - size) / 2
        if thread:
            self.axes.plot([left, left + 26 * n - 6], [y + 16.5] * 2, color=mark, linewidth=1.2)
        for k in range(n):
            for colour, start, side in ((fill, 0.0, 1.0), (mark, inset, size)):
                square = [(start, start), (start + side, start), (start + side,) * 2, (start, start + side)]
                self.polygon([(left + 26 * k + 20 * i, y + 42 * j - 9 * i) for i, j in square], colour)


_TINTS = dict.fromkeys(("Patches", "Depthwise", "Average"), BLUE_TINT)
_TINTS |= dict.fromkeys(("Linear", "Pointwise"), ORANGE_TINT)


def architecture(
    dim: int = 256,
    depth: int = 8,
    kernel_size: PerBlock = 9,
    patch_size: int = 2,
    n_classes: int = 10,
    image_size: int = 32,
) -> Figure:
    """The network from image to logits, and what its three variants exchange; 900 points wide."""
    width, height = 900, 668
    kernels = f"kernel size k = {_runs(kernel_size)}"
    side = str(kernel_size) if isinstance(kernel_size, int) else "k"
    with styled() as new:
        figure = new(figsize=(width / 72, height / 72), facecolor="none")
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set(xlim=(0, width), ylim=(height, 0))
        axes.set_axis_off()
        canvas = _Canvas(axes)
        canvas.box(1, 1, width - 2, height - 2, WHITE, LINE, radius=14)
        canvas.text(32, 40, f"ConvMixer-{dim}/{depth}", 19, ha="left", weight="bold")
        sizes = f"patch size p = {patch_size}, {kernels}, image size n = {image_size}"
        canvas.text(32, 64, f"hidden dimension h = {dim}, {depth} blocks, {sizes}", 11, MUTED, ha="left")
        maps = f"{dim} × {image_size // patch_size} × {image_size // patch_size}", "h × n/p × n/p"
        canvas.shape(78, 334, f"3 × {image_size} × {image_size}", "3 × n × n")
        for x, numbers, symbols in ((264, *maps), (646, *maps), (763, f"{dim}", "h"), (850, f"{n_classes}", "classes")):
            axes.plot([x, x], [174, 322], color=LINE, linewidth=1, linestyle=(0, (2, 2)))
            canvas.shape(x, 334, numbers, symbols)
        _network(canvas, depth, side, patch_size)
        _pictograms(canvas)
        _variants(canvas, dim, side, n_classes)
    return figure


def _runs(value: PerBlock) -> str:
    """``9``, or ``9 (2 blocks), 5 (6 blocks)``: equal neighbours are counted."""
    if isinstance(value, int):
        return str(value)
    counted = [(size, len(list(group))) for size, group in itertools.groupby(value)]
    return ", ".join(f"{size} ({n} block{'s' * (n > 1)})" for size, n in counted)


def _network(canvas: _Canvas, depth: int, k: str, p: int) -> None:
    """Upper half: image, patch embedding, repeated block, pooling, classifier, along one line of arrows."""
    y = 168
    canvas.box(278, 88, 354, 220, PANEL, LINE, radius=10)
    canvas.box(568, 77, 46, 22, INK, radius=8)
    canvas.text(591, 88.5, f"× {depth}", 11.5, WHITE, weight="bold")
    _image(canvas.axes, 32, y - 46, 92)
    canvas.unit(146, y, 106, f"Patches {p}×{p}", "GELU", "BatchNorm")
    canvas.unit(314, y, 116, f"Depthwise {k}×{k}", "GELU", "BatchNorm")
    canvas.unit(504, y, 112, "Pointwise 1×1", "GELU", "BatchNorm")
    canvas.unit(660, y, 92, "Average pool")
    canvas.unit(774, y, 68, "Linear")
    for start, end in ((124, 146), (252, 314), (430, 456), (474, 504), (616, 660), (752, 774), (842, 868)):
        canvas.arrow((start, y), (end, y))
    canvas.residual(292, 465, y, rise=56)


def _image(axes: Axes, x: float, y: float, side: float) -> None:
    """A picture in 16 × 16 patches: sun, sky and hills in the figure's palette."""
    i, j = np.mgrid[:16, :16]
    masks = {
        "#1f4e79": i > 12.2 - 2.4 * np.sin(0.32 * j - 0.4),
        "#5f97cc": i > 9.8 - 2.0 * np.cos(0.4 * j - 5.2),
        ORANGE: (i - 4.5) ** 2 + (j - 10.5) ** 2 < 8,
        "#bcd6ee": i < 5,
        BLUE_TINT: i >= 0,
    }
    free, cell = np.ones_like(i, dtype=bool), side / 16
    for colour, mask in masks.items():
        down, right = np.nonzero(mask & free) + np.array(0.5)
        axes.plot(x + cell * right, y + cell * down, "s", color=colour, markersize=0.9 * cell, markeredgewidth=0)
        free &= ~mask


def _pictograms(canvas: _Canvas) -> None:
    """Under each operation, which values it mixes: a patch of positions, a thread of channels."""
    for x, n, fill, size, mark, thread, text in (
        (199, 3, BLUE_TINT, 0.4, ORANGE, True, "mixes both"),
        (372, 4, BLUE_TINT, 0.45, BLUE, False, "mixes positions"),
        (560, 4, ORANGE_TINT, 0.2, ORANGE, True, "mixes channels"),
        (706, 4, BLUE_TINT, 0.85, BLUE, False, "averages positions"),
        (806, 3, "none", 0.2, ORANGE, True, "mixes channels"),
    ):
        canvas.planes(x, 236, n, fill, size, mark, thread)
        canvas.text(x, 296, text, 10, MUTED)


def _variants(canvas: _Canvas, dim: int, k: str, n_classes: int) -> None:
    """Lower half: the parts that are exchanged."""
    top, height, y = 416, 228, 550
    canvas.text(32, 394, "Variants", 13, ha="left", weight="bold")
    canvas.text(106, 394.5, "each exchanges one part and keeps the rest", 11, MUTED, ha="left")
    for x, w, name, what in (
        (32, 176, "ConvMixerRH", "in place of Linear"),
        (224, 176, "ConvMixerLC", "in place of Linear"),
        (416, 452, "ConvMixerBN", "in place of the residual branch"),
    ):
        canvas.box(x, top, w, height, PANEL, LINE, radius=10)
        canvas.text(x + 16, top + 20, name, 12, ha="left", weight="bold")
        canvas.text(x + 16, top + 38, what, 10.5, MUTED, ha="left")
    hidden, half = 256, dim // 2
    layers = "GELU", f"Linear {hidden} → {hidden}", f"LayerNorm {hidden}", f"Linear {hidden} → {n_classes}"
    canvas.unit(48, y, 144, f"LayerNorm {dim}", f"Linear {dim} → {hidden}", *layers)
    canvas.unit(240, y, 144, f"BatchNorm {dim}", "Dropout 0.2", f"Linear {dim} → {n_classes}")
    for x, op, numbers, symbols in (
        (464, "Pointwise 1×1", f"{dim} → {half}", "h → h/2"),
        (584, f"Depthwise {k}×{k}", f"{half}", "h/2"),
        (704, "Pointwise 1×1", f"{half} → {dim}", "h/2 → h"),
    ):
        canvas.unit(x, y, 106, op, "GELU", "BatchNorm")
        canvas.shape(x + 53, y + 58, numbers, symbols)
    for start, end in ((424, 464), (570, 584), (690, 704), (810, 823), (841, 860)):
        canvas.arrow((start, y), (end, y))
    canvas.residual(444, 832, y, rise=58)
