"""Figures of learned weights: depthwise kernels and patch embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from convmixer.utils.visualization import BLUE, ORANGE, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_WIDTH = 4.5


def kernel_sheet(blocks: Sequence[ArrayLike], columns: int = 16) -> Figure:
    """Depthwise kernels, a row for each block: blue is positive, orange negative, each scaled by its largest weight.

    Args:
        blocks: (dim, k, k) each, k may differ; of more channels than ``columns`` some are shown, evenly spaced.
        columns: channels to show.
    """
    shown = [_spread(np.asarray(block, dtype=np.float64), columns) for block in blocks]
    size = max(block.shape[-1] for block in shown)
    tiles = [_centred(kernel / (np.abs(kernel).max() or 1.0), size) for block in shown for kernel in block]
    with styled() as new:
        from matplotlib.colors import LinearSegmentedColormap

        sheet = tiled(tiles, max(map(len, shown)))
        figure = new(figsize=(_WIDTH, 0.45 + _WIDTH * sheet.shape[0] / sheet.shape[1]), layout="constrained")
        axes = figure.add_subplot()
        colours = LinearSegmentedColormap.from_list("signed", [ORANGE, "#fbfaf8", BLUE])
        axes.imshow(sheet, cmap=colours, vmin=-1, vmax=1, interpolation="nearest")
        step = size + 1
        axes.set_yticks([step * i + (step - 2) / 2 for i in range(len(shown))], [f"{i + 1}" for i in range(len(shown))])
        axes.set_ylabel("block")
        _bare(axes)
    return figure


def _centred(kernel: NDArray[np.float64], size: int) -> NDArray[np.float64]:
    """A kernel in the middle of a tile of ``size`` × ``size``; NaN around it."""
    margin = (size - kernel.shape[-1]) // 2
    return np.pad(kernel, margin, constant_values=np.nan)


def embedding_sheet(weights: ArrayLike, columns: int = 16, limit: int = 64) -> Figure:
    """Patch embeddings as small images, all on one scale on which grey is 0; without colours for one channel.

    Args:
        weights: (dim, C, p, p), C of 1 or 3.
        columns: images in a row.
        limit: images at most, evenly spaced.
    """
    chosen = _spread(np.asarray(weights, dtype=np.float64), limit)
    images = np.clip(0.5 + 0.5 * chosen / (np.quantile(np.abs(chosen), 0.99) or 1.0), 0.0, 1.0)
    images = np.broadcast_to(images, (len(images), 3, *images.shape[2:])).transpose(0, 2, 3, 1)
    with styled() as new:
        sheet = tiled(list(images), min(columns, len(images)), gap=1)
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
