"""What a tracker is asked to do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

Value = bool | int | float | str

PROJECT = "convmixer"
"""Project or experiment that runs are filed under, unless the tracker's own environment variable names another."""


@dataclass(frozen=True)
class TrackedRun:
    """The run that a tracker begins to follow, or follows again."""

    folder: Path
    """The run directory."""
    id: str | None
    """What ``start`` returned when the record began; None for a new record."""
    epochs: int
    """Finished so far; what the record says of later ones is void."""
    settings: Mapping[str, Value]
    """The configuration, flat."""


class Tracker(Protocol):
    """A record of one run. Calls come from one thread; an exception ends the recording, not the training."""

    def start(self, run: TrackedRun) -> str:
        """Opens the record; returns an id by which it can be continued, '' if the run directory is enough."""
        ...

    def log(self, epoch: int, values: Mapping[str, float]) -> None:
        """Records the metrics of an epoch."""
        ...

    def end(self, epoch: int, figures: Mapping[str, float], pictures: Sequence[Path]) -> None:
        """Records the final figures, named final/…, and pictures (PNG files), as of the last epoch."""
        ...

    def close(self, status: str) -> None:
        """Closes the record of a run that is finished, pruned, diverged, interrupted or crashed."""
        ...
