"""What a training run shows: a progress bar on a terminal, a line for every epoch anywhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as ProgressBar

from convmixer.runs import EpochRecord
from convmixer.runtime.progress import draws_bars
from convmixer.training.observers import Progress, RunObserver


class TrainingDisplay(RunObserver):
    """Progress of ``epochs`` × ``steps_per_epoch`` steps; the bar is drawn on terminals and in notebooks only."""

    def __init__(self, console: Console, epochs: int, steps_per_epoch: int) -> None:
        self.console, self.epochs, self.steps_per_epoch = console, epochs, steps_per_epoch
        self.bar = ProgressBar(
            TextColumn("epoch {task.fields[epoch]}/{task.fields[epochs]}"),
            BarColumn(),
            TextColumn("loss {task.fields[loss]:.3f}  acc {task.fields[accuracy]:.1%}  {task.fields[rate]:.0f} img/s"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not draws_bars(console),
        )
        fields: dict[str, Any] = {"epoch": 1, "loss": 0.0, "accuracy": 0.0, "rate": 0.0}
        total = epochs * steps_per_epoch
        self.task = self.bar.add_task("training", total=total, epochs=epochs, **fields)

    def on_start(self, records: Sequence[EpochRecord]) -> None:
        """Draws the bar."""
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
        """Prints the line of a finished epoch."""
        parts = [
            f"epoch {record.epoch:>{len(str(self.epochs))}}/{self.epochs}",
            f"loss {record.train_loss:.4f}",
            f"train {record.train_accuracy:.2%}",
        ]
        for name in ("val", "ema_val", "test", "ema_test"):
            accuracy = getattr(record, f"{name}_accuracy")
            if accuracy is not None:
                parts.append(f"{name.replace('_', ' ')} {accuracy:.2%}")
        parts += [f"lr {record.lr:.2e}", f"{record.seconds:.1f} s", f"{record.images_per_second:.0f} img/s"]
        self.console.print("  ".join(parts), highlight=False, markup=False)
