"""The files that a data set was made of: their formats, sizes and shapes before they are scaled and cut."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from convmixer.data.images import BadImage, header, in_threads, upright_size

MOST_FILES = 20_000
"""That are looked at; of more files evenly spaced ones."""
_COMMON = 5


@dataclass(frozen=True)
class Range:
    """Smallest, middle and largest of some numbers."""

    smallest: float
    median: float
    largest: float

    @classmethod
    def over(cls, values: Sequence[float]) -> Range:
        """The range of at least one number."""
        return cls(min(values), median(values), max(values))


@dataclass(frozen=True)
class Originals:
    """What the image files are. Widths and heights in pixels, with the image upright; aspect is width / height."""

    files: int
    examined: int
    unreadable: int
    formats: dict[str, int]
    modes: dict[str, int]
    """Pillow's names: L is grey, RGB colour, RGBA colour with transparency, P a palette."""
    width: Range
    height: Range
    aspect: Range
    common_sizes: dict[str, int]
    """The most frequent sizes, as width×height."""
    distinct_sizes: int
    enlarged: int
    """Files whose shorter side has fewer pixels than the model sees."""
    cut: Range
    """Fraction of an image that lies outside the square in its centre."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def describe_originals(
    paths: Sequence[Path], image_size: int, on_progress: Callable[[int], None] = lambda done: None
) -> Originals | None:
    """Reads the headers of image files; None if none of them can be read.

    Args:
        paths: at least one file.
        image_size: side in pixels that the images are scaled to.
        on_progress: called with the number of files done.
    """
    step = -(-len(paths) // MOST_FILES)
    chosen = list(paths)[::step]

    def work(index: int) -> tuple[str, str, tuple[int, int]] | None:
        try:
            with chosen[index].open("rb") as file:  # not all of it is read
                image = header(file)
                return image.format or "", image.mode, upright_size(image)
        except (BadImage, OSError):
            return None

    examined = in_threads(work, len(chosen), on_progress)
    found = [entry for entry in examined if entry is not None]
    if not found:
        return None
    sizes = Counter(size for _, _, size in found)
    widths, heights = [width for _, _, (width, _) in found], [height for _, _, (_, height) in found]
    return Originals(
        files=len(paths),
        examined=len(chosen),
        unreadable=len(chosen) - len(found),
        formats=dict(Counter(kind for kind, _, _ in found).most_common()),
        modes=dict(Counter(mode for _, mode, _ in found).most_common()),
        width=Range.over(widths),
        height=Range.over(heights),
        aspect=Range.over([width / height for width, height in zip(widths, heights, strict=True)]),
        common_sizes={f"{width}×{height}": n for (width, height), n in sizes.most_common(_COMMON)},
        distinct_sizes=len(sizes),
        enlarged=sum(min(size) < image_size for _, _, size in found),
        cut=Range.over([1 - min(size) / max(size) for _, _, size in found]),
    )
