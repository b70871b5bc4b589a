"""Sheets of many small images with captions: samples of a data set, mistakes of a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from unicodedata import east_asian_width

import numpy as np
from numpy.typing import NDArray

from convmixer.runtime.terminal import printable
from convmixer.utils.visualization import INK, MUTED, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Pixels = NDArray[np.uint8]
"""(C, H, W), C being 1 or 3."""

MOST_CLASSES = 1000
"""That a sheet of samples shows."""
_DPI = 150
_LINE = 19  # pixels of a line of text
_MARGIN = 16


@dataclass
class _Canvas:
    """A white picture of a fixed size, with texts on it; lengths in pixels from the upper left corner."""

    width: int
    height: int
    texts: list[_Line] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.pixels = np.full((self.height, self.width, 3), 255, dtype=np.uint8)

    def paste(self, image: NDArray[np.uint8], left: int, top: int) -> None:
        """Puts an image (H, W, 3) onto the canvas."""
        self.pixels[top : top + image.shape[0], left : left + image.shape[1]] = image

    def write(self, text: str, left: int, top: int, room: int, **style: Any) -> None:
        """Puts a line of text onto the canvas, shortened to ``room`` pixels."""
        self.texts.append(_Line(printable(text), left, top, room, **style))

    def figure(self) -> Figure:
        """The picture, a pixel of the canvas being one of a PNG."""
        with styled() as new:
            from matplotlib.transforms import Bbox, TransformedBbox

            figure = new(figsize=(self.width / _DPI, self.height / _DPI), dpi=_DPI)
            axes = figure.add_axes((0, 0, 1, 1))
            axes.set_axis_off()
            axes.imshow(self.pixels, extent=(0, self.width, self.height, 0), interpolation="nearest", aspect="auto")
            axes.set(xlim=(0, self.width), ylim=(self.height, 0))
            for line in self.texts:
                style: dict[str, Any] = {
                    "fontsize": line.size,
                    "color": line.color,
                    "weight": "bold" if line.bold else "normal",
                }
                drawn = axes.text(line.left, line.top, line.shortened(), va="top", clip_on=True, **style)
                room = Bbox.from_bounds(line.left, line.top, line.room, 2 * _LINE)
                drawn.set_clip_box(TransformedBbox(room, axes.transData))
        return figure


@dataclass(frozen=True)
class _Line:
    """A line of text below ``top``."""

    text: str
    left: int
    top: int
    room: int
    size: float = 7.5
    color: str = INK
    bold: bool = False

    def shortened(self) -> str:
        """The text without its middle if it would be too wide; widths are estimated, and what is wider is cut off."""
        unit = (0.68 if self.bold else 0.58) * self.size * _DPI / 72
        width, fitting = 0.0, 0
        for letter in self.text:
            width += unit * (1.75 if east_asian_width(letter) in "WF" else 1.0)
            fitting += width <= self.room
        if width <= self.room:
            return self.text
        end = fitting // 3  # names that differ in a number do so there
        return self.text[: max(fitting - end - 1, 1)] + "…" + self.text[len(self.text) - end :]


@dataclass(frozen=True)
class ClassSamples:
    """A class of a sheet: its images as they are stored, and the same ones as training sees them."""

    name: str
    stored: Sequence[Pixels]
    augmented: Sequence[Pixels]


def samples_per_class(n_classes: int) -> int:
    """How many images of each class a sheet has room for."""
    return next(count for most, count, _ in _ROOM if n_classes <= most or most == MOST_CLASSES)


_ROOM = ((12, 8, 64), (40, 6, 64), (150, 4, 48), (MOST_CLASSES, 2, 32))  # classes, images of each, their side


def sample_sheet(classes: Sequence[ClassSamples], title: str, recipe: str) -> Figure:
    """A strip of images for each class: as stored on the left, augmented on the right.

    Args:
        classes: what to show; no more than :data:`MOST_CLASSES` are.
        title: first line.
        recipe: what the augmentation is called.

    Raises:
        ValueError: no classes.
    """
    if not classes:
        raise ValueError("a sheet needs at least one class.")
    shown = classes[:MOST_CLASSES]
    side = next(side for most, _, side in _ROOM if len(shown) <= most)
    count = max(max(len(row.stored), len(row.augmented)) for row in shown) or 1
    half = count * (side + 2)
    block, strip = 2 * half + 2 * _MARGIN, _LINE + side + 8
    columns = max(1, min(len(shown), round((len(shown) * strip / block) ** 0.5)))
    rows = -(-len(shown) // columns)
    top = 3 * _LINE + _MARGIN + 6
    width = max(columns * block, 900) + _MARGIN
    canvas = _Canvas(width, top + rows * strip + _MARGIN)
    canvas.write(title, _MARGIN, _MARGIN, width - 2 * _MARGIN, size=10, bold=True)
    left_out = f"; the first {MOST_CLASSES} of {len(classes)} classes" if len(classes) > len(shown) else ""
    legend = f"Left: as stored. Right: the same images as training sees them with {recipe}{left_out}."
    canvas.write(legend, _MARGIN, _MARGIN + _LINE + 8, width - 2 * _MARGIN, color=MUTED)
    for number, row in enumerate(shown):
        left, y = _MARGIN + number // rows * block, top + number % rows * strip
        canvas.write(row.name, left, y, 2 * half, bold=True)
        for images, start in ((row.stored, left), (row.augmented, left + half + 10)):
            for place, image in enumerate(images[:count]):
                canvas.paste(_thumbnail(image, side), start + place * (side + 2), y + _LINE)
    return canvas.figure()


@dataclass(frozen=True)
class JudgedImage:
    """An image of a gallery with two lines below it; ``activation`` (H', W') is shown as a heat map beside it."""

    image: Pixels
    first: str
    second: str
    activation: NDArray[np.float32] | None = None


def gallery(sections: Sequence[tuple[str, Sequence[JudgedImage]]], columns: int = 6) -> Figure:
    """Images with captions in sections, each image beside the heat map of its class activation.

    Args:
        sections: a heading with its images; empty ones show the heading alone.
        columns: images in a row.

    Raises:
        ValueError: no sections.
    """
    if not sections:
        raise ValueError("a gallery needs at least one section.")
    side = 96
    mapped = any(item.activation is not None for _, items in sections for item in items)
    cell, line = (2 * side + 2 if mapped else side + 36) + 14, side + 2 * _LINE + 10
    heights = [_LINE + 28 + -(-len(items) // columns) * line for _, items in sections]
    canvas = _Canvas(2 * _MARGIN + columns * cell, 2 * _MARGIN + sum(heights))
    top = _MARGIN
    for (heading, items), height in zip(sections, heights, strict=True):
        canvas.write(heading, _MARGIN, top, columns * cell, size=9.5, bold=True)
        for number, item in enumerate(items):
            left, y = _MARGIN + number % columns * cell, top + _LINE + 12 + number // columns * line
            picture = _thumbnail(item.image, side)
            canvas.paste(picture, left, y)
            if item.activation is not None:
                canvas.paste(_heat(picture, item.activation), left + side + 2, y)
            canvas.write(item.first, left, y + side + 3, cell - 14)
            canvas.write(item.second, left, y + side + 3 + _LINE, cell - 14, color=MUTED)
        top += height
    return canvas.figure()


def _thumbnail(image: Pixels, side: int) -> NDArray[np.uint8]:
    """(C, H, W) → (side, side, 3): pixels kept sharp if there are fewer than ``side``, averaged if there are more."""
    from PIL import Image

    picture = Image.fromarray(image[0] if image.shape[0] == 1 else np.ascontiguousarray(image.transpose(1, 2, 0)))
    method = Image.Resampling.NEAREST if image.shape[-1] <= side else Image.Resampling.BOX
    return np.asarray(picture.convert("RGB").resize((side, side), method))


def _heat(picture: NDArray[np.uint8], activation: NDArray[np.float32]) -> NDArray[np.uint8]:
    """(side, side, 3) in grey, coloured the more strongly the higher the activation is within its own range."""
    from matplotlib import colormaps
    from PIL import Image

    low, high = float(activation.min()), float(activation.max())
    scaled = (activation - low) / (high - low or 1.0)
    # Not smoothed: a value belongs to a patch, and the file has half the size.
    spread = Image.fromarray(scaled.astype(np.float32)).resize(picture.shape[:2][::-1], Image.Resampling.NEAREST)
    share = np.asarray(spread).clip(0, 1)
    grey = picture.mean(axis=2, keepdims=True).repeat(3, axis=2)
    colour = 255 * colormaps["inferno"](share)[..., :3]
    opacity = 0.75 * share[..., None]
    blended: NDArray[np.uint8] = np.rint(grey * (1 - opacity) + colour * opacity).astype(np.uint8)
    return blended
