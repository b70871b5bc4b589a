"""The images of a run, and their splits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from msgspec import Meta

from convmixer.config.fields import INCIDENTAL, BadImages, Count, Positive
from convmixer.datasets import DATASETS, loader_of
from convmixer.errors import nearest
from convmixer.records import Checked


@dataclass(frozen=True, kw_only=True)
class DataConfig(Checked):
    """Which images, and how they are split."""

    dataset: str = "cifar10"
    """Name of a data set, such as digits or cifar10, or folder:PATH (PATH/train/<class>/* and PATH/test/<class>/*, or
    PATH/<class>/*)."""
    image_size: Positive | None = None
    """Side in pixels that the images of a folder are resized and cropped to; by default their own where all agree."""
    val_fraction: Annotated[float, Meta(ge=0, le=0.9)] = 0.1
    """Fraction of the training images held out, stratified by class, to choose the epoch whose weights are kept."""
    test_fraction: Annotated[float, Meta(ge=0.01, le=0.9)] = 0.2
    """Fraction of a folder without a test split to set aside as one."""
    split_seed: Count = 0
    """Seed of these splits. Kept apart from the run's seed, so that runs with different seeds see the same split."""
    bad_images: BadImages = field(default="fail", metadata=INCIDENTAL)
    """What to do if files of a folder cannot be read as images: fail, or skip them and say which."""
    data_dir: str = field(default="data", metadata=INCIDENTAL)
    """Directory to search for archives and download to."""
    source: str | None = field(default=None, metadata=INCIDENTAL)
    """Where to download an archive from instead of the known hosts: an https:// URL, hub (Hugging Face), or none, which
    never downloads."""

    def _problems(self) -> Iterator[str]:
        if loader_of(self.dataset) is None:
            hint = nearest(self.dataset, DATASETS)
            if Path(self.dataset).is_dir():
                hint = f"for the folder of that name give {f'folder:{self.dataset}'!r}."
            yield f"`dataset`: {self.dataset!r} is unknown; {hint}"
