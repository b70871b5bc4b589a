"""What a training run shows: a progress bar on a terminal, a line for every epoch anywhere."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as ProgressBar

from convmixer.runs import EpochRecord
from convmixer.runtime.progress import draws_bars
from convmixer.training.observers import Progress, RunObserver

_WIDTH = 80


def _spoken(seconds: float) -> str:
    """About how long: 45 s, 12 min, 3.5 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


class TrainingDisplay(RunObserver):
    """Progress of ``epochs`` × ``steps_per_epoch`` steps; the bar is drawn on terminals and in notebooks only.

    The line of an epoch has 80 characters at most, if the figures let it.
    """

    def __init__(self, console: Console, epochs: int, steps_per_epoch: int) -> None:
        self.console, self.epochs, self.steps_per_epoch = console, epochs, steps_per_epoch
        self.bar = ProgressBar(
            TextColumn("epoch {task.fields[epoch]}/{task.fields[epochs]}"),
            BarColumn(),
            TextColumn("loss {task.fields[loss]:.3f}  acc {task.fields[accuracy]:.1%}  {task.fields[rate]:.0f} img/s"),
            TimeRemainingColumn(),
            TextColumn("left"),
            console=console,
            transient=True,
            disable=not draws_bars(console),
        )
        fields: dict[str, Any] = {"epoch": 1, "loss": 0.0, "accuracy": 0.0, "rate": 0.0}
        total = epochs * steps_per_epoch
        self.task = self.bar.add_task("training", total=total, epochs=epochs, **fields)

    def on_start(self, records: Sequence[EpochRecord]) -> None:
        """Draws the bar."""
        self.best = max((r.selection_metrics()[1] or 0.0 for r in records), default=0.0)
        self.first, self.began = len(records), time.monotonic()
        self.bar.start()

    def on_end(self) -> None:
        """Removes the bar."""
        self.bar.stop()

    def on_step(self, progress: Progress) -> None:
        """Moves the bar and shows the running means."""
        completed = (progress.epoch - 1) * self.steps_per_epoch + progress.step
        fields: dict[str, Any] = {"epoch": progress.epoch, "loss": progress.loss, "accuracy": progress.accuracy}
        self.bar.update(self.task, completed=completed, rate=progress.images_per_second, **fields)

    def on_epoch(self, record: EpochRecord) -> None:
        """Prints the line of a finished epoch; "best" marks one that no earlier epoch was better than."""
        parts = [
            f"epoch {record.epoch:>{len(str(self.epochs))}}/{self.epochs}",
            f"loss {record.train_loss:.4f}",
            f"train {record.train_accuracy:.2%}",
        ]
        for name in ("val", "ema_val", "test", "ema_test"):
            accuracy = getattr(record, f"{name}_accuracy")
            if accuracy is not None:
                parts.append(f"{name.replace('_', ' ')} {accuracy:.2%}")
        score = record.selection_metrics()[1]
        if score is not None:
            parts[-1] += " best" if score >= self.best else " " * len(" best")
            self.best = max(self.best, score)
        left = (self.epochs - record.epoch) * (time.monotonic() - self.began) / (record.epoch - self.first)
        ends = [f"{record.seconds:.1f} s", f"{_spoken(left)} left"] if left else [f"{record.seconds:.1f} s"]
        rate = f"{record.images_per_second:.0f} img/s"
        for extra in ([*ends, rate], ends, ends[:1], []):
            line = "  ".join([*parts, *extra])
            if len(line) <= _WIDTH:
                break
        self.console.print(line, highlight=False, markup=False)
