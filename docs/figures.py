"""Draws the pictures of the documentation again: ``python docs/figures.py``."""

from __future__ import annotations

from pathlib import Path

from convmixer.utils.visualization import architecture, save_figure

HERE = Path(__file__).parent


def draw(folder: Path) -> None:
    """Writes every picture into ``folder``."""
    figure = architecture(dim=256, depth=8, kernel_size=9, patch_size=2, n_classes=10, image_size=32)
    save_figure(figure, folder / "architecture.svg")


if __name__ == "__main__":
    draw(HERE)
